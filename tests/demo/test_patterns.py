"""Oriented particles through a RunEngine: geometry from the start document, gaps, a derived run."""

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from nfphasing_bluesky.core import DetectorGeometry, Frame, ReconstructionSettings, StreamSettings
from nfphasing_bluesky.demo.images import ReplayImages
from nfphasing_bluesky.demo.patterns import BEAM_STOP_PX, GAP, GEOMETRY, PARTICLES, SIDE, simulated_patterns
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.models import shipped
from nfphasing_bluesky.storage.catalogs import close_catalog, embedded_catalog
from nfphasing_bluesky.storage.queries import density_dataset, reconstructions_of
from nfphasing_bluesky.streaming.callback import ReconstructionCallback

RODS = "rods along 30°"
METADATA = {"nfphasing": {"geometry": dict(GEOMETRY)}}


@pytest.fixture(scope="module")
def images():
    return simulated_patterns({RODS: PARTICLES[RODS]})


@pytest.fixture
def camera(images, tmp_path):
    return ReplayImages("area", tmp_path / "detector", images, [RODS])


class Heard:
    def __init__(self):
        self.frames = []

    def run_started(self, start):
        pass

    def frame(self, frame):
        self.frames.append(frame)

    def run_stopped(self, raw_uid, exit_status, reason):
        pass


def test_documents_say_geometry_and_dead_pixels(camera, images):
    heard = Heard()
    RE = RunEngine({})
    RE.subscribe(FrameRouter(heard, StreamSettings(data_key="area_image")))
    RE(bp.count([camera], num=1), **METADATA)
    (frame,) = heard.frames
    assert isinstance(frame, Frame) and frame.geometry == DetectorGeometry(**GEOMETRY)
    assert frame.mask[GAP].all() and frame.mask.sum() > 4 * SIDE + 3 * BEAM_STOP_PX**2
    np.testing.assert_array_equal(frame.intensity[~frame.mask], images[0][~frame.mask])


def test_patterns_become_a_derived_run_of_projections(camera, tmp_path):
    assert "saxs2d-oriented" in shipped()
    settings = ReconstructionSettings(n_samples=48)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:, :4] = True
    np.save(tmp_path / "mask.npy", mask)
    callback = ReconstructionCallback(
        "saxs2d-oriented",
        tmp_path / "catalog",
        data_key="area_image",
        reconstruction=settings,
        settings=StreamSettings(mask=tmp_path / "mask.npy"),
        worker="thread",
    )
    try:
        RE = RunEngine({})
        RE.subscribe(callback)
        uid = RE(bp.count([camera], num=2), **METADATA)
        uid = getattr(uid, "run_start_uids", uid)[0]
        assert callback.wait(280), callback.trouble
    finally:
        callback.close()
    catalog = embedded_catalog(tmp_path / "catalog")
    try:
        (run,) = reconstructions_of(catalog, uid)
        density = density_dataset(run)
        assert density["density_mean"].dims == ("time", "y", "x")
        assert density["density_mean"].attrs["units"] == density["x"].attrs["units"] == "angstrom"
        assert set(density["verdict"].values.astype(str)) <= {"VALID", "WARNING"}
        np.testing.assert_allclose(density["phi_deg"], PARTICLES[RODS].phi, atol=0.5)
        np.testing.assert_allclose(density["radius_angstrom"], PARTICLES[RODS].sizes[0], rtol=0.02)
        # the rod lies along phi, y up
        image = density["density_mean"][0]
        along = np.deg2rad(PARTICLES[RODS].phi)
        place = {"x": 100 * np.cos(along), "y": 100 * np.sin(along)}
        assert float(image.sel(**place, method="nearest")) > 60
        assert float(image.sel(x=place["x"], y=-place["y"], method="nearest")) < 5
    finally:
        close_catalog(catalog)
