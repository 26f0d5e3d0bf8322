"""Schulz average of the disc's form factor, E[t^4 (2 J1(kappa t) / (kappa t))^2] / E[t^4].

It has no elementary form. Above kappa = 16 Hankel's expansion of J1^2 averages term by term; below, a table
made once by quadrature is interpolated along p. Both are laid on one uniform grid of kappa per curve, scaled
by (1 + kappa^2)^(3/2), and interpolated by cubics: values keep their relative precision on the Porod tail.
"""

from math import ceil

import numpy as np
import torch
from scipy.special import gammaln, j1
from torch import Tensor

from nfphasing_bluesky.physics.kept import kept
from nfphasing_bluesky.physics.particles import schulz

_STEP = 1 / 16
_TABLE_TOP = 16.0
_P_TOP = 0.5
_P_STEPS = 128

# H1(x)^2 = 2 i / (pi x) exp(2 i x) * sum_n i^n HANKEL_SQUARED[n] / x^n, from a_n(1) of the DLMF, 10.17.1
_HANKEL = (1.0, 3 / 8, -15 / 128, 105 / 1024, -4725 / 32768)
_HANKEL_SQUARED = tuple(sum(_HANKEL[i] * _HANKEL[n - i] for i in range(n + 1)) for n in range(4))


class DiscTable:
    """The averaged disc intensity of a batch of curves as piecewise cubics in kappa.

    Args:
        variance: (B,) p^2, float64.
        kappa_top: largest kappa that will be asked for.
    """

    def __init__(self, variance: Tensor, kappa_top: float) -> None:
        self.points = ceil(max(kappa_top, 1.0) / _STEP) + 3
        values = _grid_values(variance, self.points)
        self.coefficients = _cubics(values)

    def __call__(self, curve: Tensor, kappa: Tensor) -> Tensor:
        """Values at kappa (N, n) of the curves (N,)."""
        position = kappa / _STEP
        cell = position.detach().floor().clamp(0, self.points - 2)
        f = position - cell
        index = cell.long() + (curve * (self.points - 1))[:, None]
        c = self.coefficients.index_select(0, index.flatten()).view(*kappa.shape, 4)
        scaled = ((c[..., 3] * f + c[..., 2]) * f + c[..., 1]) * f + c[..., 0]
        base = 1 + kappa.square()
        return scaled / (base * base.sqrt())


def _cubics(values: Tensor) -> Tensor:
    """(B * (K - 1), 4) power coefficients of the cubic through four neighbours, from (B, K) values."""
    # even in kappa, so the point left of 0 mirrors the one right of it
    g = torch.cat([values[:, 1:2], values, 3 * values[:, -1:] - 3 * values[:, -2:-1] + values[:, -3:-2]], 1)
    y0, y1, y2, y3 = g[:, :-3], g[:, 1:-2], g[:, 2:-1], g[:, 3:]
    c1 = -y0 / 3 - y1 / 2 + y2 - y3 / 6
    c2 = (y0 + y2) / 2 - y1
    c3 = (y3 - y0) / 6 + (y1 - y2) / 2
    return torch.stack([y1, c1, c2, c3], -1).reshape(-1, 4)


def _grid_values(variance: Tensor, points: int) -> Tensor:
    table = _low_table(variance.device)
    low = _interpolate_rows(table, variance.clamp(min=0).sqrt() * (_P_STEPS / _P_TOP))
    if points <= low.shape[1]:
        return low[:, :points]
    kappa = torch.arange(low.shape[1], points, device=variance.device, dtype=torch.float64) * _STEP
    return torch.cat([low, _asymptotic(kappa, variance[:, None])], 1)


def _interpolate_rows(table: Tensor, position: Tensor) -> Tensor:
    """Cubic Lagrange interpolation of table (P, K) at fractional rows (B,)."""
    cell = position.detach().floor().clamp(1, table.shape[0] - 3)
    f = (position - cell)[:, None]
    i = cell.long()
    return (
        table[i - 1] * (-f * (f - 1) * (f - 2) / 6)
        + table[i] * ((f + 1) * (f - 1) * (f - 2) / 2)
        + table[i + 1] * (-(f + 1) * f * (f - 2) / 2)
        + table[i + 2] * ((f + 1) * f * (f - 1) / 6)
    )


def _asymptotic(kappa: Tensor, variance: Tensor) -> Tensor:
    """Scaled average at large kappa by the expansion of J1^2, terms to kappa^-4."""
    k2 = kappa.square()
    m1 = torch.ones_like(variance)
    total = m1 + 3 / 8 * schulz.moment(-1, variance) / k2
    wave = schulz.Oscillation(kappa, variance)
    pair = wave.up(wave.zero)
    for n, b in enumerate(_HANKEL_SQUARED):
        c, s = pair
        real = (-s, -c, s, c)[n % 4]  # Re i^(n + 1) (c + i s)
        total = total + b * schulz.moment(1 - n, variance) * real / kappa**n
        pair = wave.down(pair)
    scale = (1 + k2) * (1 + k2).sqrt() / (k2 * kappa)
    return 4 / torch.pi * total * scale / schulz.moment(4, variance)


@kept(8)
def _low_table(device: torch.device) -> Tensor:
    """(P, K) scaled averages for p = 0 .. 0.5, kappa = 0 .. 16."""
    kappa = np.arange(round(_TABLE_TOP / _STEP) + 1) * _STEP
    nodes = np.polynomial.legendre.leggauss(320)
    rows = [_quadrature_row(kappa, _P_TOP * i / _P_STEPS, nodes) for i in range(_P_STEPS + 1)]
    return torch.as_tensor(np.stack(rows), device=device)


def _quadrature_row(kappa: np.ndarray, p: float, nodes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    scale = (1 + kappa**2) ** 1.5
    if p == 0:
        return scale * _disc(kappa)
    k = 1 / p**2
    u, w = nodes
    low, high = max(0.0, 1 - 10 * p), 1 + 10 * p + 24 * p**2
    t = low + (high - low) * (u + 1) / 2
    # t^4 times the Gamma density of shape k is that of shape k + 4, up to a factor
    density = np.exp((k + 3) * np.log(t) - k * t + (k + 4) * np.log(k) - gammaln(k + 4))
    weight = w * (high - low) / 2 * density
    return scale * (_disc(kappa[:, None] * t) @ weight)


def _disc(x: np.ndarray) -> np.ndarray:
    safe = np.maximum(x, 1e-6)
    return (2 * j1(safe) / safe) ** 2
