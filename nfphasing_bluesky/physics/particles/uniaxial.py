"""Patterns of particles that turn freely about their own axis, hundreds at a time, in polar harmonics.

Uniaxial particles (a cylinder, an ellipsoid of revolution, a parallelepiped spinning about its side c)
scatter g(q, u), u the cosine of q to the axis. With the axis elevated by e out of the detector's plane, at
azimuth 0, u = cos(e) cos(a) at azimuth a, and Legendre polynomials of that are sums of cos(2 j e) cos(2 k a):
spreads of both angles are factors of the terms, whatever their width. `saxs2d` computes the same at
any pixel to 1e-9; here the grid of moduli is common to all particles, so that nearly all of it is matrix
products.

Orientation is sasmodels' of a particle in the detector's plane: theta is the angle to the beam, phi the
azimuth of the axis; the elevation 90 degrees - theta spreads with the weight cos(dtheta) and the azimuth
without, both Gaussian and cut off. For theta = 90 degrees that is sasmodels' jitter of theta and phi
(`oriented`); elsewhere sasmodels spreads phi about the tilted particle, this about the beam.

Letters: N particles, R moduli q over q_top, M cosines, L even degrees, K even harmonics of the azimuth, T
points of a table. Lengths are times q_top, angles in rad, all (N,); sizes are Gaussian, cut at three standard
deviations (`size_average`), `polydispersity` is the relative one. Work is done in the dtype of the rings.
I(0) = 1, as <F^2> / <F^2(0)>.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import pi

import numpy as np
import torch
from scipy.special import eval_legendre
from torch import Tensor

from nfphasing_bluesky.physics.particles import size_average
from nfphasing_bluesky.physics.particles.orientation import half_gauss_legendre

_TABLE, _SPINS = 56, 24
_COSINES = 56
_OFFSETS, _FASTEST = 64, 1.5


@dataclass(frozen=True, eq=False)
class Rings:
    """Moduli at which patterns are computed; see `rings`.

    Args:
        modulus: (R,) q over q_top.
        cosine: (M,) of q to the axis.
        legendre: (M, L) projection onto Legendre polynomials of even degree.
        elevations: (J, L * K) terms cos(2 j e) cos(2 k a) of the polynomials, J = L = K.
        across: (T, R * M) table at `table` to the component of q across the axis.
        table: (T,) q over q_top.
        disc, sphere, slit: (P, X) averages over sizes, see `size_average`.
        offsets, offset_weights: (D,) nodes of half a distribution of angles, over its end.
    """

    modulus: Tensor
    cosine: Tensor
    legendre: Tensor
    elevations: Tensor
    across: Tensor
    table: Tensor
    disc: Tensor
    sphere: Tensor
    slit: Tensor
    offsets: Tensor
    offset_weights: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float64) -> "Rings":
        """Return them on another device, and for work in another precision."""
        return Rings(*(getattr(self, f.name).to(device, dtype) for f in fields(self)))


def rings(modulus: Tensor, degree: int = 80) -> Rings:
    """Prepare moduli (R,) in 0..1 for harmonics up to an even degree.

    Harmonics beyond 80 need spreads below 3 degrees of particles with q_top times their length above 80.
    """
    count = degree // 2 + 1
    u, w = half_gauss_legendre(max(_COSINES, count), modulus.device)
    degrees = np.arange(0, degree + 1, 2)
    polynomials = torch.as_tensor(eval_legendre(degrees, u.cpu().numpy()[:, None]), device=u.device)
    scaled = polynomials * torch.as_tensor(2 * degrees + 1, device=u.device) * w[:, None]
    place = modulus.double()[:, None] * (1 - u.square()).sqrt()
    even = 2 * torch.arange(_TABLE, dtype=torch.float64, device=u.device)
    across = (even[:, None] * place.flatten().clamp(max=1).acos()).cos()
    angles = _cosine_angles(_TABLE)
    makers = (size_average.disc, size_average.sphere, size_average.slit)
    disc, sphere, slit = (make().to(u.device) for make in makers)
    offsets, offset_weights = half_gauss_legendre(_OFFSETS, u.device)
    return Rings(
        modulus.double(),
        u,
        scaled,
        _elevations(degrees).to(u.device),
        _cosine_transform(_TABLE).to(u.device).mT @ across,
        angles.cos().to(u.device),
        disc,
        sphere,
        slit,
        offsets,
        offset_weights,
    )


def cylinder(rings: Rings, radius: Tensor, length: Tensor, polydispersity: Tensor) -> Tensor:
    """(N, R, M) intensity of circular cylinders; the radius is distributed."""
    averages = size_average.of_spread(rings.disc, polydispersity)
    return _section(rings, _at(averages, radius[:, None] * rings.table)) * _rod(rings, length)


def parallelepiped(rings: Rings, a: Tensor, b: Tensor, c: Tensor, polydispersity: Tensor) -> Tensor:
    """(N, R, M) intensity of parallelepipeds spinning about c; sides a and b are distributed, each alone."""
    spin = (torch.arange(_SPINS, dtype=torch.float64, device=a.device) + 0.5) * (pi / 2 / _SPINS)
    averages = size_average.of_spread(rings.slit, polydispersity)
    half = 0.5 * rings.table
    first = _at(averages, a[:, None, None] * half * spin.cos()[:, None])
    second = _at(averages, b[:, None, None] * half * spin.sin()[:, None])
    return _section(rings, (first * second).mean(1)) * _rod(rings, c)


def ellipsoid(rings: Rings, polar: Tensor, equatorial: Tensor, polydispersity: Tensor) -> Tensor:
    """(N, R, M) intensity of ellipsoids of revolution; both radii are distributed, as one."""
    p, e = (radius.to(rings.modulus)[:, None, None] for radius in (polar, equatorial))
    u2 = rings.cosine.square()
    x = rings.modulus[:, None] * (u2 * p.square() + (1 - u2) * e.square()).sqrt()
    return _at(size_average.of_spread(rings.sphere, polydispersity), x)


def multipoles(rings: Rings, values: Tensor) -> Tensor:
    """(N, R, L) Legendre coefficients of intensities (N, R, M)."""
    return values @ rings.legendre


def harmonics(
    rings: Rings, multipoles: Tensor, theta: Tensor, spread: Tensor, tilt_spread: Tensor, cut: Tensor
) -> Tensor:
    """(N, R, K) coefficients of cos(2 k (azimuth - phi)) of the patterns.

    Args:
        rings: of the multipoles.
        multipoles: (N, R, L).
        theta: (N,) angle of the axis to the beam.
        spread: (N,) standard deviation of phi, were it not cut.
        tilt_spread: (N,) the same of theta.
        cut: (N,) standard deviations at which both distributions end; that of theta ends at 90 degrees.
    """
    count = rings.legendre.shape[1]
    even = 2 * torch.arange(count, dtype=torch.float64, device=theta.device)
    lean = tilt_spread.double()
    blur = _characteristic(rings, lean, torch.minimum(cut * lean, 0 * lean + pi / 2), even, torch.cos)
    waves = (even * (pi / 2 - theta.double())[:, None]).cos().to(blur) * blur
    mixing = (waves.to(multipoles) @ rings.elevations).view(-1, count, count)
    damping = _characteristic(rings, spread.double(), cut * spread.double(), even, torch.ones_like)
    return multipoles @ (mixing * damping.to(mixing)[:, None])


def _characteristic(
    rings: Rings, sigma: Tensor, end: Tensor, even: Tensor, weight: Callable[[Tensor], Tensor]
) -> Tensor:
    """(N, K) mean of cos(2 k d) over Gaussian d of sigma (N,), cut at `end` (N,), weighted.

    Where the wave is too fast for the nodes the mean is next to nothing, and 0 is given.
    """
    d = end[:, None] * rings.offsets.double()
    share = rings.offset_weights.double() * torch.exp(-0.5 * (d / sigma.clamp(min=1e-9)[:, None]).square())
    share = share * weight(d)
    share = (share / share.sum(1, keepdim=True)).to(rings.modulus)
    means = (share[:, None] @ (d[..., None] * even).to(rings.modulus).cos())[:, 0]
    return torch.where(even * end[:, None] > _FASTEST * len(rings.offsets), 0.0, means)


def _elevations(degrees: np.ndarray) -> Tensor:
    count = len(degrees)
    angles = _cosine_angles(count).numpy()
    cosines = np.cos(angles)
    transform = _cosine_transform(count).numpy()
    values = eval_legendre(degrees[:, None, None], cosines[:, None] * cosines)
    terms = (transform @ values @ transform.T).transpose(1, 0, 2)
    return torch.from_numpy(np.ascontiguousarray(terms).reshape(count, -1))


def _cosine_angles(count: int) -> Tensor:
    return (2 * torch.arange(count, dtype=torch.float64) + 1) * (pi / (4 * count))


def _cosine_transform(count: int) -> Tensor:
    """(count, count) from values at `_cosine_angles` to coefficients of cos(2 k angle)."""
    even = 2 * torch.arange(count, dtype=torch.float64)
    return (even[:, None] * _cosine_angles(count)).cos() * torch.where(even > 0, 2, 1)[:, None] / count


def _section(rings: Rings, table: Tensor) -> Tensor:
    """(N, R, M) from a table (N, T) in the component of q across the axis."""
    return (table.to(rings.across) @ rings.across).view(len(table), len(rings.modulus), -1)


def _rod(rings: Rings, length: Tensor) -> Tensor:
    half = length.to(rings.modulus)[:, None, None] * (0.5 / pi) * (rings.modulus[:, None] * rings.cosine)
    return torch.sinc(half).square()


def _at(averages: Tensor, x: Tensor) -> Tensor:
    return size_average.at(averages, x.to(averages))
