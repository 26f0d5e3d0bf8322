"""The image detector in a real RunEngine: its files, and the reconstruction of what is in them."""

import bluesky.plans as bp
import event_model
import numpy as np
import pytest
from bluesky import RunEngine

from nfphasing_bluesky.core import FrameError, HologramGeometry, ReconstructionSettings, StreamSettings
from nfphasing_bluesky.demo.images import ReplayImages, simulated_holograms
from nfphasing_bluesky.demo.subjects import HOLOGRAM, HOLOGRAM_SIDE
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.models import shipped
from nfphasing_bluesky.storage.catalogs import close_catalog, embedded_catalog
from nfphasing_bluesky.storage.queries import density_dataset, reconstructions_of
from nfphasing_bluesky.streaming.callback import ReconstructionCallback
from tests.untrained import untrained

SAMPLES = ("cells", "aggregates")
METADATA = {"nfphasing": {"geometry": dict(HOLOGRAM)}}


class Heard:
    def __init__(self):
        self.frames, self.stopped = [], []

    def run_started(self, start):
        pass

    def frame(self, frame):
        self.frames.append(frame)

    def run_stopped(self, raw_uid, exit_status, reason):
        self.stopped.append(exit_status)


@pytest.fixture(scope="module")
def images():
    return simulated_holograms(SAMPLES, HOLOGRAM_SIDE, dict(HOLOGRAM))


@pytest.fixture
def engine():
    """A RunEngine whose documents are checked against event-model's schemas."""

    def check(name, doc):
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)

    RE = RunEngine({})
    RE.subscribe(check)
    return RE


@pytest.fixture
def camera(images, tmp_path):
    return ReplayImages("camera", tmp_path / "detector", images, SAMPLES)


def test_every_exposure_is_a_frame_over_the_empty_beam(engine, camera, images):
    heard = Heard()
    engine.subscribe(FrameRouter(heard, StreamSettings(data_key="camera_image")))
    engine(bp.count([camera], num=3), **METADATA)
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 2, 3] and heard.stopped == ["success"]
    for frame, image in zip(heard.frames, [images[0], images[1], images[0]], strict=True):
        assert isinstance(frame.geometry, HologramGeometry)
        np.testing.assert_allclose(frame.intensity, image / HOLOGRAM["photons"])
        assert float(np.median(frame.intensity)) == pytest.approx(1.0, abs=0.05)


def test_two_scans_write_two_files(engine, camera, tmp_path):
    for _ in range(2):
        engine(bp.count([camera], num=1))
    assert len(list((tmp_path / "detector").glob("*.h5"))) == 2


def test_samples_are_named_in_the_events(engine, camera):
    events = []
    engine.subscribe(lambda name, doc: events.append(doc["data"]["camera_sample"]), "event")
    engine(bp.count([camera], num=3))
    assert events == ["cells", "aggregates", "cells"]


@pytest.mark.parametrize("shapes", [[], [(8, 8), (8, 9)]])
def test_images_that_do_not_belong_together_are_refused(tmp_path, shapes):
    with pytest.raises(FrameError, match="one shape"):
        ReplayImages("camera", tmp_path, [np.ones(s) for s in shapes], ["x"] * len(shapes))


def reconstructed(engine, camera, folder, model):
    """The density of a run of two holograms, and its catalog."""
    settings = ReconstructionSettings(n_samples=16)
    callback = ReconstructionCallback(
        model, folder, data_key="camera_image", reconstruction=settings, worker="thread"
    )
    try:
        engine.subscribe(callback)
        uid = engine(bp.count([camera], num=2), **METADATA)
        uid = getattr(uid, "run_start_uids", uid)[0]
        assert callback.wait(280), callback.trouble
    finally:
        callback.close()
    catalog = embedded_catalog(folder)
    (run,) = reconstructions_of(catalog, uid)
    return density_dataset(run), catalog


def test_holograms_become_a_derived_run_of_images(engine, camera, tmp_path):
    assert "holography" in shipped()
    density, catalog = reconstructed(engine, camera, tmp_path / "catalog", "holography")
    try:
        assert density["density_mean"].dims == ("time", "y", "x")
        assert density["density_mean"].shape == (2, HOLOGRAM_SIDE, HOLOGRAM_SIDE)
        assert density["density_mean"].attrs["units"] == "e/angstrom^2"
        assert density["x"].attrs["units"] == "m"
        assert float(density["x"][-1]) == pytest.approx((HOLOGRAM_SIDE - 1) * HOLOGRAM["pixel_size_m"])
        assert float(density["density_mean"].max()) > 1e3
        assert float(density["density_std"].min()) > 0
        assert np.isfinite(density["mean_phase_rad"]).all()
    finally:
        close_catalog(catalog)


def test_holograms_become_phase_and_absorption(engine, camera, tmp_path):
    model = str(untrained("holography-free", tmp_path / "model"))
    density, catalog = reconstructed(engine, camera, tmp_path / "catalog", model)
    try:
        assert density["density_mean"].dims == ("time", "part", "y", "x")
        assert density["density_mean"].shape == (2, 2, HOLOGRAM_SIDE, HOLOGRAM_SIDE)
        assert density["density_mean"].attrs["units"] == "rad"
        assert density.attrs["quantity"] == "phase and absorption"
        assert float(density["density_std"].min()) > 0
        assert ((density["mean_transmission"] > 0) & (density["mean_transmission"] < 1.3)).all()
    finally:
        close_catalog(catalog)
