"""Cuts through frames in grazing incidence, and the horizon that a frame shows."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import FrameError, GeometryError
from nfphasing_bluesky.physics.grazing.gisaxs_cuts import (
    check_horizon,
    first_lit_row,
    in_plane_cut,
    out_of_plane_cut,
)
from nfphasing_bluesky.physics.grazing.gisaxs_detector import Exposure, detector_pixels, expected_counts
from tests.physics.test_gisaxs_detector import DETECTOR, INCIDENCE, PIXEL_M, each, sample

FINE = replace(DETECTOR, pixel_size_m=(PIXEL_M / 2, PIXEL_M), normal_px=(44.6, 20.7), shape=(200, 50))
NO_MASK = np.zeros(FINE.shape, bool)
K = 2 * math.pi / 1.4


def frame(photons: float = 1e12, seed: int = 0) -> np.ndarray:
    """Counts of a rough film with spheres in it, over a background of 2."""
    pixels = detector_pixels(FINE, INCIDENCE)
    with torch.no_grad():
        mean = expected_counts(sample(), pixels, Exposure(each(photons), each(2.0)))[0].double().numpy()
    return np.random.default_rng(seed).poisson(mean).astype(float)


def test_an_in_plane_cut_is_the_mean_of_its_rows():
    counts = frame()
    low, high = math.radians(0.4), math.radians(0.6)
    cut = in_plane_cut(counts, NO_MASK, FINE, INCIDENCE, (low, high))
    rows = np.arange(
        math.ceil(FINE.row_of(low, INCIDENCE) - 0.5), math.floor(FINE.row_of(high, INCIDENCE) - 0.5) + 1
    )
    np.testing.assert_allclose(cut.mean, counts[rows].mean(0))
    np.testing.assert_allclose(cut.sigma, np.sqrt(np.maximum(counts[rows].sum(0), 1)) / len(rows))
    across = (np.arange(50) + 0.5 - 20.7) * PIXEL_M / 1.5
    np.testing.assert_allclose(cut.q_inv_angstrom, K * across, rtol=1e-3)


def test_an_out_of_plane_cut_begins_at_the_horizon():
    counts = frame()
    q_y = np.array([0.01, 0.02])
    cut = out_of_plane_cut(counts, NO_MASK, FINE, INCIDENCE, tuple(q_y))
    columns = 20.7 - 0.5 + q_y / K * 1.5 / PIXEL_M
    chosen = np.arange(math.ceil(columns[0]), math.floor(columns[1]) + 1)
    first = round(FINE.row_of(0.0, INCIDENCE))
    np.testing.assert_allclose(cut.mean, counts[first:, chosen].mean(1))
    assert cut.q_inv_angstrom[0] == pytest.approx(K * math.sin(INCIDENCE), rel=0.03)
    assert (np.diff(cut.q_inv_angstrom) > 0).all()


def test_masked_pixels_do_not_count():
    counts, mask = frame(), NO_MASK.copy()
    mask[:, 7] = True
    mask[90:95] = True
    spoilt = np.where(mask, -1.0, counts)
    cut = in_plane_cut(spoilt, mask, FINE, INCIDENCE, (0.0, 0.02))
    whole = in_plane_cut(counts, NO_MASK, FINE, INCIDENCE, (0.0, 0.02))
    assert len(cut.mean) == 49 and (cut.mean >= 0).all()
    assert np.abs(np.delete(whole.q_inv_angstrom, 7) - cut.q_inv_angstrom).max() < 1e-6


def test_cuts_where_nothing_is_are_refused():
    counts = frame()
    with pytest.raises(GeometryError, match=r"no pixel has exit angles between 20 and 30 degrees.*sees"):
        in_plane_cut(counts, NO_MASK, FINE, INCIDENCE, (math.radians(20), math.radians(30)))
    with pytest.raises(GeometryError, match="no pixel has q_y between 5 and 6"):
        out_of_plane_cut(counts, NO_MASK, FINE, INCIDENCE, (5.0, 6.0))
    with pytest.raises(FrameError, match=r"expected the detector's \(200, 50\)"):
        in_plane_cut(counts[1:], NO_MASK[1:], FINE, INCIDENCE, (0.0, 0.01))


@pytest.mark.parametrize("photons", [1e11, 1e12])
def test_a_surface_is_lit_from_its_horizon_on(photons):
    horizon = FINE.row_of(0.0, INCIDENCE)
    for seed in range(3):
        assert horizon - 1 < first_lit_row(frame(photons, seed), NO_MASK) < horizon + 8


def test_a_geometry_whose_horizon_lies_elsewhere_is_named():
    counts = frame()
    check_horizon(counts, NO_MASK, FINE, INCIDENCE)
    higher = replace(FINE, normal_px=(FINE.normal_px[0] + 10, 20.7))
    with pytest.raises(GeometryError, match=r"dune: the surface scatters from row \d+ on, expected from"):
        check_horizon(counts, NO_MASK, higher, INCIDENCE, label="dune")
    lower = replace(FINE, normal_px=(FINE.normal_px[0] - 60, 20.7))
    with pytest.raises(GeometryError, match="expected from its horizon on, row 50.1"):
        check_horizon(counts, NO_MASK, lower, INCIDENCE)
    with pytest.raises(GeometryError, match="whether the angle is 0.5"):
        check_horizon(counts, NO_MASK, FINE, 1.5 * INCIDENCE)


def test_the_rows_of_an_error_are_those_of_the_stored_frame():
    lower = replace(FINE, normal_px=(FINE.normal_px[0] - 60, 20.7))
    last = FINE.shape[0] - 1
    with pytest.raises(GeometryError, match=f"horizon on, row {last - 50.1:.1f}"):
        check_horizon(frame(), NO_MASK, lower, INCIDENCE, rows_up=False)


def test_a_beam_counted_from_the_other_side_is_named():
    turned = replace(FINE, normal_px=(FINE.shape[0] - FINE.normal_px[0], 20.7))
    with pytest.raises(GeometryError, match="counted from below.*rows_up"):
        check_horizon(frame(), NO_MASK, turned, INCIDENCE, rows_up=False)


def test_no_angle_is_proposed_that_can_not_be():
    higher = replace(FINE, normal_px=(FINE.normal_px[0] + 90, 20.7))
    with pytest.raises(GeometryError) as found:
        check_horizon(frame(), NO_MASK, higher, INCIDENCE)
    assert "row and column" in str(found.value) and "angle is" not in str(found.value)


def test_a_dark_frame_says_nothing():
    dark = np.random.default_rng(0).poisson(0.02, FINE.shape).astype(float)
    check_horizon(dark, NO_MASK, FINE, INCIDENCE)
