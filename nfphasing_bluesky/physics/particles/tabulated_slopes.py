"""Form factors of `tabulated_saxs` and their derivatives by every parameter, from the same tables: for fits.

A fit computes few particles many times, and the time of an operation on little is what it costs: all nodes of
all pairs of particle and q go in one list. Derivatives by a length are those by its logarithm.

Letters: N particles, Q points, M of all their N Q pairs, L nodes of all pairs.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from nfphasing_bluesky.physics.particles import size_tables
from nfphasing_bluesky.physics.particles.orientation_rules import cylinder_limits, ellipsoid_limits, nodes

Kernel = Callable[[Tensor, Tensor], Tensor]
"""(pair (L,), cosine to the axis (L,)) -> (L, K) integrands."""


def sphere_slopes(q: Tensor, radius: Tensor, polydispersity: Tensor) -> tuple[Tensor, Tensor]:
    """(N, Q) spheres, and (N, 2, Q) derivatives by log(radius) and polydispersity, for q (N, Q)."""
    x = (q * radius[:, None]).flatten()
    value, by_size, by_p = size_tables.sphere_slopes(polydispersity, x)(_particles(q), x)
    return value.view_as(q), torch.stack([by_size.view_as(q), by_p.view_as(q)], 1)


def ellipsoid_slopes(q: Tensor, polar: Tensor, equatorial: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """(N, Q) ellipsoids, and (N, 3, Q) derivatives.

    They are by the logarithm of the mean radius (polar equatorial^2)^(1/3), by that of polar / equatorial at
    the same mean radius, and by the polydispersity p.
    """
    q2, equatorial2 = q.square(), equatorial.square()[:, None]
    across = (q2 * equatorial2).flatten()
    more = (q2 * (polar.square()[:, None] - equatorial2)).flatten()
    average = size_tables.sphere_slopes(p, q.amax(1) * torch.maximum(polar, equatorial))
    particles = _particles(q)

    def kernel(pair: Tensor, u: Tensor) -> Tensor:
        a, b, u2 = across.index_select(0, pair), more.index_select(0, pair), u.square()
        x2 = torch.addcmul(a, b, u2)
        value, by_size, by_p = average(particles.index_select(0, pair), x2.sqrt())
        # of x^2 / 2 by log(polar / equatorial)
        stretch = torch.addcmul(a * (-1 / 3), torch.add(a, b, alpha=2 / 3), u2)
        return torch.stack([value, by_size, by_size * stretch / x2, by_p], 1)

    return _averages(kernel, ellipsoid_limits(q, polar, equatorial, p), q)


def cylinder_slopes(q: Tensor, radius: Tensor, length: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """(N, Q) cylinders, and (N, 3, Q) derivatives by log(radius), log(length) and the radius's p."""
    kappa, half = (q * radius[:, None]).flatten(), (q * (0.5 * length[:, None])).flatten()
    average = size_tables.disc_slopes(p, kappa)
    particles = _particles(q)

    def kernel(pair: Tensor, u: Tensor) -> Tensor:
        along = half.index_select(0, pair) * u
        across = kappa.index_select(0, pair) * (1 - u.square()).sqrt()
        value, by_size, by_p = average(particles.index_select(0, pair), across)
        slit = along.sin() / along
        slit2 = slit.square()
        by_length = 2 * slit * (along.cos() - slit) * value
        return torch.stack([value * slit2, by_size * slit2, by_length, by_p * slit2], 1)

    return _averages(kernel, cylinder_limits(q, radius, length, p), q)


def _particles(q: Tensor) -> Tensor:
    """(M,) the particle of every pair."""
    return torch.arange(len(q), device=q.device, dtype=torch.int32).repeat_interleave(q.shape[1])


def _averages(kernel: Kernel, limits: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """(N, Q) averages over orientation of the first integrand, and (N, K - 1, Q) of the others."""
    parts = []
    for part in nodes(limits, q):
        each = torch.arange(len(part.pair), device=q.device)
        values = kernel(part.pair, part.cosine)
        parts.append(embedding_bag(each, values, part.first, mode="sum", per_sample_weights=part.weight))
    found = (parts[0] if len(parts) == 1 else torch.cat(parts)).view(*q.shape, -1)
    return found[..., 0], found[..., 1:].mT
