"""Estimates of objects from all frames of a scan, and of patches: projections, then a smooth maximum.

Letters: B scans, J frames of each, P probe modes, H, W frame, Y, X object.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.imaging.detector_background import over_background
from nfphasing_bluesky.physics.imaging.overlap import Group, GroupFrames, pull, reach_px, sweeps
from nfphasing_bluesky.physics.imaging.smooth_objects import LEAST_SPREAD, MOST_SPREAD, SmoothPrior, refine
from nfphasing_bluesky.physics.ptychography import Propagation

VALUES_AT_ONCE = 2**20
"""Complex numbers of all waves of the scans that are estimated together: they then stay in the cache."""

MU_OVER_PHASE = 0.2
"""Largest spread of mu that is assumed, over that of the phase."""


@dataclass(frozen=True)
class Effort:
    """How long an estimate takes.

    Args:
        sweeps: of rPIE through the scan.
        rounds: of linearisation, at least 2.
        steps: of conjugate gradients in each.
        background: look for one that all frames share.
    """

    sweeps: int = 4
    rounds: int = 4
    steps: int = 8
    background: bool = False


class PatchEstimate(NamedTuple):
    """What a scan says where some of its frames lie, (N, H, W) each but for `misfit`.

    Args:
        patches: complex, after the sweeps, after the first round and at the end, the mean transmission
            under the frame's light real.
        pull: complex, the frame's own last wish to change the patch, over its light and a little more.
        light: photons of the frame per pixel of the patch, where it transmits all.
        seen: photons of all frames.
        misfit: (N,) mean squared deviation of the frame's square roots, 1 for Poisson counts that fit.
    """

    patches: tuple[Tensor, ...]
    pull: Tensor
    light: Tensor
    seen: Tensor
    misfit: Tensor

    @classmethod
    def joined(cls, parts: Sequence["PatchEstimate"]) -> "PatchEstimate":
        """Those of several, one after the other."""
        patches = tuple(torch.cat(stage) for stage in zip(*(part.patches for part in parts), strict=True))
        return cls(patches, *(torch.cat(field) for field in list(zip(*parts, strict=True))[1:]))


@dataclass(frozen=True, eq=False)
class ScanEstimate:
    """The objects of B scans.

    Args:
        frames: of the scans.
        stages: (B, Y, X) complex, after the sweeps, after the first round and at the end.
        seen: (B, Y, X) photons of all frames.
    """

    frames: GroupFrames
    stages: tuple[Tensor, ...]
    seen: Tensor

    def patches(self, j: int) -> PatchEstimate:
        """What all scans say where their frames j lie."""
        frames = self.frames
        light = frames.light[:, j]
        wish, misfit = pull(frames, self.stages[-1], j)
        patches = [frames.patches(stage, j) for stage in self.stages]
        angle = gauge(patches[-1], light)
        return PatchEstimate(
            tuple(turned(patch, gauge(patch, light)) for patch in patches),
            turned(wish, angle),
            light,
            frames.patches(self.seen, j),
            misfit,
        )

    def patch(self, b: int, j: int) -> PatchEstimate:
        """What scan b says where its frame j lies, N = 1."""
        rows = slice(b, b + 1)
        one = ScanEstimate(self.frames.at(rows), tuple(s[rows] for s in self.stages), self.seen[rows])
        return one.patches(j)


def estimate_scans(
    group: Group, propagation: Callable[[Tensor], Propagation], effort: Effort
) -> Iterator[tuple[Tensor, ScanEstimate]]:
    """Estimate the objects of scans with known probes, those with objects of one size together.

    Args:
        group: the frames.
        propagation: of the scans with given indices (b,).
        effort: how long it may take.

    Yields:
        Indices of scans, and what they say.

    Raises:
        FrameError: frames and probes of different sizes.
    """
    for rows, modes in _alike(group):
        some = group.at(rows)
        frames = GroupFrames(some._replace(probe=some.probe[:, :modes]), propagation(rows))
        yield rows, _estimate(frames, effort)


def _alike(group: Group) -> Iterator[tuple[Tensor, int]]:
    """Indices of scans with equal canvases and as many modes, so that none depends on the others, and these.

    There are a few at a time.
    """
    lit = group.probe.abs().amax((-2, -1)) > 0
    modes = (lit * torch.arange(1, lit.shape[1] + 1, device=lit.device)).amax(1).clamp_min(1)
    kind = torch.cat([reach_px(group.offset), modes[:, None]], 1)
    for value in kind.unique(dim=0):
        at_once = max(1, VALUES_AT_ONCE // (group.counts[0, 0].numel() * int(value[2])))
        for rows in (kind == value).all(1).nonzero()[:, 0].split(at_once):
            yield rows, int(value[2])


def gauge(wave: Tensor, light: Tensor) -> Tensor:
    """(B,) angle of the mean transmission (B, H, W) under the light (B, H, W): a frame does not tell it."""
    return (light * wave).sum((-2, -1)).angle()


def turned(wave: Tensor, angle: Tensor) -> Tensor:
    """Waves (B, H, W) turned back by angles (B,)."""
    return wave * torch.polar(torch.ones_like(angle), -angle)[:, None, None]


def _estimate(frames: GroupFrames, effort: Effort) -> ScanEstimate:
    canvas, seen = sweeps(frames, effort.sweeps), frames.seen()
    if effort.background:
        frames, canvas = over_background(frames, canvas, effort.sweeps)
    canvas = turned(canvas, gauge(canvas, seen))
    spread = _spread(canvas, seen)
    prior = SmoothPrior.like(canvas, spread)
    start = _believed(canvas, seen, spread)
    settled = refine(frames, start, prior, rounds=effort.rounds, steps=effort.steps)
    return ScanEstimate(frames, (canvas, settled[0], settled[-1]), seen)


def _parts(wave: Tensor) -> Tensor:
    """(B, 2, ...) phase and mu."""
    return torch.stack([wave.angle(), -wave.abs().clamp_min(1e-3).log()], 1)


def _spread(canvas: Tensor, seen: Tensor) -> Tensor:
    """(B, 2) standard deviations of phase and mu, what photon noise adds to those of objects taken away.

    Counts leave a variance of 1 / (4 N) in either. Mu is taken to be weaker than the phase, as it mostly is.
    """
    weight = seen / seen.sum((1, 2), keepdim=True)
    square = (weight[:, None] * _parts(canvas).square()).sum((2, 3))
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
