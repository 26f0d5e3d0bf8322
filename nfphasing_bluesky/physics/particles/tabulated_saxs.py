"""The form factors of `saxs` for many particles at once, from float32 tables: what inference computes.

Arguments and results are those of `saxs`, with which these agree to 1e-4 but for the deepest minima; the
dtype is that of all arguments. Averages over sizes come from `size_tables`. Those over orientation are sums
over the nodes of a Gauss-Legendre rule, the smallest one that is good enough for a particle at a q (see
`orientation_rules`), whatever else is computed with it.

Letters: N particles, Q points, M of all their N Q pairs, n nodes of a rule, R rules.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nfphasing_bluesky.physics.particles import size_tables
from nfphasing_bluesky.physics.particles.orientation_rules import (
    AT_ONCE,
    RULES,
    cylinder_limits,
    ellipsoid_limits,
    rule,
    rule_of,
)

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

    return _averages(kernel, ellipsoid_limits(q, polar_radius, equatorial_radius, polydispersity), q)


def cylinder(q: Tensor, radius: Tensor, length: Tensor, polydispersity: Tensor) -> Tensor:
    """Circular cylinders, all orientations; the radius is distributed, the length is not."""
    kappa, half = (q * radius[:, None]).flatten(), (q * (0.5 * length[:, None])).flatten()
    average = size_tables.disc(polydispersity, kappa)

    def kernel(particle: Tensor, pair: Tensor, u: Tensor) -> Tensor:
        along = half.index_select(0, pair) * u
        across = kappa.index_select(0, pair) * (1 - u.square()).sqrt()
        return average(particle, across) * (along.sin() / along).square()

    return _averages(kernel, cylinder_limits(q, radius, length, polydispersity), q)


def _averages(kernel: Kernel, limits: Tensor, q: Tensor) -> Tensor:
    """(N, Q) averages over orientation.

    Args:
        kernel: integrand, even in the cosine.
        limits: (N, R) largest q that each rule is good for.
        q: (N, Q).
    """
    number = rule_of(limits, q)
    pairs, parts = [], []
    for k, count in enumerate(number.bincount(minlength=len(RULES)).tolist()):
        if not count:
            continue
        mine = (number == k).nonzero()[:, 0]
        u, weight = rule(k, q.device, q.dtype)
        for pair in mine.split(max(1, AT_ONCE // RULES[k])):
            particle = torch.div(pair, q.shape[1], rounding_mode="floor").int()
            parts.append(weight @ kernel(particle, pair, u))
            pairs.append(pair)
    order = torch.cat(pairs)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return torch.cat(parts).index_select(0, back).view_as(q)
