"""Orientation of particles and its spread, in the convention of sasmodels.

The beam runs along z, the detector is x, y. A particle's axes a, b, c first turn by the jitter, in the
particle's frame, then by the view: c is tilted from z by theta towards the azimuth phi, and psi turns the
particle about c. With R = J V the body components of q are R q, where (jitter angles dtheta, dphi, dpsi)
V = Rz(-psi) Ry(-theta) Rz(-phi) and J = Rz(-dpsi) Ry(-dtheta) Rx(-dphi) in sasmodels' kernel_iq.c. Jitter is
Gaussian in each angle with the weight cos(dtheta) on top. Letters: B batch, N nodes, L degree. Angles in rad.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, pi
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

CUT = 3.0
"""Standard deviations at which sasmodels cuts a Gaussian off unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Spread:
    """A distribution as nodes: values (B, N) and weights (B, N) of unit sum.

    Values are offsets in rad (jitter) or sizes over the mean size.
    """

    values: Tensor
    weights: Tensor

    def at(self, degree: int) -> "Spread":
        """Itself, whatever the degree."""
        return self


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Gaussian jitter of standard deviation sigma (B,) rad, cut at `cut` sigma.

    Beyond cut * sigma = 90 degrees in theta the weight |cos(dtheta)| has a kink, and the nodes lose digits.
    """

    sigma: Tensor
    cut: float = CUT

    def at(self, degree: int) -> Spread:
        """Gauss-Legendre nodes enough for harmonics up to `degree`."""
        reach = self.cut * float(self.sigma.detach().max())
        return _gauss_legendre(self.sigma, self.cut, ceil(degree * reach / 2) + 12 if reach else 1)


class Jitter(Protocol):
    """What gives the nodes of one jitter angle."""

    def at(self, degree: int) -> Spread:
        """Nodes enough for harmonics up to `degree`."""
        ...


@dataclass(frozen=True, eq=False)
class Orientation:
    """View angles (B,) rad and jitter; the jitter of phi must be symmetric about 0, None is none."""

    theta: Tensor
    phi: Tensor
    psi: Tensor | None = None
    theta_jitter: Jitter | None = None
    phi_jitter: Jitter | None = None
    psi_jitter: Jitter | None = None

    def view(self) -> Tensor:
        """(B, 3, 3) float64 rotation V: body components (a, b, c) of a vector (x, y, z) without jitter."""
        theta, phi = self.theta.double(), self.phi.double()
        psi = torch.zeros_like(theta) if self.psi is None else self.psi.double()
        return _about_z(-psi) @ _about_y(-theta) @ _about_z(-phi)

    def jitters(self, degree: int) -> tuple[Spread, Spread, Spread]:
        """Nodes of dtheta, dphi and dpsi in float64."""
        point = Gaussian(torch.zeros_like(self.theta))
        spreads = [(j or point).at(degree) for j in (self.theta_jitter, self.phi_jitter, self.psi_jitter)]
        theta, phi, psi = (Spread(s.values.double(), s.weights.double()) for s in spreads)
        return theta, phi, psi


def jitter_rotation(dtheta: Tensor, dphi: Tensor, dpsi: Tensor) -> Tensor:
    """(..., 3, 3) rotation J of jitter angles of one shape (...)."""
    return _about_z(-dpsi) @ _about_y(-dtheta) @ _about_x(-dphi)


def _about_x(angle: Tensor) -> Tensor:
    return _about_z(angle).roll((1, 1), (-2, -1))


def _about_y(angle: Tensor) -> Tensor:
    return _about_z(angle).roll((2, 2), (-2, -1))


def _about_z(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = [torch.stack(row, -1) for row in ((c, -s, zero), (s, c, zero), (zero, zero, one))]
    return torch.stack(rows, -2)


def equispaced_gaussian(sigma: Tensor, nodes: int, cut: float = CUT) -> Spread:
    """The nodes of sasmodels itself, equally spaced from -cut to cut sigma: its result at a finite number."""
    x = np.linspace(-cut, cut, nodes)
    return _scaled(sigma, x, np.exp(-0.5 * x**2))


def gaussian_sizes(polydispersity: Tensor, nodes: int = 32, cut: float = CUT) -> Spread:
    """Sizes over the mean, Gaussian of relative standard deviation (B,) below 1 / cut, cut at `cut` sigma."""
    offsets = _gauss_legendre(polydispersity, cut, nodes)
    return Spread(1 + offsets.values, offsets.weights)


def schulz_sizes(polydispersity: Tensor, nodes: int = 48) -> Spread:
    """Sizes over the mean, Schulz distributed, relative standard deviation (B,) up to 0.5."""
    p = polydispersity.double().clamp(min=1e-6)[:, None]
    x, w = (torch.as_tensor(v, device=p.device) for v in np.polynomial.legendre.leggauss(nodes))
    low, high = (-7 * p).clamp(min=-1), 7 * p + 14 * p.square()
    y = low + (high - low) * (x + 1) / 2
    k = p**-2
    density = w * torch.exp((k - 1) * torch.log1p(y) - k * y)
    return Spread(1 + y, density / density.sum(1, keepdim=True))


def moment(sizes: Spread, order: int) -> Tensor:
    """(B,) mean of size^order: <V> and <V^2> follow from it."""
    return (sizes.weights * sizes.values**order).sum(1)


def _gauss_legendre(sigma: Tensor, cut: float, nodes: int) -> Spread:
    x, w = np.polynomial.legendre.leggauss(nodes)
    return _scaled(sigma, cut * x, w * np.exp(-0.5 * (cut * x) ** 2))


def _scaled(sigma: Tensor, x: np.ndarray, w: np.ndarray) -> Spread:
    offsets, weights = (torch.as_tensor(v, device=sigma.device) for v in (x, w / w.sum()))
    return Spread(sigma.double()[:, None] * offsets, weights.expand(sigma.shape[0], -1))


def axis_harmonics(orientation: Orientation, azimuth: Tensor, degree: int) -> Tensor:
    """Averages over jitter of the Legendre polynomials of (particle axis c) . (direction in the detector).

    dtheta is a latitude about the axis a and dphi a longitude, so that in harmonics about a the average
    factors into one over each angle. It is even in the azimuth and repeats after pi.

    Args:
        orientation: psi and its jitter do not matter.
        azimuth: (K,) directions in the detector, counted from phi, rad.
        degree: even.

    Returns:
        (B, degree / 2 + 1, K) for the even degrees.
    """
    theta, phi, _ = orientation.jitters(degree)
    weight = theta.weights * theta.values.cos().abs()
    order = torch.arange(degree + 1, dtype=torch.float64, device=azimuth.device)
    longitude = (phi.weights[..., None] * (phi.values[..., None] * order).cos()).sum(1)
    longitude = longitude * torch.where(order > 0, 2.0, 1.0)
    lean = orientation.theta.double()[:, None]
    pole = lean.cos() * azimuth.cos()
    across = torch.complex(lean.sin() * azimuth.cos(), azimuth.sin().expand_as(pole))
    latitudes = _legendre(theta.values.sin(), _powers(theta.values.cos(), degree))
    directions = _legendre(pole, _powers(across, degree).real)
    rows = []
    for n, (a, b) in enumerate(zip(latitudes, directions, strict=True)):
        if n % 2:
            continue
        mean = (weight[:, None] @ a)[:, 0] / weight.sum(1, keepdim=True)
        rows.append((b @ (mean * longitude)[..., None])[..., 0] * (4 * pi / (2 * n + 1)))
    return torch.stack(rows, 1)


def _powers(x: Tensor, degree: int) -> Tensor:
    """(..., degree + 1) powers of x from 0."""
    start = torch.ones_like(x)[..., None]
    return torch.cat([start, x[..., None].expand(*x.shape, degree).cumprod(-1)], -1)


def _legendre(s: Tensor, sector: Tensor) -> Iterator[Tensor]:
    """Orthonormal associated Legendre functions of s, degree by degree, as (..., orders).

    `sector` (..., orders) is cos^m of the latitude, times what depends on the longitude.
    """
    m = torch.arange(sector.shape[-1], dtype=torch.float64, device=s.device)
    norm = torch.where(m > 0, (2 * m + 1) / (2 * m).clamp(min=1), 1 / (4 * pi)).cumprod(0).sqrt()
    start, s = sector * norm, s[..., None]
    before = last = torch.zeros_like(start)
    for n in range(sector.shape[-1]):
        rise = ((4 * n * n - 1) / (n * n - m * m).clamp(min=1)).clamp(min=0).sqrt() * (m < n)
        fall = ((((n - 1) ** 2 - m * m) / max(4 * (n - 1) ** 2 - 1, 1)).clamp(min=0)).sqrt()
        last, before = rise * (s * last - fall * before) + start * (m == n), last
        yield last
