"""Two-dimensional frames: geometry from documents, exposures, the injected integration."""

import numpy as np
import pytest

from nfphasing_bluesky.core import CurveGeometry, DetectorGeometry, Frame, StreamSettings
from nfphasing_bluesky.documents.router import FrameRouter

SI = {"wavelength_m": 1e-10, "distance_m": 2.0, "pixel_size_m": [172e-6, 172e-6], "poni_m": [0.001, 0.002]}
IMAGE = np.arange(12 * 10, dtype=np.uint32).reshape(12, 10)


def run_of(raw_run, key_of, image=IMAGE, shape=(12, 10), configuration=None, **said):
    run = raw_run({"eiger": key_of(shape)}, configuration=configuration, nfphasing=said)
    run.event(eiger=image)
    run.stop()
    return run


def route(heard, run, **options):
    router = FrameRouter(heard, StreamSettings(), **options)
    for name, doc in run.documents:
        router(name, doc)
    return heard


def test_geometry_from_the_start_document(heard, raw_run, key_of):
    frame = route(heard, run_of(raw_run, key_of, geometry={**SI, "rotations_rad": [0.0, 0.1, 0.0]})).frames[0]
    assert frame.geometry == DetectorGeometry(1e-10, 2.0, (172e-6, 172e-6), (0.001, 0.002), (0.0, 0.1, 0.0))
    np.testing.assert_array_equal(frame.intensity, IMAGE)


def test_geometry_from_the_configuration_with_units(heard, raw_run, key_of):
    values = {
        "saxs_wavelength": 1.2,
        "saxs_distance": 1500.0,
        "saxs_pixel_size": 75.0,
        "saxs_poni": [1.0, 2.0],
    }
    units = {"saxs_wavelength": "angstrom", "saxs_distance": "mm", "saxs_pixel_size": "um", "saxs_poni": "mm"}
    configuration = {
        "saxs": {
            "data": values,
            "timestamps": dict.fromkeys(values, 0.0),
            "data_keys": {
                k: {"source": "s", "dtype": "number", "shape": [], "units": units[k]} for k in values
            },
        }
    }
    geometry = route(heard, run_of(raw_run, key_of, configuration=configuration)).frames[0].geometry
    assert isinstance(geometry, DetectorGeometry)
    np.testing.assert_allclose(geometry.wavelength_m, 1.2e-10)
    np.testing.assert_allclose(geometry.distance_m, 1.5)
    np.testing.assert_allclose(geometry.pixel_size_m, (75e-6, 75e-6))
    np.testing.assert_allclose(geometry.poni_m, (1e-3, 2e-3))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "no wavelength, distance, pixel_size, poni"),
        ({"geometry": {"wavelength_m": 1e-10}}, "no distance, pixel_size, poni"),
        ({"geometry": {**SI, "distance_mm": 3}}, "distance_mm"),
        ({"geometry": {**SI, "distance_m": -2.0}}, "positive length"),
        ({"geometry": {**SI, "poni_m": [1.0]}}, "1 values, expected 2"),
        ({"geometry": "a file"}, "expected a mapping"),
    ],
)
def test_missing_or_wrong_geometry_fails_the_frame(heard, raw_run, key_of, said, message):
    route(heard, run_of(raw_run, key_of, **said))
    assert not heard.frames and message in heard.failures[0].reason
    assert heard.failures[0].origin.seq_num == 1


def test_the_callers_geometry_has_the_last_word(heard, raw_run, key_of):
    mine = DetectorGeometry(2e-10, 1.0, (1e-4, 1e-4), (0.0, 0.0))
    assert route(heard, run_of(raw_run, key_of, geometry=SI), geometry=mine).frames[0].geometry == mine


def test_integration_is_called_with_the_image(heard, raw_run, key_of):
    def rings(frame: Frame) -> Frame:
        rows = frame.intensity.sum(axis=1)
        return Frame(rows, CurveGeometry(np.arange(1.0, 13.0)), sigma=np.sqrt(rows + 1), origin=frame.origin)

    frame = route(heard, run_of(raw_run, key_of, geometry=SI), integrate=rings).frames[0]
    np.testing.assert_array_equal(frame.intensity, IMAGE.sum(axis=1))
    assert frame.origin.seq_num == 1


def test_an_integration_that_breaks_fails_one_frame(heard, raw_run, key_of, caplog):
    def broken(frame: Frame) -> Frame:
        raise ZeroDivisionError("no rings")

    route(heard, run_of(raw_run, key_of, geometry=SI), integrate=broken)
    assert heard.failures[0].reason == "ZeroDivisionError: no rings"
    assert heard.stopped[0][1] == "success"


@pytest.mark.parametrize(("how", "expected"), [("sum", 2 * IMAGE), ("mean", IMAGE)])
def test_exposures_of_one_event(heard, raw_run, key_of, how, expected):
    stack = np.stack([IMAGE, IMAGE])
    run = run_of(raw_run, key_of, image=stack, shape=(2, 12, 10), geometry=SI, exposures=how)
    np.testing.assert_array_equal(route(heard, run).frames[0].intensity, expected)


def test_exposures_are_not_joined_unasked(heard, raw_run, key_of):
    stack = np.stack([IMAGE, IMAGE])
    route(heard, run_of(raw_run, key_of, image=stack, shape=(2, 12, 10), geometry=SI))
    assert "2 exposures of (12, 10)" in heard.failures[0].reason
