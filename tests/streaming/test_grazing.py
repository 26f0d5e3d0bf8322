"""Frames of a surface from raw documents to a derived run, through the shipped model alone."""

import event_model
import numpy as np
import pytest

from nfphasing_bluesky.core import ReconstructionSettings, StreamSettings
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.streaming.processor import StreamProcessor
from tests.cli.test_grazing import counts as counts  # noqa: PLC0414  a fixture
from tests.untrained import few_fits, untrained

GEOMETRY = {
    "wavelength_m": 1.3e-10,
    "distance_m": 2.0,
    "pixel_size_m": [0.6e-3, 0.6e-3],
    "poni_m": [100 * 0.6e-3, 75 * 0.6e-3],
    "incidence_degree": 0.4,
}


def run_of(frames, geometry):
    """Yield the documents of a run with one frame an event."""
    run = event_model.compose_run(metadata={"nfphasing": {"geometry": geometry}})
    yield "start", run.start_doc
    key = {"source": "sim", "dtype": "array", "shape": list(frames[0].shape)}
    bundle = run.compose_descriptor(name="primary", data_keys={"pilatus": key})
    yield "descriptor", bundle.descriptor_doc
    for i, frame in enumerate(frames):
        yield "event", bundle.compose_event(data={"pilatus": frame}, timestamps={"pilatus": float(i)})
    yield "stop", run.compose_stop()


@pytest.fixture(scope="module")
def reconstructor() -> Reconstructor:
    return Reconstructor.load("gisaxs1d", "cpu", ReconstructionSettings(n_samples=8))


@pytest.fixture
def derived(raw, reconstructor):
    def run(frames, geometry=GEOMETRY, model=reconstructor) -> list:
        documents: list = []
        processor = StreamProcessor(
            StreamSettings(),
            raw.MemoryStore(),
            [lambda name, doc: documents.append((name, doc))],
            reconstructor=model,
        )
        for item in run_of(frames, geometry):
            processor(*item)
        return documents

    return run


def column(documents, name) -> list:
    return [v for n, d in documents if n == "event_page" and name in d["data"] for v in d["data"][name]]


def test_frames_of_a_surface_become_a_derived_run(derived, counts):
    documents = derived([counts, 2 * counts])
    assert column(documents, "raw_seq_num") == [1, 2]
    assert all(10 <= radius <= 120 for radius in column(documents, "radius_angstrom"))
    # of films there may be no draw, or one, which says nothing of its error
    assert np.all(np.array(column(documents, "film_density_e_per_cubic_angstrom_std")) != 0)
    probability = np.array([column(documents, f"probability_{name}") for name in ("supported", "buried")])
    np.testing.assert_allclose(probability.sum(0), 1, atol=1e-6)


def test_a_horizon_elsewhere_is_a_failed_event_with_its_reason(derived, counts):
    moved = {**GEOMETRY, "poni_m": [85 * 0.6e-3, 75 * 0.6e-3]}
    documents = derived([counts], moved)
    assert column(documents, "verdict") == ["ALARM"]
    assert "surface scatters from row" in column(documents, "reason")[0]


def test_a_model_of_frames_is_given_them_whole(derived, counts, tmp_path):
    folder = untrained("gisaxs2d", tmp_path / "model")
    model = Reconstructor.load(folder, "cpu", ReconstructionSettings(n_samples=8))
    with few_fits():
        documents = derived([counts], model=model)
    assert not np.isnan(column(documents, "reduced_chi2")).any()
    (start,) = (doc for name, doc in documents if name == "start")
    assert start["nfphasing"]["modality"] == "gisaxs2d"
    assert 10 <= column(documents, "radius_angstrom")[0] <= 120
