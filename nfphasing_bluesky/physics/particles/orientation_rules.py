"""Which Gauss-Legendre rule is good enough for the particle at a q, for averages over orientation in float32.

An integrand oscillates along the cosine u to the particle's axis, and has poles beside the real axis (see
`orientation`). Both set the largest q that a rule is good for.

Letters: N particles, Q points, M of all their N Q pairs, R rules, L nodes of all pairs.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.kept import kept
from nfphasing_bluesky.physics.particles import schulz
from nfphasing_bluesky.physics.particles.orientation import half_gauss_legendre

RULES = (6, 12, 20, 32, 48, 80, 128, 200, 320, 512)
DIGITS = 7.0
"""-log of the tolerance, over 4: an intensity may be 1e-5 of the largest value that is averaged."""

AT_ONCE = 1 << 17
"""Largest number of values in a temporary."""


class Nodes(NamedTuple):
    """Nodes (L,) of some pairs, those of one pair together.

    pairs: which of all pairs, a slice; pair: (L,) that each is of, within all of them; cosine; weight;
    first: place of the first node of each pair.
    """

    pairs: slice
    pair: Tensor
    cosine: Tensor
    weight: Tensor
    first: Tensor


def ellipsoid_limits(q: Tensor, polar: Tensor, equatorial: Tensor, polydispersity: Tensor) -> Tensor:
    """(N, R) largest q that each rule is good for; radii and relative standard deviation (N,)."""
    equatorial2 = equatorial.detach().square()[:, None]
    difference = polar.detach().square()[:, None] - equatorial2
    flat2 = difference.abs().clamp_min(1e-6)
    phase, decay = _limits(q.device, q.dtype)
    pole = torch.where(difference > 0, decay.sinh(), decay.cosh())
    beyond = (pole.square() * flat2 - equatorial2).clamp_min(1e-12).sqrt()
    return torch.minimum(phase / flat2.sqrt(), _spread(polydispersity) / beyond)


def cylinder_limits(q: Tensor, radius: Tensor, length: Tensor, polydispersity: Tensor) -> Tensor:
    """(N, R) largest q that each rule is good for; radius, length and relative standard deviation (N,)."""
    phase, decay = _limits(q.device, q.dtype)
    wide, long = radius.detach()[:, None], 0.5 * length.detach()[:, None]
    return torch.minimum(phase / (wide + long), _spread(polydispersity) / (wide * decay.sinh()))


def rule_of(limits: Tensor, q: Tensor) -> Tensor:
    """(M,) number of the smallest rule that is good enough, int32, for q (N, Q)."""
    number = torch.searchsorted(limits.contiguous(), q.detach().contiguous(), out_int32=True)
    return number.flatten().clamp_(max=len(RULES) - 1)


def rule(number: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines (n, 1) and weights (n,) of one rule."""
    table = _table(device, dtype)
    mine = slice(sum(RULES[:number]), sum(RULES[: number + 1]))
    return table.cosine[mine, None], table.weight[mine]


def nodes(limits: Tensor, q: Tensor) -> Iterator[Nodes]:
    """All nodes of all pairs, of a few pairs after the other where there are very many."""
    table = _table(q.device, q.dtype)
    number = rule_of(limits, q)
    count = table.size.index_select(0, number)
    start, end = table.start.index_select(0, number), count.cumsum(0)
    total = int(end[-1])
    cuts = torch.tensor(range(AT_ONCE, total, AT_ONCE), dtype=end.dtype, device=q.device)
    edges = [0, *torch.searchsorted(end, cuts).tolist(), len(count)]
    for a, b in zip(edges, edges[1:], strict=False):
        few, size = count[a:b], total if b - a == len(count) else int(count[a:b].sum())
        own = torch.repeat_interleave(few, output_size=size)
        first = few.cumsum(0) - few
        place = torch.arange(size, device=q.device) + (start[a:b] - first).index_select(0, own)
        cosine, weight = (part.index_select(0, place) for part in (table.cosine, table.weight))
        yield Nodes(slice(a, b), own + a if a else own, cosine, weight, first)


class _Rules(NamedTuple):
    """Nodes and weights of all rules one after the other; number of nodes and first one of each rule."""

    cosine: Tensor
    weight: Tensor
    size: Tensor
    start: Tensor


@kept(8)
def _table(device: torch.device, dtype: torch.dtype) -> _Rules:
    cosine, weight = (
        torch.cat(p) for p in zip(*(half_gauss_legendre(n, device) for n in RULES), strict=True)
    )
    count = torch.tensor(RULES, device=device)
    return _Rules(cosine.to(dtype), weight.to(dtype), count, count.cumsum(0) - count)


def _spread(polydispersity: Tensor) -> Tensor:
    """(N, 1) distance of a Schulz average's pole from the real axis, times q."""
    return (0.5 / schulz.relative_variance(polydispersity.detach())).to(polydispersity)[:, None]


@kept(8)
def _limits(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(R,) largest phase between u = 0 and 1, and least log(rho) of a pole, of every rule."""
    phases = []
    for n in RULES:
        low, high = 0.0, 2.0 * n
        for _ in range(50):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if 2 + middle / 2 + 1.6 * middle ** (1 / 3) < n else (low, middle)
        phases.append(low)
    phases[-1] = math.inf
    phase, decay = torch.tensor(phases).double(), DIGITS / torch.tensor(RULES).double()
    return phase.to(device, dtype), decay.to(device, dtype)
