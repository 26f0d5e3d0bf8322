"""Frames in grazing incidence: their geometry from documents and options, and their cuts on the way."""

import math

import numpy as np
import pytest
import typer

from nfphasing_bluesky import options
from nfphasing_bluesky.core import (
    CurveGeometry,
    DetectorGeometry,
    Failure,
    GeometryError,
    GrazingCutsGeometry,
    GrazingGeometry,
)
from nfphasing_bluesky.documents.reduction import reduced
from tests.documents.test_router_images import SI, route, run_of

POINT = {**SI, "poni_m": [15 * 172e-6, 12 * 172e-6]}
SAID = {**POINT, "distance_m": 0.4, "incidence_degree": 0.3}
SHAPE = (60, 24)


def surface() -> np.ndarray:
    """What comes from a surface whose horizon is 43 rows over the lower edge; the beam at 45 rows from it."""
    rows = np.arange(SHAPE[0])[::-1, None] - 27.2
    return np.where(rows > 0, 1000 * np.exp(-rows / 10), 0).repeat(SHAPE[1], 1).round().astype(np.uint32)


def test_an_incidence_angle_makes_a_detector_that_of_a_surface(heard, raw_run, key_of):
    said = {**SAID, "exit_degree": [0.1, 0.2], "q_y_inv_angstrom": [0.01, 0.02], "rows_up": 1}
    found = route(heard, run_of(raw_run, key_of, geometry=said)).frames[0].geometry
    expected = GrazingGeometry(
        1e-10,
        0.4,
        (172e-6, 172e-6),
        found.beam_px,
        math.radians(0.3),
        rows_up=True,
        exit_rad=(math.radians(0.1), math.radians(0.2)),
        q_y_inv_angstrom=(0.01, 0.02),
    )
    assert found == expected
    assert found.beam_px == pytest.approx((15.0, 12.0))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({**SAID, "incidence_degree": 0}, "lights nothing"),
        ({**SAID, "incidence_rad": 0.3}, "incidence_rad and incidence_degree, expected one angle"),
        ({**SAID, "incidence_degree": 40}, "in radians"),
        ({**SAID, "incidence_degree": "flat"}, r"incidence_degree='flat', expected 1 number"),
        ({**SAID, "exit_degree": [0.2, 0.1]}, "the lower one first"),
        ({**SAID, "rotations_rad": [0.1, 0.0, 0.0]}, "the detector is turned"),
        ({"incidence_degree": 0.3}, "no wavelength, distance, pixel_size, poni"),
    ],
)
def test_what_cannot_be_a_surface_fails_the_frame(heard, raw_run, key_of, said, message):
    route(heard, run_of(raw_run, key_of, geometry=said))
    (failure,) = heard.failures
    assert isinstance(failure, Failure)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failure.reason)


def test_frames_of_a_surface_are_cut_and_others_averaged(heard, raw_run, key_of):
    said = {**SAID, "exit_degree": [0.1, 0.4], "q_y_inv_angstrom": [0.005, 0.02]}
    run = run_of(raw_run, key_of, surface(), SHAPE, geometry=said | {"poni_m": [45 * 172e-6, 12 * 172e-6]})
    cut = route(heard, run, integrate=reduced).frames[0]
    assert isinstance(cut.geometry, GrazingCutsGeometry)
    assert cut.intensity.size == cut.geometry.q_inv_angstrom.size and cut.origin.seq_num == 1
    averaged = route(heard, run_of(raw_run, key_of, geometry=SI), integrate=reduced).frames[-1]
    assert isinstance(averaged.geometry, CurveGeometry)


def test_what_is_known_of_the_sample_goes_with_images_too(heard, raw_run, key_of):
    said = {**SAID, "poni_m": [45 * 172e-6, 12 * 172e-6], "q_y_inv_angstrom": [0.005, 0.02]}
    known = {"film_thickness_angstrom": [180, 200]}
    run = run_of(raw_run, key_of, surface(), SHAPE, geometry=said, bounds=known)
    for how in ({}, {"integrate": reduced}):
        heard.frames.clear()
        assert route(heard, run, **how).frames[0].bounds == {"film_thickness_angstrom": (180.0, 200.0)}


def test_a_horizon_elsewhere_fails_the_frame(heard, raw_run, key_of):
    run = run_of(raw_run, key_of, surface(), SHAPE, geometry=SAID)
    route(heard, run, integrate=reduced)
    (failure,) = heard.failures
    assert (
        "the surface scatters from row" in failure.reason and "check the direct beam's row" in failure.reason
    )


def test_the_same_is_said_on_the_command_line():
    detector = ["wavelength_m=1e-10", "distance_m=0.4", "pixel_size_m=172e-6", "beam_center_px=14.5,11.5"]
    assert isinstance(options.detector(detector), DetectorGeometry)
    found = options.detector([*detector, "incidence_degree=0.3", "exit_degree=0.1,0.2"])
    assert isinstance(found, GrazingGeometry)
    assert found.beam_px == pytest.approx((15.0, 12.0))
    assert found.incidence_rad == pytest.approx(math.radians(0.3))
    with pytest.raises(GeometryError, match="lights nothing"):
        options.detector([*detector, "incidence_degree=0"])
    with pytest.raises(typer.BadParameter):
        options.detector([*detector, "incidence_degree=small"])


DETECTOR = {
    "wavelength_m": "1e-10",
    "distance_m": "0.4",
    "pixel_size_m": "172e-6",
    "beam_center_px": "14.5,11.5",
    "incidence_degree": "0.3",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"incidence_deg": "0.3"}, "incidence_deg.*expected.*incidence_degree"),
        ({"rows_upp": "1"}, "rows_upp.*expected.*rows_up"),
        ({"wavelength_m": "1.34"}, "wavelength_m=1.34.*1.34e-10"),
        ({"distance_m": "1730"}, "distance_m=1730.*1.73 m"),
        ({"pixel_size_m": "0.172"}, "pixel_size_m=.*0.172.*0.000172 m"),
        ({"poni_m": "0.1,0.1"}, "beam_center_px.*poni_m.*leave one out"),
    ],
)
def test_names_and_lengths_that_cannot_be_meant_are_refused(changes, message):
    said = [f"{name}={value}" for name, value in (DETECTOR | changes).items()]
    with pytest.raises((GeometryError, typer.BadParameter), match=message):
        options.detector(said)
