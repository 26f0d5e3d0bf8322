"""The form factors of `saxs` for many particles at once, from float32 tables: what inference computes.

Arguments and results are those of `saxs`, with which these agree to 1e-4 but for the deepest minima; the
dtype is that of all arguments. Averages over sizes come from `size_tables`. Those over orientation are sums
over the nodes of a Gauss-Legendre rule, the smallest one that is good enough for a particle at a q (see
`orientation`), whatever else is computed with it.

Letters: N particles, Q points, M of all their N Q pairs, n nodes of a rule, R rules.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics import schulz, size_tables
from nfphasing_bluesky.physics.kept import kept
from nfphasing_bluesky.physics.orientation import half_gauss_legendre

RULES = (6, 12, 20, 32, 48, 80, 128, 200, 320, 512)
DIGITS = 7.0
"""-log of the tolerance, over 4: an intensity may be 1e-5 of the largest value that is averaged."""

_AT_ONCE = 1 << 17
"""Largest number of values in a temporary."""


class Rule(NamedTuple):
    """Nodes of a quadrature over orientation: cosine to the axis, its square, sine (n, 1); weights (n,)."""

    cosine: Tensor
    cosine2: Tensor
    sine: Tensor
    weight: Tensor


Integrand = Callable[[slice, Rule], Tensor]
"""(some of M pairs, nodes) -> (n, M) values there."""

Prepare = Callable[[Tensor, Tensor], Integrand]
"""(particle (M,) int32, pair (M,)) -> the integrand of these pairs."""


def sphere(q: Tensor, radius: Tensor, polydispersity: Tensor) -> Tensor:
    """Homogeneous spheres of mean radius `radius`: (N, Q) for q (N, Q)."""
    x = q * radius[:, None]
    rows = torch.arange(len(x), dtype=torch.int32, device=x.device)[:, None]
    return size_tables.sphere(polydispersity, x)(rows, x)


def ellipsoid(q: Tensor, polar_radius: Tensor, equatorial_radius: Tensor, polydispersity: Tensor) -> Tensor:
    """Ellipsoids of revolution, all orientations; both radii share one Schulz factor."""
    equatorial2 = equatorial_radius.square()
    difference = polar_radius.square() - equatorial2
    longest = torch.maximum(polar_radius, equatorial_radius).detach()
    average = size_tables.sphere(polydispersity, q.detach().amax(1) * longest)
    points = q.flatten()

    def prepare(particle: Tensor, pair: Tensor) -> Integrand:
        across2, more = equatorial2.index_select(0, particle), difference.index_select(0, particle)
        place = points.index_select(0, pair)

        def integrand(some: slice, rule: Rule) -> Tensor:
            radius = torch.addcmul(across2[some], more[some], rule.cosine2).sqrt()
            return average(particle[some], radius * place[some])

        return integrand

    flat2 = difference.detach().abs().clamp_min(1e-6)[:, None]
    prolate = (difference.detach() > 0)[:, None]
    phase, decay = _limits(q)
    pole = torch.where(prolate, decay.sinh(), decay.cosh())
    beyond = (pole.square() * flat2 - equatorial2.detach()[:, None]).clamp_min(1e-12).sqrt()
    return _averages(prepare, torch.minimum(phase / flat2.sqrt(), _spread(polydispersity) / beyond), q)


def cylinder(q: Tensor, radius: Tensor, length: Tensor, polydispersity: Tensor) -> Tensor:
    """Circular cylinders, all orientations; the radius is distributed, the length is not."""
    kappa, half = (q * radius[:, None]).flatten(), (q * (0.5 * length[:, None])).flatten()
    average = size_tables.disc(polydispersity, kappa)

    def prepare(particle: Tensor, pair: Tensor) -> Integrand:
        full_along, full_across = half.index_select(0, pair), kappa.index_select(0, pair)

        def integrand(some: slice, rule: Rule) -> Tensor:
            along, across = full_along[some] * rule.cosine, full_across[some] * rule.sine
            return average(particle[some], across) * (along.sin() / along).square()

        return integrand

    phase, decay = _limits(q)
    wide, long = radius.detach()[:, None], 0.5 * length.detach()[:, None]
    return _averages(
        prepare, torch.minimum(phase / (wide + long), _spread(polydispersity) / (wide * decay.sinh())), q
    )


def _spread(polydispersity: Tensor) -> Tensor:
    """(N, 1) distance of a Schulz average's pole from the real axis, times q."""
    return (0.5 / schulz.relative_variance(polydispersity.detach())).to(polydispersity)[:, None]


def _averages(prepare: Prepare, limits: Tensor, q: Tensor) -> Tensor:
    """(N, Q) averages over orientation.

    Args:
        prepare: makes the integrand, even in the cosine.
        limits: (N, R) largest q that each rule is good for.
        q: (N, Q).
    """
    rule = torch.searchsorted(limits.contiguous(), q.detach().contiguous(), out_int32=True).flatten()
    rule.clamp_(max=len(RULES) - 1)
    counts = rule.bincount(minlength=len(RULES)).tolist()
    # pairs of one rule together
    order = torch.cat([(rule == number).nonzero()[:, 0] for number, count in enumerate(counts) if count])
    integrand = prepare(torch.div(order, q.shape[1], rounding_mode="floor").int(), order)
    parts, end = [], 0
    for nodes, count in zip(RULES, counts, strict=True):
        begin, end, most = end, end + count, max(1, _AT_ONCE // nodes)
        for first in range(begin, end, most):
            made = _rule(nodes, q.device, q.dtype)
            parts.append(made.weight @ integrand(slice(first, min(first + most, end)), made))
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return torch.cat(parts).index_select(0, back).view_as(q)


def _limits(q: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) largest phase between u = 0 and 1, and least log(rho) of a pole, of every rule."""
    return _every_limit(q.device, q.dtype)


@kept(16)
def _every_limit(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    phases = []
    for n in RULES:
        low, high = 0.0, 2.0 * n
        for _ in range(50):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if 2 + middle / 2 + 1.6 * middle ** (1 / 3) < n else (low, middle)
        phases.append(low)
    phases[-1] = math.inf
    decays = DIGITS / torch.tensor(RULES, dtype=torch.float64)
    return torch.tensor(phases, dtype=torch.float64).to(device, dtype), decays.to(device, dtype)


@kept(64)
def _rule(n: int, device: torch.device, dtype: torch.dtype) -> Rule:
    u, weight = half_gauss_legendre(n, device)
    cosine = u.to(dtype)[:, None]
    return Rule(cosine, cosine.square(), (1 - cosine.square()).sqrt(), weight.to(dtype))
