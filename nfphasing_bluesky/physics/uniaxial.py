"""Patterns of particles that turn freely about their own axis, hundreds at a time, in polar harmonics.

Uniaxial particles (a cylinder, an ellipsoid of revolution, a parallelepiped spinning about its side c)
scatter g(q, u), u the cosine of q to the axis. With the axis elevated by e out of the detector's plane, at
azimuth 0, u = cos(e) cos(a) at azimuth a, and Legendre polynomials of that are sums of cos(2 j e) cos(2 k a):
Gaussian spreads of both angles are factors of the terms, whatever their width. `saxs2d` computes the same at
any pixel to 1e-9; here the grid of moduli is common to all particles, so that nearly all of it is matrix
products.

Orientation is sasmodels' of a particle in the detector's plane: theta is the angle to the beam, phi the
azimuth of the axis; the elevation 90 degrees - theta spreads with the weight cos(dtheta) and the azimuth
without. For theta = 90 degrees that is sasmodels' jitter of theta and phi (`oriented`), not cut off;
elsewhere sasmodels spreads phi about the tilted particle, this about the beam.

Letters: N particles, R moduli q over q_top, M cosines, L even degrees, K even harmonics of the azimuth, T
points of a table. Lengths are times q_top, angles in rad, all (N,); sizes are Schulz distributed,
`polydispersity` their relative standard deviation. Work is done in the dtype of the rings. I(0) = 1, as <F^2>
/ <F^2(0)>.
"""

from dataclasses import dataclass, fields
from math import pi

import numpy as np
import torch
from scipy.special import eval_legendre
from torch import Tensor

from nfphasing_bluesky.physics.orientation import half_gauss_legendre
from nfphasing_bluesky.physics.oriented import schulz_sizes
from nfphasing_bluesky.physics.saxs2d import disc_amplitude
from nfphasing_bluesky.physics.schulz import Oscillation, moment, relative_variance, sphere_average

_TABLE, _FINE_TABLE = 56, 320
_SIZES, _SPINS = 24, 24
_COSINES = 56


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
    """

    modulus: Tensor
    cosine: Tensor
    legendre: Tensor
    elevations: Tensor
    across: Tensor
    table: Tensor

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
    return Rings(
        modulus.double(),
        u,
        scaled,
        _elevations(degrees).to(u.device),
        _cosine_transform(_TABLE).to(u.device).mT @ across,
        angles.cos().to(u.device),
    )


def cylinder(rings: Rings, radius: Tensor, length: Tensor, polydispersity: Tensor) -> Tensor:
    """(N, R, M) intensity of circular cylinders; the radius is distributed."""
    sizes = schulz_sizes(polydispersity, _SIZES)
    share = sizes.weights * sizes.values**4
    share = share / share.sum(1, keepdim=True)
    x = (radius.double()[:, None] * sizes.values)[:, :, None] * rings.table.double()
    disc = (share[:, :, None] * disc_amplitude(x).square()).sum(1)
    return _section(rings, disc) * _rod(rings, length)


def parallelepiped(rings: Rings, a: Tensor, b: Tensor, c: Tensor, polydispersity: Tensor) -> Tensor:
    """(N, R, M) intensity of parallelepipeds spinning about c; sides a and b are distributed, each alone."""
    spin = (torch.arange(_SPINS, dtype=torch.float64, device=a.device) + 0.5) * (pi / 2 / _SPINS)
    variance = relative_variance(polydispersity)[:, None, None]
    half = 0.5 * rings.table.double()
    first = _slit(a.double()[:, None, None] * half * spin.cos()[:, None], variance)
    second = _slit(b.double()[:, None, None] * half * spin.sin()[:, None], variance)
    return _section(rings, (first * second).mean(1)) * _rod(rings, c)


def ellipsoid(rings: Rings, polar: Tensor, equatorial: Tensor, polydispersity: Tensor) -> Tensor:
    """(N, R, M) intensity of ellipsoids of revolution; both radii are distributed, as one."""
    p, e = (radius.to(rings.modulus)[:, None, None] for radius in (polar, equatorial))
    u2 = rings.cosine.square()
    x = rings.modulus[:, None] * (u2 * p.square() + (1 - u2) * e.square()).sqrt()
    top = torch.maximum(p, e)[:, 0] * (1 + 4 / _FINE_TABLE)
    grid = torch.linspace(0, 1, _FINE_TABLE, dtype=torch.float64, device=x.device)
    values = sphere_average(top.double() * grid, relative_variance(polydispersity)[:, None])
    return _interpolated(values.to(x), x / top[:, :, None] * (_FINE_TABLE - 1))


def multipoles(rings: Rings, values: Tensor) -> Tensor:
    """(N, R, L) Legendre coefficients of intensities (N, R, M)."""
    return values @ rings.legendre


def harmonics(rings: Rings, multipoles: Tensor, theta: Tensor, spread: Tensor, tilt_spread: Tensor) -> Tensor:
    """(N, R, K) coefficients of cos(2 k (azimuth - phi)) of the patterns.

    Args:
        rings: of the multipoles.
        multipoles: (N, R, L).
        theta: (N,) angle of the axis to the beam.
        spread: (N,) standard deviation of phi.
        tilt_spread: (N,) standard deviation of theta.
    """
    count = rings.legendre.shape[1]
    even = 2 * torch.arange(count, dtype=torch.float64, device=theta.device)
    variance = tilt_spread.double().square()[:, None]
    # E[cos(d) cos(2 j d)] / E[cos(d)]
    blur = sum(torch.exp(-0.5 * (even + sign * 2) * even * variance) for sign in (1, -1)) / 2
    waves = (even * (pi / 2 - theta.double())[:, None]).cos() * blur
    mixing = (waves.to(multipoles) @ rings.elevations).view(-1, count, count)
    damping = torch.exp(-0.5 * (even * spread.double()[:, None]).square()).to(mixing)
    return multipoles @ (mixing * damping[:, None])


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


def _slit(x: Tensor, variance: Tensor) -> Tensor:
    """E[t^2 sinc^2(x t)] / E[t^2] = (1 - E[cos(2 x t)]) / (2 x^2 E[t^2]) over sizes t."""
    small = x < 0.02
    y = torch.where(small, x.detach().clamp(min=0.02), x)
    closed = (1 - Oscillation(y, variance).zero[0]) / (2 * y.square() * moment(2, variance))
    ratio = moment(4, variance) / moment(2, variance)
    return torch.where(small, 1 - ratio * torch.where(small, x, 0).square() / 3, closed)


def _interpolated(values: Tensor, position: Tensor) -> Tensor:
    """Cubic interpolation of rows (N, T), even about their first point, at positions (N, ...)."""
    cell = position.detach().floor().clamp(0, values.shape[1] - 3)
    f = position - cell
    index = cell.long().flatten(1)
    a, b, c, d = (values.gather(1, (index + shift).abs()).view_as(position) for shift in (-1, 0, 1, 2))
    return b + f * ((c - b) - (1 - f) * ((c - 2 * b + a) * (2 - f) + (d - 2 * c + b) * (1 + f)) / 6)
