"""Outlines: discs, ellipses, polygons of three to six corners, and rounded shapes like cells."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import angles, each, integers, log_uniform, normal, uniform
from nfphasing_bluesky.physics.objects.stamps import Profile, paint, polygon_distance

MOST_CORNERS = 6
_UNEVEN = 0.2
_HARMONICS = 5
# distance of the farthest corner over the radius, by the number of corners, when sides are that uneven
_FARTHEST = (1.0, 1.0, 1.0, 1.88, 1.51, 1.39, 1.33)


class Outlines(NamedTuple):
    """M convex outlines; lengths in px."""

    radius: Tensor
    """(M,) that of the disc of equal area (when the sides are even)."""
    aspect: Tensor
    """(M,) length over width, 1 or more."""
    angle: Tensor
    """(M,) of the length, from the column axis towards the row axis, rad."""
    corners: Tensor
    """(M,) 0 for an ellipse, else 3 to 6."""
    offsets: Tensor
    """(M, 6) distances of the sides from the centre over those of a regular polygon, 0.8 to 1.2."""


def draw_outlines(radius: Tensor, sort: Tensor, longest: float, generator: Generator) -> Outlines:
    """Outlines of given radii (M,), px, and sorts (M,): 0 discs, 1 ellipses, 2 polygons.

    Aspects are log-uniform from 1 to `longest`; half of the polygons are regular.
    """
    M = len(radius)
    aspect = torch.where(sort == 0, 1.0, log_uniform(generator, (M,), 1, longest))
    corners = torch.where(sort == 2, integers(generator, (M,), 3, MOST_CORNERS), 0)
    regular = uniform(generator, (M, 1)) < 0.5
    uneven = uniform(generator, (M, MOST_CORNERS), 1 - _UNEVEN, 1 + _UNEVEN)
    return Outlines(radius, aspect, angles(generator, (M,)), corners, torch.where(regular, 1.0, uneven))


def paint_outlines(
    frames: Tensor,
    owner: Tensor,
    centre: Tensor,
    outlines: Outlines,
    value: Callable[[Tensor, Tensor], Tensor],
    reduce: str,
) -> Tensor:
    """Paint shapes as `stamps.paint` does, `value` of their rows (m,) and signed distances (m, b, c), px."""
    farthest = torch.tensor(_FARTHEST, device=frames.device)[outlines.corners]
    reach = outlines.radius * outlines.aspect.sqrt() * farthest + 1
    curved = outlines.corners == 0
    for chosen, family in ((curved, _ellipses), (~curved, _polygons)):
        part = chosen.nonzero()[:, 0]
        distance = family(Outlines(*(x[part] for x in outlines)))

        def profile(
            rows: Tensor, dy: Tensor, dx: Tensor, part: Tensor = part, distance: Profile = distance
        ) -> Tensor:
            return value(part[rows], distance(rows, dy, dx))

        paint(frames, owner[part], centre[part], reach[part], profile, reduce)
    return frames


def _ellipses(outlines: Outlines) -> Profile:
    """Distance to first order: (q - 1) / |grad q| of the quadratic form q, which is 1 on the outline."""
    cos, sin = outlines.angle.cos(), outlines.angle.sin()
    long, short = outlines.radius**-2 / outlines.aspect, outlines.radius**-2 * outlines.aspect
    xx, yy = long * cos**2 + short * sin**2, long * sin**2 + short * cos**2
    xy = (long - short) * cos * sin

    def distance(rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        a, b, c = each(xx[rows]), each(yy[rows]), each(xy[rows])
        x, y = a * dx + c * dy, b * dy + c * dx
        slope = (x.square() + y.square()).sqrt()
        return (x * dx + y * dy - 1) / (2 * slope).clamp(min=1e-9)

    return distance


def _polygons(outlines: Outlines) -> Profile:
    """Half planes; stretching turns their normals, and sides beyond the last repeat the first ones."""
    corners = outlines.corners[:, None]
    side = torch.arange(MOST_CORNERS, device=corners.device) % corners.clamp(min=1)
    turn = 2 * torch.pi / corners
    apothem = outlines.radius[:, None] * (turn / (2 * (turn / 2).tan())).sqrt()
    offsets = apothem * outlines.offsets.gather(1, side)
    stretch = outlines.aspect.sqrt()[:, None]
    along, across = (side * turn).cos() / stretch, (side * turn).sin() * stretch
    cos, sin = outlines.angle.cos()[:, None], outlines.angle.sin()[:, None]
    normals = torch.stack([along * sin + across * cos, along * cos - across * sin], -1)
    length = normals.norm(dim=-1)
    normals, offsets = normals / length[..., None], offsets / length

    def distance(rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        return polygon_distance(dy, dx, normals[rows], offsets[rows])

    return distance


class Rounded:
    """Outlines r(angle) with five random harmonics, drawn out and turned.

    Args:
        generator: where the harmonics come from.
        radius: (M,) px.
        stretch: (M,) length over width.
        rough: (M,) 0 for ellipses, 1 for shapes like amoebae.
    """

    def __init__(self, generator: Generator, radius: Tensor, stretch: Tensor, rough: Tensor) -> None:
        M = len(radius)
        k = torch.arange(1, _HARMONICS + 1, device=radius.device)
        size = 0.22 * rough[:, None] * normal(generator, (M, _HARMONICS)).clamp(-2, 2) / k
        phase, angle = angles(generator, (M, _HARMONICS)), angles(generator, (M,))
        self.even, self.odd = size * phase.cos(), size * phase.sin()
        self.stretch = stretch.sqrt()
        self.cos, self.sin = angle.cos(), angle.sin()
        self.radius = radius
        self.reach = radius * self.stretch * (1 + size.abs().sum(1)).clamp(max=1.8)

    def farthest(self) -> Tensor:
        """(M,) the largest distance of an outline from its centre, of 64 directions, px."""
        angle = torch.arange(64, device=self.cos.device) * (torch.pi / 32)
        every = torch.arange(len(self.cos), device=angle.device)
        edge, r = self(every, angle.sin()[:, None], angle.cos()[:, None])
        return (edge / r).amax((1, 2))

    def __call__(self, rows: Tensor, dy: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        """The outline's radius in each pixel's direction and the pixel's own, (m, b, c), px."""
        cos, sin, s = each(self.cos[rows]), each(self.sin[rows]), each(self.stretch[rows])
        x, y = (dx * cos + dy * sin) / s, (dy * cos - dx * sin) * s
        r = (x.square() + y.square()).sqrt().clamp(min=1e-3)
        c, d = x / r, y / r
        cos_k, sin_k, shape = c, d, torch.ones_like(r)
        for j in range(_HARMONICS):
            shape = shape + each(self.even[rows, j]) * cos_k + each(self.odd[rows, j]) * sin_k
            cos_k, sin_k = cos_k * c - sin_k * d, cos_k * d + sin_k * c
        return each(self.radius[rows]) * shape.clamp(0.4, 1.8), r
