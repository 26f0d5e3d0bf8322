"""Density of oriented particles projected along the beam: length of the beam's path inside each solid.

x and y (H, W) in angstrom are the positions in the detector's plane, the particle's centre at 0; lengths are
(B,) in angstrom. Results (B, H, W) are chords in angstrom, sampled at the points, of the particle at its view
angles without jitter, in the dtype of the lengths. Times a density they are a projected density.
"""

import torch
from torch import Tensor

from nfphasing_bluesky.physics.particles.oriented import Orientation

_TILT = 1e-6
"""Directions closer than this to an axis are turned to it, so that no interval is divided by 0."""


def cylinder(x: Tensor, y: Tensor, radius: Tensor, length: Tensor, orientation: Orientation) -> Tensor:
    """Circular cylinders about the axis c."""
    point, beam = _body_frame(x, y, orientation)
    slab = _slab(point[2], beam[2], _wide(length) / 2)
    a, b = _off_zero(beam[0]), beam[1]
    across2 = a.square() + b.square()
    middle = -(point[0] * a + point[1] * b) / across2
    miss2 = (point[0] * b - point[1] * a).square()
    half, inside = _root(_wide(radius).square() * across2 - miss2)
    half = half / across2
    return _overlap([slab, (middle - half, middle + half)], inside).to(radius.dtype)


def ellipsoid(x: Tensor, y: Tensor, polar: Tensor, equatorial: Tensor, orientation: Orientation) -> Tensor:
    """Ellipsoids of revolution about the axis c."""
    point, beam = _body_frame(x, y, orientation)
    radii = [_wide(radius) for radius in (equatorial, equatorial, polar)]
    point = [p / r for p, r in zip(point, radii, strict=True)]
    beam = [b / r for b, r in zip(beam, radii, strict=True)]
    beam2 = _dot(beam, beam)
    half, inside = _root(_dot(point, beam).square() - beam2 * (_dot(point, point) - 1))
    return torch.where(inside, 2 * half / beam2, 0).to(polar.dtype)


def parallelepiped(x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor, orientation: Orientation) -> Tensor:
    """Parallelepipeds of full sides a, b, c."""
    point, beam = _body_frame(x, y, orientation)
    slabs = [_slab(p, d, _wide(s) / 2) for p, d, s in zip(point, beam, (a, b, c), strict=True)]
    return _overlap(slabs, torch.ones_like(slabs[0][0], dtype=torch.bool)).to(a.dtype)


def _body_frame(x: Tensor, y: Tensor, orientation: Orientation) -> tuple[list[Tensor], list[Tensor]]:
    """Body components (B, H, W) of the points at z = 0, and (B, 1, 1) of the beam."""
    view = orientation.view()
    x, y = x.double(), y.double()
    points = [_wide(view[:, i, 0]) * x + _wide(view[:, i, 1]) * y for i in range(3)]
    return points, [_wide(view[:, i, 2]) for i in range(3)]


def _wide(values: Tensor) -> Tensor:
    return values.double()[:, None, None]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _off_zero(component: Tensor) -> Tensor:
    return torch.where(component.abs() < _TILT, _TILT, component)


def _slab(point: Tensor, beam: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Path lengths between which the beam is within `half` of the middle plane."""
    beam = _off_zero(beam)
    return -point / beam - half / beam.abs(), -point / beam + half / beam.abs()


def _root(square: Tensor) -> tuple[Tensor, Tensor]:
    """Square root and where it exists; kept off zero so that gradients stay finite."""
    return square.clamp(min=1e-30).sqrt(), square > 0


def _overlap(intervals: list[tuple[Tensor, Tensor]], inside: Tensor) -> Tensor:
    low, high = intervals[0]
    for start, end in intervals[1:]:
        low, high = torch.maximum(low, start), torch.minimum(high, end)
    return torch.where(inside, (high - low).clamp(min=0), 0)
