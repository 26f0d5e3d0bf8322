"""What all frames have too much of: found where it is, and not where it isn't."""

import pytest
import torch

from nfphasing_bluesky.physics.imaging.detector_background import misfit, over_background
from nfphasing_bluesky.physics.imaging.overlap import Group, GroupFrames, sweeps
from nfphasing_bluesky.physics.ptychography import split_positions
from tests.simulated_scan import FAR, NEAR, SIDE, places, simulate

NUMBER = 4


def ring(photons):
    """(SIDE, SIDE) a ring like that of a beam's halo, photons at its brightest."""
    y, x = torch.meshgrid(torch.arange(SIDE) - SIDE / 2, torch.arange(SIDE) - SIDE / 2, indexing="ij")
    return photons * torch.exp(-((torch.hypot(y, x) - 16) / 3).square())


def frames_over(propagation, background, where=None):
    exposures, probe, _ = simulate(propagation, background=background, where=where)
    corner, fraction = split_positions(exposures.position)
    middle = (corner.amin(0) + corner.amax(0)) // 2
    count = len(corner)
    group = Group(
        exposures.counts[None],
        torch.zeros(1, count, SIDE, SIDE, dtype=torch.bool),
        probe[None],
        (corner - middle)[None],
        fraction.float()[None],
        torch.ones(1, count, dtype=torch.bool),
        torch.zeros(1, SIDE, SIDE),
    )
    return GroupFrames(group, propagation)


def searched(frames):
    return over_background(frames, sweeps(frames, NUMBER), NUMBER)


def test_a_background_is_found(monkeypatch):
    monkeypatch.setattr("tests.simulated_scan.PIXELS", 128)
    there = ring(30.0)
    found, _ = searched(frames_over(FAR, there, where=places(9, 9, step=8.0)))
    both = torch.stack([found.background[0].ravel(), there.ravel()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.85
    assert 0.9 < float(found.background.sum() / there.sum()) < 1.1


@pytest.mark.parametrize("propagation", [FAR, NEAR], ids=["far", "near"])
def test_the_scan_fits_over_what_is_found(propagation):
    """However alike its frames are, so that background and object are hard to tell apart."""
    frames = frames_over(propagation, ring(30.0))
    canvas = sweeps(frames, NUMBER)
    found, image = over_background(frames, canvas, NUMBER)
    excess_misfit = [float(misfit(f, c).size) - 1 for f, c in ((frames, canvas), (found, image))]
    assert excess_misfit[1] < 0.5 * excess_misfit[0]


@pytest.mark.parametrize("propagation", [FAR, NEAR], ids=["far", "near"])
def test_none_is_claimed_where_there_is_none(propagation):
    frames = frames_over(propagation, 0.0)
    canvas = sweeps(frames, NUMBER)
    found, image = over_background(frames, canvas, NUMBER)
    assert not found.background.any() and torch.equal(image, canvas)


def test_few_frames_do_not_tell():
    frames = frames_over(FAR, ring(30.0), where=places(3, 3))
    assert not searched(frames)[0].background.any()
