"""The form factors of `saxs` for many particles at once, from float32 tables: what inference computes.

Arguments and results are those of `saxs`, with which these agree to 1e-4 but for the deepest minima; the
dtype is that of all arguments. Averages over sizes come from `size_tables`. Those over orientation are sums
over the nodes of a Gauss-Legendre rule, the smallest one that is good enough for a particle at a q (see
`orientation`), whatever else is computed with it.

Letters: N particles, Q points, M of all their N Q pairs, n nodes of a rule, R rules.
"""

import math
from collections.abc import Callable

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

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(particle (M,), pair (M,), cosine to the axis (n, 1)) -> (n, M) integrand."""


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

    def kernel(particle: Tensor, pair: Tensor, u: Tensor) -> Tensor:
        across2, more = equatorial2.index_select(0, particle), difference.index_select(0, particle)
        radius = torch.addcmul(across2, more, u.square()).sqrt()
        return average(particle, radius * points.index_select(0, pair))

    flat2 = difference.detach().abs().clamp_min(1e-6)[:, None]
    prolate = (difference.detach() > 0)[:, None]
    phase, decay = _limits(q)
    pole = torch.where(prolate, decay.sinh(), decay.cosh())
    beyond = (pole.square() * flat2 - equatorial2.detach()[:, None]).clamp_min(1e-12).sqrt()
    return _averages(kernel, torch.minimum(phase / flat2.sqrt(), _spread(polydispersity) / beyond), q)


def cylinder(q: Tensor, radius: Tensor, length: Tensor, polydispersity: Tensor) -> Tensor:
    """Circular cylinders, all orientations; the radius is distributed, the length is not."""
    kappa, half = (q * radius[:, None]).flatten(), (q * (0.5 * length[:, None])).flatten()
    average = size_tables.disc(polydispersity, kappa)

    def kernel(particle: Tensor, pair: Tensor, u: Tensor) -> Tensor:
        along = half.index_select(0, pair) * u
        across = kappa.index_select(0, pair) * (1 - u.square()).sqrt()
        return average(particle, across) * (along.sin() / along).square()

    phase, decay = _limits(q)
    wide, long = radius.detach()[:, None], 0.5 * length.detach()[:, None]
    return _averages(
        kernel, torch.minimum(phase / (wide + long), _spread(polydispersity) / (wide * decay.sinh())), q
    )


def _spread(polydispersity: Tensor) -> Tensor:
    """(N, 1) distance of a Schulz average's pole from the real axis, times q."""
    return (0.5 / schulz.relative_variance(polydispersity.detach())).to(polydispersity)[:, None]


def _averages(kernel: Kernel, limits: Tensor, q: Tensor) -> Tensor:
    """(N, Q) averages over orientation.

    Args:
        kernel: integrand, even in the cosine.
        limits: (N, R) largest q that each rule is good for.
        q: (N, Q).
    """
    rule = torch.searchsorted(limits.contiguous(), q.detach().contiguous(), out_int32=True).flatten()
    rule.clamp_(max=len(RULES) - 1)
    pairs, parts = [], []
    for number, count in enumerate(rule.bincount(minlength=len(RULES)).tolist()):
        if not count:
            continue
        mine = (rule == number).nonzero()[:, 0]
        u, weight = _rule(RULES[number], q.device, q.dtype)
        for pair in mine.split(max(1, _AT_ONCE // RULES[number])):
            particle = torch.div(pair, q.shape[1], rounding_mode="floor").int()
            parts.append(weight @ kernel(particle, pair, u))
            pairs.append(pair)
    order = torch.cat(pairs)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return torch.cat(parts).index_select(0, back).view_as(q)


def _limits(q: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) largest phase between u = 0 and 1, and least log(rho) of a pole, of every rule."""
    return tuple(part.to(q) for part in _every_limit())  # type: ignore[return-value]


@kept(1)
def _every_limit() -> tuple[Tensor, Tensor]:
    phases = []
    for n in RULES:
        low, high = 0.0, 2.0 * n
        for _ in range(50):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if 2 + middle / 2 + 1.6 * middle ** (1 / 3) < n else (low, middle)
        phases.append(low)
    phases[-1] = math.inf
    return torch.tensor(phases, dtype=torch.float64), DIGITS / torch.tensor(RULES, dtype=torch.float64)


@kept(64)
def _rule(n: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines (n, 1) and weights (n,)."""
    u, weight = half_gauss_legendre(n, device)
    return u.to(dtype)[:, None], weight.to(dtype)
