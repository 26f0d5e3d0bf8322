"""Solid bodies: points drawn inside them, and their pair-distance distributions.

A body is a union of ellipsoids and cylinders, each possibly hollow (`Primitives`); the families that draw
them are in `bodies`. Letters: B bodies, P primitives of a body, N points, X points of p(x), K coefficients.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.shapes.pair_distance import coefficients_from_p

_CANDIDATES = 4
"""Candidates drawn per point; a candidate inside m overlapping primitives is kept with probability 1 / m."""
_PAIRS_AT_ONCE = (1 << 25, 1 << 19)
"""On an accelerator, and on a CPU, where one body's pairs should stay in the cache."""
_FINE = 4
"""Histogram bins per step of the x grid."""


@dataclass(frozen=True, eq=False)
class Primitives:
    """Unions of ellipsoids and elliptic cylinders.

    Args:
        centre: (B, P, 3).
        axes: (B, P, 3) half axes; of a cylinder, its two radii and half its height.
        rotation: (B, P, 3, 3), world = centre + rotation @ local.
        hollow: (B, P) fraction of the radius that is empty, 0 to 1.
        cylinder: (B, P) True for cylinders.
        density: (B, P) weight of each primitive's points; 0 leaves the primitive out.
    """

    centre: Tensor
    axes: Tensor
    rotation: Tensor
    hollow: Tensor
    cylinder: Tensor
    density: Tensor

    def volume(self) -> Tensor:
        """(B, P) volumes, 0 where left out."""
        solid = self.axes.prod(-1)
        ball = 4 / 3 * torch.pi * (1 - self.hollow**3)
        tube = 2 * torch.pi * (1 - self.hollow**2)
        return solid * torch.where(self.cylinder, tube, ball) * (self.density > 0)

    def width(self, direction: Tensor) -> Tensor:
        """(B,) extent along unit vectors (B, 3)."""
        along = (self.centre @ direction[:, :, None])[..., 0]
        local = (direction[:, None, None, :] @ self.rotation)[:, :, 0, :] * self.axes
        ball = local.norm(dim=-1)
        tube = local[..., :2].norm(dim=-1) + local[..., 2].abs()
        half = torch.where(self.cylinder, tube, ball)
        absent = torch.where(self.density > 0, 0.0, torch.inf)
        return (along + half - absent).amax(-1) - (along - half + absent).amin(-1)


