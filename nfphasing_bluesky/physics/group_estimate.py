"""Estimates of patches from groups of overlapping frames: projections first, then a smooth maximum.

Letters: B patches, J frames of each, P probe modes, H, W frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.overlap import Group, GroupFrames, pull, reach_px, sweeps
from nfphasing_bluesky.physics.ptychography import Propagation
from nfphasing_bluesky.physics.smooth_objects import LEAST_SPREAD, MOST_SPREAD, SmoothPrior, refine

VALUES_AT_ONCE = 2**20
"""Complex numbers of all waves of the groups that are estimated together: they then stay in the cache."""


MU_OVER_PHASE = 0.2
"""Largest spread of mu that is assumed, over that of the phase."""


@dataclass(frozen=True)
class Effort:
    """How long an estimate takes.

    Args:
        sweeps: of rPIE through the group.
        rounds: of linearisation, at least 2.
        steps: of conjugate gradients in each.
    """

    sweeps: int = 8
    rounds: int = 3
    steps: int = 8


class GroupEstimate(NamedTuple):
    """What came out, (B, H, W) each but for `misfit`.

    Args:
        patches: complex, after the sweeps, after the first round and at the end, the mean transmission
            under the light real.
        pull: complex, the own frame's last wish to change the patch, over its light and a little more.
        light: photons of the own frame per pixel of the patch, where it transmits all.
        seen: photons of all frames.
        misfit: (B,) mean squared deviation of the own frame's square roots, 1 for Poisson counts that fit.
    """

    patches: tuple[Tensor, ...]
    pull: Tensor
    light: Tensor
    seen: Tensor
    misfit: Tensor


def estimate_patches(
    group: Group, propagation: Callable[[Tensor], Propagation], effort: Effort
) -> GroupEstimate:
    """Estimate the patches of groups of frames with known probes.

    Args:
        group: the frames.
        propagation: of the groups with given indices (b,).
        effort: how long it may take.

    Raises:
        FrameError: frames and probes of different sizes.
    """
    parts, order = [], []
    for rows in _alike(group):
        frames = GroupFrames(Group(*(part[rows] for part in group)), propagation(rows))
        parts.append(_estimate(frames, effort))
        order.append(rows)
    back = torch.cat(order).argsort()
    patches = tuple(torch.cat(stage)[back] for stage in zip(*(part.patches for part in parts), strict=True))
    return GroupEstimate(patches, *(torch.cat(field)[back] for field in list(zip(*parts, strict=True))[1:]))


def _alike(group: Group) -> Iterator[Tensor]:
    """Indices of groups with equal canvases, so that none depends on the others, a few at a time."""
    at_once = max(1, VALUES_AT_ONCE // (group.counts[0].numel() * group.probe.shape[1]))
    reach = reach_px(group.offset)
    for value in reach.unique():
        yield from (reach == value).nonzero()[:, 0].split(at_once)


def gauge(wave: Tensor, light: Tensor) -> Tensor:
    """(B,) angle of the mean transmission (B, H, W) under the light (B, H, W): a frame does not tell it."""
    return (light * wave).sum((-2, -1)).angle()


def turned(wave: Tensor, angle: Tensor) -> Tensor:
    """Waves (B, H, W) turned back by angles (B,)."""
    return wave * torch.polar(torch.ones_like(angle), -angle)[:, None, None]


def _estimate(frames: GroupFrames, effort: Effort) -> GroupEstimate:
    canvas = sweeps(frames, effort.sweeps)
    light, everywhere = frames.light[:, 0], frames.seen()
    seen = frames.patches(everywhere)
    canvas = turned(canvas, gauge(frames.patches(canvas), light))
    spread = _spread(frames.patches(canvas), seen)
    start = _believed(canvas, everywhere, spread)
    prior = SmoothPrior.like(canvas, spread)
    settled = refine(frames, start, prior, rounds=effort.rounds, steps=effort.steps)
    wish, misfit = pull(frames, settled[-1])
    patches = [frames.patches(stage) for stage in (canvas, settled[0], settled[-1])]
    angle = gauge(patches[-1], light)
    patches = [turned(patch, gauge(patch, light)) for patch in patches]
    return GroupEstimate(tuple(patches), turned(wish, angle), light, seen, misfit)


def _parts(wave: Tensor) -> Tensor:
    """(B, 2, ...) phase and mu."""
    return torch.stack([wave.angle(), -wave.abs().clamp_min(1e-3).log()], 1)


def _spread(patches: Tensor, seen: Tensor) -> Tensor:
    """(B, 2) standard deviations of phase and mu, what photon noise adds to those of patches taken away.

    Counts leave a variance of 1 / (4 N) in either. Mu is taken to be weaker than the phase, as it mostly is.
    """
    weight = seen / seen.sum((1, 2), keepdim=True)
    square = (weight[:, None] * _parts(patches).square()).sum((2, 3))
    noise = (weight * 0.25 / seen.clamp_min(0.06)).sum((1, 2))
    phase, mu = (square - noise[:, None]).clamp_min(0).sqrt().clamp_max(MOST_SPREAD).unbind(1)
    least = LEAST_SPREAD
    mu = torch.minimum(mu, MU_OVER_PHASE * phase).clamp_min(least[1])
    return torch.stack([phase.clamp_min(least[0]), mu], 1)


def _believed(canvas: Tensor, seen: Tensor, spread: Tensor) -> Tensor:
    """Objects drawn to the mean of the prior where few photons stand behind them."""
    share = seen[:, None] / (seen[:, None] + 0.25 / spread.square()[:, :, None, None])
    phase, mu = (share * _parts(canvas)).unbind(1)
    return torch.polar(torch.exp(-mu), phase)
