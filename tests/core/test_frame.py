"""Frames and geometries refuse what cannot be measured, and say what they expected."""

import numpy as np
import pytest

from nfphasing_bluesky.core import (
    CurveGeometry,
    DataKeyError,
    DetectorGeometry,
    Frame,
    FrameError,
    GeometryError,
    NFPhasingError,
    Origin,
    PlaneGeometry,
    PtychographyGeometry,
)

Q = np.linspace(0.01, 0.3, 20)


@pytest.mark.parametrize(
    ("q", "said"),
    [
        (Q[::-1], "not increasing"),
        (np.repeat(Q, 2), "not increasing"),
        (np.array([0.1, np.nan, 0.2]), r"NaN, the first q\[1\]=nan, expected .*leave"),
        (np.array([-0.1, 0.1, 0.2]), r"1 of 3 q are negative.*q\[0\]=-0.1"),
        (Q[None], "shape"),
        (np.array([0.1]), "Q >= 2"),
    ],
)
def test_bad_q(q, said):
    with pytest.raises(GeometryError, match=said):
        CurveGeometry(q)


def test_resolution_must_match_q():
    with pytest.raises(GeometryError, match="dq has shape"):
        CurveGeometry(Q, dq_inv_angstrom=Q[:-1])


@pytest.mark.parametrize(
    "change", [{"wavelength_m": 0.0}, {"distance_m": np.nan}, {"pixel_size_m": (1e-4, -1e-4)}]
)
def test_unphysical_detector(change):
    good = {"wavelength_m": 1e-10, "distance_m": 1.0, "pixel_size_m": (1e-4, 1e-4), "poni_m": (0.0, 0.0)}
    with pytest.raises(GeometryError, match=next(iter(change))):
        DetectorGeometry(**good | change)


def test_negative_whole_numbers_are_marks_of_a_detector_that_counts():
    values = np.array([[3.0, -1.0, -2.0], [-0.5, 0.0, np.nan]])
    geometry = PlaneGeometry(np.arange(3.0), np.arange(2.0))
    np.testing.assert_array_equal(Frame(values, geometry).usable, [[1, 0, 0], [1, 1, 0]])
    reduced = Frame(values, geometry, sigma=np.ones((2, 3)))
    np.testing.assert_array_equal(reduced.usable, [[1, 1, 1], [1, 1, 0]])


def test_shapes_must_agree_and_the_message_names_the_frame():
    origin = Origin(label="eiger")
    with pytest.raises(FrameError, match=r"eiger: intensity has shape \(19,\), expected \(20,\)"):
        Frame(np.ones(19), CurveGeometry(Q), origin=origin)
    with pytest.raises(FrameError, match=r"eiger: mask \(3,\) does not match frame \(20,\)"):
        Frame(np.ones(20), CurveGeometry(Q), mask=np.zeros(3, dtype=bool), origin=origin)
    with pytest.raises(FrameError, match="expected numbers"):
        Frame(np.array(["a"] * 20), CurveGeometry(Q), origin=origin)


def test_usable_points():
    intensity = np.ones(20)
    intensity[0] = np.nan
    sigma = np.ones(20)
    sigma[1], sigma[2] = 0.0, np.inf
    mask = np.zeros(20, dtype=bool)
    mask[3] = True
    frame = Frame(intensity, CurveGeometry(Q), sigma, mask)
    assert frame.usable.tolist() == [False] * 4 + [True] * 16


def test_integers_become_floats_and_origin_can_be_replaced():
    frame = Frame(np.arange(20, dtype=np.int32), CurveGeometry(Q)).with_origin(seq_num=7)
    assert frame.intensity.dtype == np.float64
    assert frame.origin.seq_num == 7


def test_every_error_is_ours_and_the_builtin_it_refines():
    assert issubclass(GeometryError, NFPhasingError)
    assert issubclass(GeometryError, ValueError)
    assert issubclass(DataKeyError, KeyError)
    assert str(DataKeyError("no such key; expected 'a'")) == "no such key; expected 'a'"


@pytest.mark.parametrize(
    ("qx", "qy", "said"),
    [
        (np.ones((3, 4)), np.ones((3, 5)), r"\(3, 4\) and qy \(3, 5\)"),
        (np.ones((3, 4)), np.ones(3), "expected axes"),
        (np.array([0.0, np.nan]), np.ones(2), "NaN"),
    ],
)
def test_q_of_a_plane_must_match(qx, qy, said):
    with pytest.raises(GeometryError, match=said):
        PlaneGeometry(qx, qy)


def test_a_plane_has_the_shape_of_its_frame():
    plane = PlaneGeometry(np.linspace(-1, 1, 5), np.linspace(-1, 1, 4))
    assert plane.shape == (4, 5) == plane.maps()[0].shape
    assert plane.maps()[0][0, 4] == 1 and plane.maps()[1][3, 0] == 1
    with pytest.raises(FrameError, match=r"shape \(5, 4\), expected \(4, 5\)"):
        Frame(np.ones((5, 4)), plane)


def test_only_a_focused_beam_says_where_its_light_is():
    probe = np.ones((4, 4), complex)
    probe[1, 2] = 2
    far = Frame(np.ones((4, 4)), PtychographyGeometry(probe, (0, 0)))
    assert far.light[1, 2] == 1 and far.light[0, 0] == 0.25
    assert Frame(np.ones((4, 4)), PtychographyGeometry(probe, (0, 0), fresnel_number=0.1)).light is None
