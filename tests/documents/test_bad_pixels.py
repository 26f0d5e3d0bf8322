"""Pixels that nobody named: ends of a detector's range, and frames in which nothing ends."""

import logging

import numpy as np
import pytest

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.documents.bad_pixels import BadPixels, left_out, plateau
from nfphasing_bluesky.documents.beam_stop import dark_regions

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
    assert BadPixels("pattern", pattern=True).of(counts) is None and not caplog.text
    counts[:, 40:43] = 0
    bad = BadPixels("pattern", pattern=True).of(counts)
    np.testing.assert_array_equal(np.flatnonzero(bad.all(0)), [40, 41, 42])
    # a frame of a surface has a shadow
    assert BadPixels("surface", surface=True).of(counts) is None


def test_zeros_amid_counts_are_a_beam_stop(caplog):
    counts = RNG.poisson(PEAK + 2)
    counts[29:34, 30:35] = 0
    bad = BadPixels("pattern", pattern=True).of(counts)
    np.testing.assert_array_equal(np.argwhere(bad), np.argwhere(counts[26:40, 27:40] == 0) + [26, 27])
    assert "25 pixels in rows 29 to 33, columns 30 to 34 never count" in caplog.text
    assert BadPixels("hologram").of(counts) is None
    # of the beam alone, beside a gap that is masked, and in a frame where there are zeros everywhere
    around = np.hypot(X - 0.5, Y - 0.5)
    one = np.where(around < 1, 0, RNG.poisson(1e5 / (1 + around**2 / 4) ** 2))
    np.testing.assert_array_equal(np.argwhere(dark_regions(one, None)[0]), [[32, 32]])
    gap = (X > 3) & (X < 6)
    dead = np.where(gap, 0, counts)
    np.testing.assert_array_equal(dark_regions(dead, gap)[0], bad & ~gap)
    assert (RNG.poisson(PEAK)[:8] == 0).mean() > 0.1


@pytest.mark.parametrize("photons", [1e2, 1e4, 1e6, 1e8])
def test_a_pattern_keeps_the_zeros_it_has(photons):
    """Speckles of random objects, rings of spheres of one size, and frames that are dim all over."""
    ring = np.hypot(X - 0.3, Y + 0.2) * np.linspace(0.1, 0.6, 10)[:, None, None]
    sphere = ((np.sin(ring) - ring * np.cos(ring)) / ring**3) ** 2
    speckle = np.abs(np.fft.fftshift(np.fft.fft2(RNG.uniform(size=(50, 8, 8)) ** 3, (16, 16)))) ** 2
    for means in (sphere, speckle, np.ones((10, 64, 64))):
        shares = means / means.sum((1, 2), keepdims=True)
        for counts in RNG.poisson(photons * shares):
            dark, words = dark_regions(counts, None)
            assert not dark.any() and words == ""


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
