"""What all frames of a scan have too much of: light that never saw the object, dark counts, a beam's halo.

An object moves with the scan, a background stays where it is on the detector. Over many frames what the
object is wrong in averages out, and the excess of counts over the waves' photons is left.

Letters: B scans, J frames of each, H, W frame, Y, X canvas.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.imaging.overlap import GroupFrames, sweeps

LEAST_FRAMES = 16
"""Fewer don't tell a background from the object's mistakes."""

WORTH = 0.8
"""Share of the misfit that may be left for a background to be believed."""

LEAST_SHARE = 0.12
"""Of the misfit that stays where it is, frame after frame, for a search to be worth its time."""

REPEATS, GAIN = 4, 0.97
"""Most rounds of a search, which converges slowly, and the share of the misfit that one may leave."""


def excess(frames: GroupFrames, canvas: Tensor) -> Tensor:
    """(B, H, W) mean of counts less the photons of the waves over the frames that use a pixel, at least 0."""
    total = torch.zeros_like(frames.background)
    for j in range(frames.count):
        light = frames.photons(frames.waves(canvas, j)) - frames.background
        total += torch.where(frames.used[:, j], frames.counts[:, j] - light, 0.0)
    return (total / frames.used.sum(1).clamp_min(1)).clamp_min(0)


class Misfit(NamedTuple):
    """How badly B scans are explained.

    Args:
        size: (B,) mean squared deviation of the square roots of counts, 1 for Poisson counts that fit.
        common: (B,) share of it that is the same in all frames.
    """

    size: Tensor
    common: Tensor


def misfit(frames: GroupFrames, canvas: Tensor) -> Misfit:
    """How badly objects (B, Y, X) explain frames."""
    total, square = (torch.zeros_like(frames.background) for _ in range(2))
    for j in range(frames.count):
        light = frames.photons(frames.waves(canvas, j))
        short = frames.used[:, j] * (frames.counts[:, j].sqrt() - light.sqrt())
        total, square = total + short, square + short.square()
    used = frames.used.sum(1)
    common = (total.square() / used.clamp_min(1)).sum((1, 2))
    whole = square.sum((1, 2))
    return Misfit(4 * whole / used.sum((1, 2)).clamp_min(1), common / whole.clamp_min(1e-30))


def over_background(frames: GroupFrames, canvas: Tensor, number: int) -> tuple[GroupFrames, Tensor]:
    """Look for a background that explains frames better.

    Args:
        frames: of scans over the background that is known.
        canvas: (B, Y, X) objects from `number` sweeps over that background.
        number: of sweeps over each new one.

    Returns:
        The frames over the background that was found, and the objects then; of a scan of few frames, of one
        whose misfit is not the same everywhere, or where more than `WORTH` of it is left, those given.
    """
    known, image = frames, canvas
    before, common = misfit(frames, canvas)
    least = before
    likely = (frames.used.flatten(2).any(2).sum(1) >= LEAST_FRAMES) & (common > LEAST_SHARE)
    for _ in range(REPEATS if bool(likely.any()) else 0):
        tried = known.with_background(excess(known, image))
        moved = sweeps(tried, number)
        left = misfit(tried, moved).size
        better = (likely & (left < GAIN * least))[:, None, None]
        if not bool(better.any()):
            break
        known = known.with_background(torch.where(better, tried.background, known.background))
        image, least = torch.where(better, moved, image), torch.where(better[:, 0, 0], left, least)
    worth = (least < WORTH * before)[:, None, None]
    chosen = torch.where(worth, known.background, frames.background)
    return frames.with_background(chosen), torch.where(worth, image, canvas)
