"""What a network sees of ptychographic scans: estimates of patches, and what stands behind them.

Letters: N patches, B scans, P probe modes, H, W frame.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.imaging.overlap import Group
from nfphasing_bluesky.physics.imaging.probes import light_radius
from nfphasing_bluesky.physics.imaging.scan_estimate import Effort, PatchEstimate, estimate_scans
from nfphasing_bluesky.physics.ptychography import FarField, NearField, Propagation

EFFORT = Effort()
FRAMES = 25
"""Of a simulated scan, at most: what lies further from a frame says little of its patch."""

LEAST_SCALE = 0.01
STRONGEST_ABSORPTION = 3.0
CHANNELS, EXTRAS, CLIPPED = 12, 8, 8.0
REFERENCE = (0, 1)
"""Channels that are the best estimates of phase and absorption."""


class Context(NamedTuple):
    """Channels (N, C, H, W), scalars (N, E) and light (N, H, W) of patches, the direct beam at [0, 0].

    Channels: phase and absorption that explain the scan and are as smooth as objects are; for each of them
    what the sweeps said, what the first round said, how far photons outweigh the prior, and what the own
    frame still pulls; all but the weights over their scales, root mean squares under the light; photons of
    the own frame and of all.
    """

    channels: Tensor
    extras: Tensor
    light: Tensor

    def at(self, rows: Tensor) -> "Context":
        """That of some patches."""
        return Context(*(part[rows] for part in self))

    @classmethod
    def joined(cls, parts: Sequence["Context"]) -> "Context":
        """Those of several, one after the other."""
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))


def context(group: Group, fresnel_number: Tensor, scan: Tensor, rank: Tensor) -> Context:
    """What scans say of patches.

    Args:
        group: the frames of B scans.
        fresnel_number: (B,) NaN in the far field.
        scan: (N,) whose patch.
        rank: (N,) of which of its frames.
    """
    share = group.present.float().sum(1) / FRAMES
    found, order = [], []
    for rows in _kinds(fresnel_number):
        some = group.at(rows)
        for few, scans in estimate_scans(some, propagation_of(fresnel_number[rows]), EFFORT):
            for b, row in enumerate(rows[few].tolist()):
                mine = (scan == row).nonzero()[:, 0]
                if not len(mine):
                    continue
                parts = PatchEstimate.joined([scans.patch(b, int(rank[i])) for i in mine])
                probe, number, there = (
                    v[row, None].expand(len(mine), *v.shape[1:]) for v in (group.probe, fresnel_number, share)
                )
                found.append(describe(parts, probe, number, there))
                order.append(mine)
    return Context.joined(found).at(torch.cat(order).argsort())


def _kinds(fresnel_number: Tensor) -> list[Tensor]:
    """Rows of near and of far fields, where there are any."""
    near = torch.isfinite(fresnel_number)
    return [rows for rows in (near.nonzero()[:, 0], (~near).nonzero()[:, 0]) if len(rows)]


def propagation_of(fresnel_number: Tensor) -> Callable[[Tensor], Propagation]:
    """Of the scans at some indices; all are near field, or none."""
    if bool(torch.isnan(fresnel_number).any()):
        return lambda _: FarField(centred=False)
    return lambda rows: NearField(fresnel_number[rows])


def describe(found: PatchEstimate, probe: Tensor, number: Tensor, there: Tensor) -> Context:
    """What a network sees of estimates.

    Args:
        found: of N patches.
        probe: (N, P, H, W) of their frames.
        number: (N,) Fresnel numbers, NaN in the far field.
        there: (N,) number of frames in the scan over `FRAMES`, at most 1.
    """
    phases = [patch.angle() for patch in found.patches]
    absorptions = [
        -patch.abs().clamp_min(1e-6).log().clamp(-0.5, STRONGEST_ABSORPTION) for patch in found.patches
    ]
    last = found.patches[-1]
    pull = found.pull * last.conj() / last.abs().square().clamp_min(0.05)
    weight = found.seen / found.seen.sum((1, 2), keepdim=True)

    def scale(values: Tensor) -> Tensor:
        return (weight * values.square()).sum((1, 2)).sqrt().clamp_min(LEAST_SCALE)

    sizes = [scale(values[-1])[:, None, None] for values in (phases, absorptions)]
    columns = [values[-1] / size for values, size in zip((phases, absorptions), sizes, strict=True)]
    for values, size, wish in zip((phases, absorptions), sizes, (pull.imag, -pull.real), strict=True):
        # photons N leave a standard deviation of 1 / (2 sqrt N) in either
        outweighed = found.seen / (found.seen + 0.25 / size.square())
        columns += [(values[i] / size).clamp(-CLIPPED, CLIPPED) for i in (0, 1)]
        columns += [outweighed, (wish / size).clamp(-CLIPPED, CLIPPED)]
    columns += [(1 + photons).log() / 4 - 1 for photons in (found.light, found.seen)]
    near = torch.isfinite(number)
    photons = found.light.sum((1, 2))
    scalars = [
        sizes[0][:, 0, 0].log(),
        sizes[1][:, 0, 0].log(),
        photons.log() / 5 - 3,
        near.to(photons),
        torch.where(near, number, 1.0).log().to(photons) / 2,
        there,
        found.misfit.clamp_min(1e-3).log() / 2,
        light_radius(probe).log() / 2 - 1,
    ]
    return Context(torch.stack(columns, 1), torch.stack(scalars, 1), found.light)
