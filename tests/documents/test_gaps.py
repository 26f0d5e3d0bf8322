"""Gaps that nobody masked, and dark lines that are none."""

import numpy as np
import pytest

from nfphasing_bluesky.documents.gaps import bad_of_scan, dead_lines, hot_pixels

Y, X = np.mgrid[:24, :24] - 11.5
FRAMES = np.random.default_rng(0).poisson(20 * np.exp(-(Y**2 + X**2) / 40), (30, 24, 24))


def test_no_gap():
    dead, words = dead_lines(FRAMES, None)
    assert not dead.any() and words == ""


@pytest.mark.parametrize("axis", [1, 2])
def test_a_gap_through_the_middle(axis):
    frames = FRAMES.copy().swapaxes(1, axis)
    frames[:, 10:13] = 0
    frames[:, 15] = 0
    frames = frames.swapaxes(1, axis)
    dead, words = dead_lines(frames, None)
    assert words == {1: "rows 10 to 12, row 15", 2: "columns 10 to 12, column 15"}[axis]
    expected = np.zeros((24, 24), bool)
    expected[[10, 11, 12, 15]] = True
    np.testing.assert_array_equal(dead, expected if axis == 1 else expected.T)


def test_hot_pixels_are_those_that_stand_out_in_every_frame():
    frames = FRAMES.copy()
    frames[:, 5, 17] = 10_000
    frames[:, 6, 17] += 500
    frames[3, 8, 8] = 10_000  # once: a cosmic ray, or a speckle
    frames[:, 12, 12] *= 10_000  # where a direct beam is
    frames[7] = 0
    bad, words = bad_of_scan(frames, None)
    np.testing.assert_array_equal(np.argwhere(bad), [[5, 17], [6, 17]])
    assert words == (
        "row 5, column 17, row 6, column 17: 20 times what its neighbours count in every frame: hot"
    )
    assert bad_of_scan(frames, bad)[1] == "" and not hot_pixels(frames[:2], None)[0].any()
    assert not hot_pixels(FRAMES, None)[0].any()
    alone = np.ones((24, 24), bool)
    alone[3:7, 3:7] = alone[15, 8] = False
    assert not hot_pixels(1000 + FRAMES, alone)[0].any()


def test_a_gap_that_is_masked_is_not_named_again():
    frames, mask = FRAMES.copy(), np.zeros((24, 24), bool)
    frames[:, 10:13], mask[10:13] = 0, True
    dead, words = dead_lines(frames, mask)
    assert not dead.any() and words == ""


def test_faint_edges_are_no_gap():
    frames = FRAMES * (np.abs(Y) < 9)
    assert dead_lines(frames, None)[1] == ""
    assert dead_lines(np.random.default_rng(1).poisson(1e-3, (5, 24, 24)), None)[1] == ""
