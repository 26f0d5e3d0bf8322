"""Pixels that nobody named: ends of a detector's range, and frames in which nothing ends."""

import logging

import numpy as np
import pytest

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.documents.bad_pixels import BadPixels, left_out, plateau

RNG = np.random.default_rng(0)
Y, X = np.mgrid[:64, :64] - 31.5
PEAK = 1e5 / (1 + (X**2 + Y**2) / 4) ** 2


@pytest.mark.parametrize("mean", [3.0, 20.0, 400.0, PEAK])
def test_frames_whose_counts_end_by_chance(mean):
    for _ in range(20):
        counts = RNG.poisson(np.broadcast_to(mean, (64, 64)))
        assert plateau(counts, None) is None


@pytest.mark.parametrize(("mean", "share"), [(400.0, 0.01), (400.0, 0.3), (PEAK, 0.003), (PEAK, 0.01)])
def test_a_detector_that_ends(mean, share):
    counts = RNG.poisson(np.broadcast_to(mean, (64, 64)))
    top = np.quantile(counts, 1 - share).round()
    found = plateau(np.minimum(counts, top), None)
    assert found == (top, np.count_nonzero(counts >= top))


def test_a_frame_of_one_value_is_no_plateau():
    assert plateau(np.full((64, 64), 1000), None) is None


def test_a_thin_minimum_of_a_pattern_is_no_gap(caplog):
    counts = RNG.poisson(100.0 * np.broadcast_to(np.abs(np.arange(64) - 20.0), (64, 64)))
    assert counts[:, 20].sum() == 0
    assert BadPixels("pattern", thinnest=2).of(counts) is None and not caplog.text
    counts[:, 40:43] = 0
    bad = BadPixels("pattern", thinnest=2).of(counts)
    np.testing.assert_array_equal(np.flatnonzero(bad.all(0)), [40, 41, 42])
    # a frame of a surface has a shadow
    assert BadPixels("surface", surface=True).of(counts) is None


def test_gaps_are_looked_for_until_there_is_light(caplog):
    pixels, counts = BadPixels("eiger"), RNG.poisson(100.0, (64, 64))
    counts[10:12] = 0
    assert pixels.of(np.zeros((64, 64), int)) is None
    counts_with_nan = np.where(np.arange(64) == 30, np.nan, counts)
    for frame in (counts_with_nan, counts):
        np.testing.assert_array_equal(np.flatnonzero(pixels.of(frame).all(1)), [10, 11])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_mask_of_another_shape_is_named():
    with pytest.raises(FrameError, match=r"eiger: mask \(3, 3\) does not match the frame \(9, 11\)"):
        left_out(np.ones((9, 11)), np.ones((3, 3)), where="eiger")
