"""Small-angle scattering in two dimensions of oriented or partly oriented particles, dilute.

I(q) = <F^2(q)> / <F^2(0)>, so 1 at q = 0; scale and background are the caller's (`saxs.absolute_scale` with
`oriented.moment`). A pattern of particles no larger than d_max is band limited: as a function of q it is
known from its values at some q d_max / 2 radii and as many azimuths (`Plane`), and it is computed there only.
For a body of revolution I depends on |q| and on the angle between q and its axis, so the averages over both
jitter angles are one integral over that angle (`oriented.axis_harmonics`); no node count limits them.

Letters: B batch, P pixels of half the plane (I(q) = I(-q)), U radii among them, R radial nodes, K azimuths,
M nodes of the cosine to the axis. q in 1/angstrom, lengths (B,) in angstrom, angles in rad. Results are in
the dtype of the lengths, inside it is float64; all is differentiable in lengths, angles, jitter and sizes.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, pi

import numpy as np
import torch
from scipy.special import j1
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.physics.particles.orientation import half_gauss_legendre
from nfphasing_bluesky.physics.particles.oriented import Orientation, Spread, axis_harmonics, jitter_rotation

_AT_ONCE = 1 << 22
"""Largest number of values in a temporary."""
_SAME = 1e-11
"""Pixels closer than this fraction of the largest q are one."""
_DISC_STEP = 1 / 32
_RARE = 1e-8
"""Share of the forward scattering that larger sizes may have beyond d_max."""


@dataclass(frozen=True, eq=False)
class Plane:
    """Pixels of a detector, prepared once for particles up to d_max; see `plane`.

    Args:
        shape: of a pattern.
        pixel: (H * W,) which of the P each pixel is.
        ring: (P,) which of the U radii.
        waves: (P, degree + 1) cosines then sines of even multiples of the azimuth.
        radial: (U, R) values at the radii from those at the nodes.
        nodes: (R,) radial nodes, 1/angstrom.
        degree: harmonics kept, even.
        d_max: angstrom.
    """

    shape: tuple[int, ...]
    pixel: Tensor
    ring: Tensor
    waves: Tensor
    radial: Tensor
    nodes: Tensor
    degree: int
    d_max: float


def plane(qx: Tensor, qy: Tensor, d_max: float) -> Plane:
    """Prepare the pixels at (qx, qy) for particles with no two points farther apart than d_max.

    Args:
        qx: (H, W) or any shape, 1/angstrom; pixels that are masked can be left out.
        qy: the shape of qx.
        d_max: angstrom, of the largest size where sizes differ (1 + 3 p times the mean for
            `gaussian_sizes`, more for `schulz_sizes`); time and memory grow with it.

    Raises:
        GeometryError: qx and qy of two shapes, or without a q above 0.
    """
    if qx.shape != qy.shape:
        raise GeometryError(f"qx {tuple(qx.shape)} does not match qy {tuple(qy.shape)}; pass a mesh of both")
    x, y = qx.double().flatten(), qy.double().flatten()
    top = float(torch.hypot(x, y).max())
    if not 0 < top < float("inf"):
        raise GeometryError(f"largest q of the plane is {top} 1/angstrom, expected above 0; check qx and qy")
    keys = torch.round(torch.stack([x, y], 1) / (_SAME * top)).long()
    other = (keys[:, 1] < 0) | ((keys[:, 1] == 0) & (keys[:, 0] < 0))
    half, pixel = torch.unique(torch.where(other[:, None], -keys, keys), dim=0, return_inverse=True)
    half = half.double() * _SAME
    length, azimuth = half.norm(dim=1), torch.atan2(half[:, 1], half[:, 0])
    radii, ring = torch.unique(torch.round(length / _SAME), return_inverse=True)
    degree = _degree(top * d_max)
    count = degree // 2 + 1
    angle = (radii * _SAME).clamp(max=1).acos()
    even = 2 * torch.arange(count, dtype=torch.float64, device=x.device)
    phases = azimuth[:, None] * even
    return Plane(
        shape=tuple(qx.shape),
        pixel=pixel,
        ring=ring,
        waves=torch.cat([phases.cos(), phases[:, 1:].sin()], 1),
        radial=(angle[:, None] * even).cos() @ _cosine_transform(count, x.device),
        nodes=top * _cosine_angles(count, x.device).cos(),
        degree=degree,
        d_max=d_max,
    )


def _degree(phase: float) -> int:
    """Even degree beyond which the harmonics of a pattern with q d_max = phase are below 1e-9."""
    return 2 * ceil((phase + 4 * phase ** (1 / 3) + 4) / 2)


def _cosine_angles(count: int, device: torch.device) -> Tensor:
    return (2 * torch.arange(count, dtype=torch.float64, device=device) + 1) * (pi / (4 * count))


def _cosine_transform(count: int, device: torch.device) -> Tensor:
    """(count, count) from values at `_cosine_angles` to coefficients of cos(2 k angle)."""
    even = 2 * torch.arange(count, dtype=torch.float64, device=device)
    return (
        (even[:, None] * _cosine_angles(count, device)).cos() * torch.where(even > 0, 2, 1)[:, None] / count
    )


def cylinder(
    plane: Plane, radius: Tensor, length: Tensor, orientation: Orientation, sizes: Spread | None = None
) -> Tensor:
    """Circular cylinders, `sizes` those of the radius: (B, *shape)."""
    sizes = sizes or _one_size(radius)
    size, weight = _weighted(sizes, 4)
    _check(plane, ((2 * radius * _largest(sizes, 4)).square() + length.square()).sqrt())
    q, u = _ring_nodes(plane)
    half = length.double()[:, None, None] * (0.5 * q * u)
    across = q * (1 - u.square()).sqrt() * radius.double()[:, None, None]
    disc = torch.zeros_like(across)
    for t, w in zip(size.unbind(1), weight.unbind(1), strict=True):
        disc = disc + w[:, None, None] * disc_amplitude(across * t[:, None, None]).square()
    return _of_revolution(plane, disc * torch.sinc(half / pi).square(), orientation).to(radius.dtype)


def ellipsoid(
    plane: Plane, polar: Tensor, equatorial: Tensor, orientation: Orientation, sizes: Spread | None = None
) -> Tensor:
    """Ellipsoids of revolution, `sizes` scale both radii: (B, *shape)."""
    sizes = sizes or _one_size(polar)
    size, weight = _weighted(sizes, 6)
    _check(plane, 2 * torch.maximum(polar, equatorial) * _largest(sizes, 6))
    q, u = _ring_nodes(plane)
    square = (1 - u.square()) * equatorial.double().square()[:, None, None]
    reach = q * (square + u.square() * polar.double().square()[:, None, None]).sqrt()
    total = torch.zeros_like(reach)
    for t, w in zip(size.unbind(1), weight.unbind(1), strict=True):
        total = total + w[:, None, None] * _ball(reach * t[:, None, None]).square()
    return _of_revolution(plane, total, orientation).to(polar.dtype)


def parallelepiped(plane: Plane, a: Tensor, b: Tensor, c: Tensor, orientation: Orientation) -> Tensor:
    """Parallelepipeds of full sides a, b, c, all of one size: (B, *shape).

    The jitter is a product rule over its angles, so this is slow where two or three of them are wide.
    """
    sides = torch.stack([a, b, c], 1).double()
    _check(plane, sides.norm(dim=1))
    count = plane.degree + 1
    azimuth = torch.arange(count, dtype=torch.float64, device=a.device) * (pi / count)
    directions = torch.stack([azimuth.cos(), azimuth.sin()])
    q = (directions[:, None] * plane.nodes[:, None]).flatten(1)
    to_body = 0.5 / pi * sides[:, None, :, None] * (_jittered(orientation, plane.degree) @ _flat(orientation))
    weights = _jitter_weights(orientation, plane.degree)
    step = max(1, _AT_ONCE // (3 * a.shape[0] * q.shape[1]))
    total = torch.zeros(a.shape[0], q.shape[1], dtype=torch.float64, device=a.device)
    for first in range(0, weights.shape[1], step):
        part = slice(first, first + step)
        total = total + checkpoint(_boxes, to_body[:, part], weights[:, part], q, use_reentrant=False)
    values = total.unflatten(1, (-1, count))
    waves = 2 * azimuth * torch.arange(count // 2 + 1, dtype=torch.float64, device=a.device)[:, None]
    waves = torch.cat([waves.cos() * torch.where(waves.sum(1) > 0, 2, 1)[:, None], 2 * waves[1:].sin()])
    return _synthesise(plane, values @ waves.mT / count).to(a.dtype)


def _boxes(to_body: Tensor, weights: Tensor, q: Tensor) -> Tensor:
    amplitude = torch.sinc(to_body @ q).prod(2)
    return (weights[:, None] @ amplitude.square())[:, 0]


def _flat(orientation: Orientation) -> Tensor:
    """(B, 1, 3, 2) view of what lies in the detector."""
    return orientation.view()[:, None, :, :2]


def _jittered(orientation: Orientation, degree: int) -> Tensor:
    """(B, N, 3, 3) over all combinations of the jitter nodes."""
    theta, phi, psi = (spread.values for spread in orientation.jitters(degree))
    mesh = torch.broadcast_tensors(theta[:, :, None, None], phi[:, None, :, None], psi[:, None, None])
    return jitter_rotation(*(angle.flatten(1) for angle in mesh))


def _jitter_weights(orientation: Orientation, degree: int) -> Tensor:
    theta, phi, psi = orientation.jitters(degree)
    latitude = theta.weights * theta.values.cos().abs()
    product = latitude[:, :, None, None] * phi.weights[:, None, :, None] * psi.weights[:, None, None]
    return product.flatten(1) / product.flatten(1).sum(1, keepdim=True)


def _of_revolution(plane: Plane, values: Tensor, orientation: Orientation) -> Tensor:
    """Pattern from values (B, R, M) of the intensity at the radial nodes and cosines to the axis."""
    count = plane.degree // 2 + 1
    u, w = half_gauss_legendre(count, values.device)
    harmonics = axis_harmonics(orientation, _cosine_angles(count, values.device), plane.degree)
    degrees = torch.arange(0, plane.degree + 1, 2, device=values.device)
    legendre = _legendre_polynomials(u, plane.degree) * (2 * degrees + 1)[:, None] * w
    on_nodes = values @ (legendre.mT @ harmonics)
    cosines = on_nodes @ _cosine_transform(count, values.device).mT
    turn = orientation.phi.double()[:, None] * degrees
    return _synthesise(
        plane, torch.cat([cosines * turn.cos()[:, None], cosines[..., 1:] * turn[:, None, 1:].sin()], 2)
    )


def _synthesise(plane: Plane, coefficients: Tensor) -> Tensor:
    """(B, *shape) from the azimuthal coefficients (B, R, degree + 1) at the radial nodes."""
    step = max(1, _AT_ONCE // plane.waves.numel())
    parts = []
    for part in coefficients.split(step):
        rings = plane.radial @ part
        parts.append((rings.index_select(1, plane.ring) * plane.waves).sum(2))
    return torch.cat(parts).index_select(1, plane.pixel).unflatten(1, plane.shape)


def _legendre_polynomials(u: Tensor, degree: int) -> Tensor:
    """(degree / 2 + 1, M) Legendre polynomials of the even degrees."""
    rows = [torch.ones_like(u), u]
    for n in range(2, degree + 1):
        rows.append(((2 * n - 1) * u * rows[-1] - (n - 1) * rows[-2]) / n)
    return torch.stack(rows[: degree + 1 : 2])


def _ring_nodes(plane: Plane) -> tuple[Tensor, Tensor]:
    """Radial nodes (R, 1) and cosines to the axis (M,)."""
    return plane.nodes[:, None], half_gauss_legendre(plane.degree // 2 + 1, plane.nodes.device)[0]


def _one_size(length: Tensor) -> Spread:
    return Spread(torch.ones_like(length)[:, None], torch.ones_like(length)[:, None])


def _weighted(sizes: Spread, order: int) -> tuple[Tensor, Tensor]:
    """Sizes (B, N) and the share of each in the forward scattering, which goes as size^order."""
    values, weights = sizes.values.double(), sizes.weights.double()
    share = weights * values**order
    return values, share / share.sum(1, keepdim=True)


def _largest(sizes: Spread, order: int) -> Tensor:
    """(B,) largest size that counts."""
    values, share = (x.detach() for x in _weighted(sizes, order))
    return torch.where(share > _RARE, values, 0).amax(1)


def _check(plane: Plane, extent: Tensor) -> None:
    largest = float(extent.detach().max())
    if largest > plane.d_max * (1 + 1e-6):
        raise GeometryError(
            f"a particle spans {largest:.4g} angstrom, the plane was made for at most {plane.d_max:.4g}; "
            "pass a larger d_max to plane()"
        )


def _ball(x: Tensor) -> Tensor:
    """3 (sin x - x cos x) / x^3."""
    small = x < 0.05
    y = torch.where(small, x.detach().clamp(min=0.05), x)
    z = torch.where(small, x, 0).square()
    return torch.where(small, 1 - z / 10 + z.square() / 280, 3 * (y.sin() - y * y.cos()) / y**3)


def disc_amplitude(x: Tensor) -> Tensor:
    """2 J1(x) / x, even in x, by sixth-order interpolation: 1e-12 in float64, 1e-6 in float32.

    torch's own Bessel functions have no derivative, and errors of 5e-7 between 5 and 8.
    """
    top = float(x.detach().max()) / _DISC_STEP
    table = _disc_table(1 << (int(top) + 1).bit_length(), x.device, x.dtype)
    position = x / _DISC_STEP
    cell = position.detach().floor()
    c = table.index_select(0, cell.long().flatten()).view(*x.shape, 6).unbind(-1)
    f = position - cell
    value = c[5]
    for coefficient in c[4::-1]:
        value = value * f + coefficient
    return value


@lru_cache(maxsize=8)
def _disc_table(cells: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(cells, 6) power coefficients in each cell of the polynomial through its six nearest points."""
    x = np.abs(np.arange(-2, cells + 3) * _DISC_STEP).clip(1e-9)
    values = np.lib.stride_tricks.sliding_window_view(2 * j1(x) / x, 6)
    powers = np.vander(np.arange(-2.0, 4.0), increasing=True)
    return torch.as_tensor(values @ np.linalg.inv(powers).T, device=device, dtype=dtype)