def draw_points(body: Primitives, points: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw points uniformly in each union: (B, N, 3) and weights (B, N), 0 for a missing point."""
    B = body.centre.shape[0]
    M = _CANDIDATES * points
    u = _low_discrepancy(B, M, generator)
    share = (body.volume() / body.volume().sum(1, keepdim=True)).cumsum(1)
    which = torch.searchsorted(share, u[..., 3].contiguous()).clamp(max=share.shape[1] - 1)
    local = _inside_unit(u, body.hollow.gather(1, which), body.cylinder.gather(1, which))
    local = local * _pick(body.axes, which)
    rotation = _pick(body.rotation.flatten(2), which).unflatten(-1, (3, 3))
    world = _pick(body.centre, which) + (rotation @ local[..., None])[..., 0]
    keep = u[..., 4] * _covering(body, world) < 1
    order = torch.argsort(keep.to(torch.uint8), dim=1, descending=True, stable=True)[:, :points]
    weights = body.density.gather(1, which) * keep
    return _pick(world, order), weights.gather(1, order)


def _low_discrepancy(B: int, M: int, generator: Generator) -> Tensor:
    """(B, M, 5) uniforms: one scrambled Sobol sequence, shifted at random for each body.

    It fills space more evenly than independent points, which makes p(r) several times less noisy.
    """
    device = generator.device
    seed = int(torch.randint(2**31, (1,), generator=generator, device=device))
    walk = torch.quasirandom.SobolEngine(5, scramble=True, seed=seed).draw(M).to(device)
    return (walk + torch.rand(B, 1, 5, generator=generator, device=device)) % 1


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _inside_unit(u: Tensor, hollow: Tensor, cylinder: Tensor) -> Tensor:
    """Uniform points (B, M, 3) in the hollow unit ball or cylinder, from the first three of u."""
    angle = 2 * torch.pi * u[..., 0]
    z = 2 * u[..., 1] - 1
    radius = (hollow**3 + (1 - hollow**3) * u[..., 2]).pow(1 / 3)
    ball_across = radius * (1 - z**2).clamp(min=0).sqrt()
    tube_across = (hollow**2 + (1 - hollow**2) * u[..., 2]).sqrt()
    across = torch.where(cylinder, tube_across, ball_across)
    height = torch.where(cylinder, z, radius * z)
    return torch.stack([across * angle.cos(), across * angle.sin(), height], -1)


def _covering(body: Primitives, world: Tensor) -> Tensor:
    """(B, M) number of primitives that hold each point, at least 1."""
    to_local = (body.rotation / body.axes[:, :, None, :]).permute(0, 2, 1, 3).flatten(2)
    local = (world @ to_local).unflatten(-1, (-1, 3))
    local = local - (body.centre[:, :, None, :] @ body.rotation)[:, :, 0, :][:, None] / body.axes[:, None]
    across2 = local[..., 0].square() + local[..., 1].square()
    z2 = local[..., 2].square()
    cylinder = body.cylinder[:, None]
    radial = torch.where(cylinder, across2, across2 + z2)
    inside = (radial <= 1) & (radial >= body.hollow[:, None].square()) & ~(cylinder & (z2 > 1))
    return (inside & (body.density > 0)[:, None]).sum(-1).clamp(min=1)


def pair_distance_histogram(
    points: Tensor, weights: Tensor, bins: int = 128, d_max: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """p(x) of point sets over all pairs of different points.

    Args:
        points: (B, N, 3).
        weights: (B, N) >= 0.
        bins: X, points of the uniform grid x = r / Dmax in [0, 1].
        d_max: (B,) largest distance in the body; that between the points when None.

    Returns:
        p (B, X) of unit area with p(0) = p(1) = 0, and d_max (B,) in the unit of the points.
    """
    if d_max is None:
        present = (weights[:, :, None] > 0) & (weights[:, None] > 0)
        d_max = (torch.cdist(points, points) * present).amax((1, 2))
    counts = _count_pairs(points, weights, points, weights, d_max, _FINE * (bins - 1))
    counts[:, 0] -= weights.square().sum(1)
    return _smooth(counts, bins), d_max


def cross_distance_histogram(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], bins: int, d_max: Tensor
) -> Tensor:
    """p(x) (B, X) over the pairs of two independent draws (points, weights) from the same bodies.

    Evenly spread points keep away from one another, so the pairs within one draw miss short distances;
    between two independent draws they do not.
    """
    return _smooth(_count_pairs(*first, *second, d_max, _FINE * (bins - 1)), bins)


def _count_pairs(a: Tensor, wa: Tensor, b: Tensor, wb: Tensor, d_max: Tensor, fine: int) -> Tensor:
    """(B, fine) weight of all pairs (a, b) by distance, in float64."""
    step = max(1, _PAIRS_AT_ONCE[a.device.type == "cpu"] // (a.shape[1] * b.shape[1]))
    scale = (fine / d_max)[:, None, None]
    parts = []
    for i in range(0, a.shape[0], step):
        rows = slice(i, i + step)
        x, y = a[rows] * scale[rows], b[rows] * scale[rows]
        square = (x[:, :, None, 0] - y[:, None, :, 0]).square_()
        for axis in (1, 2):
            square += (x[:, :, None, axis] - y[:, None, :, axis]).square_()
        cell = square.sqrt_().clamp_(max=fine - 0.5).long()
        cell += (torch.arange(cell.shape[0], device=cell.device) * fine)[:, None, None]
        pair = wa[rows, :, None] * wb[rows, None].double()
        parts.append(torch.bincount(cell.flatten(), pair.flatten(), minlength=cell.shape[0] * fine))
    return torch.cat(parts).view(-1, fine)


def _smooth(counts: Tensor, bins: int) -> Tensor:
    """Fine counts (B, fine) to p (B, X) of unit area, float32."""
    p = counts @ _hats(bins, counts.dtype, counts.device)
    p[:, 0] = p[:, -1] = 0
    return (p * ((bins - 1) / p.sum(1, keepdim=True))).float()


def _hats(bins: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(fine, X) linear sharing of each fine bin between its two grid points."""
    fine = _FINE * (bins - 1)
    centre = (torch.arange(fine, dtype=dtype, device=device) + 0.5) / _FINE
    return (1 - (centre[:, None] - torch.arange(bins, dtype=dtype, device=device)).abs()).clamp(min=0)


def diameter(body: Primitives, points: Tensor, weights: Tensor) -> Tensor:
    """(B,) largest distance in each body: its width along the farthest pair of its points, refined once."""
    far = points
    origin = (points * weights[..., None]).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
    for _ in range(3):
        reach = torch.where(weights > 0, (far - origin).norm(dim=-1), -1)
        origin = _pick(far, reach.argmax(1, keepdim=True))
    other = _pick(far, torch.where(weights > 0, (far - origin).norm(dim=-1), -1).argmax(1, keepdim=True))
    direction = torch.nn.functional.normalize((other - origin)[:, 0], dim=-1)
    return torch.maximum(body.width(direction), (other - origin)[:, 0].norm(dim=-1))


def pair_distances(
    body: Primitives, generator: Generator, points: int = 448, bins: int = 128
) -> tuple[Tensor, Tensor]:
    """p(x) (B, X) and Dmax (B,) of bodies, from two draws of points inside each."""
    first, second = draw_points(body, points, generator), draw_points(body, points, generator)
    d_max = diameter(body, *(torch.cat(pair, 1) for pair in zip(first, second, strict=True)))
    return cross_distance_histogram(first, second, bins, d_max), d_max


def coefficients_of(body: Primitives, generator: Generator, coefficients: int) -> Tensor:
    """(B, K) sine coefficients of sqrt p of bodies."""
    p, _ = pair_distances(body, generator)
    x = torch.linspace(0, 1, p.shape[1], dtype=p.dtype, device=p.device)
    return coefficients_from_p(p, x, coefficients)
