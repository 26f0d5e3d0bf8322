"""Scattering of a pair-distance distribution p(r), and a parametrisation of p that is never negative.

I(q) = 4 pi integral_0^Dmax p(r) sin(q r) / (q r) dr (GNOM's convention), so I(0) = 4 pi integral p dr.
Normalised: x = r / Dmax in [0, 1], p(x) of unit area, kappa = q Dmax. Letters: B batch, Q points of the
curve, X points of the x grid, K coefficients.
"""

from math import ceil

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn


def intensity(q: Tensor, p: Tensor, r: Tensor) -> Tensor:
    """I(q) by the trapezoidal rule: the reference form, for any r grid.

    Args:
        q: (Q,) or (B, Q) 1/angstrom.
        p: (R,) or (B, R) on the grid r.
        r: (R,) or (B, R) angstrom, increasing; q times its step must stay well below 1.

    Returns:
        (B, Q), I(0) = 4 pi integral p dr.
    """
    q, p, r = torch.atleast_2d(q), torch.atleast_2d(p), torch.atleast_2d(r)
    phase = q[:, :, None] * r[:, None, :]
    return 4 * torch.pi * torch.trapezoid(p[:, None, :] * torch.sinc(phase / torch.pi), r[:, None, :], dim=-1)


def i0(p: Tensor, r: Tensor) -> Tensor:
    """(B,) forward intensity 4 pi integral p dr."""
    return 4 * torch.pi * torch.trapezoid(torch.atleast_2d(p), torch.atleast_2d(r), dim=-1)


def rg(p: Tensor, r: Tensor) -> Tensor:
    """(B,) radius of gyration: Rg^2 = integral r^2 p dr / (2 integral p dr)."""
    p, r = torch.atleast_2d(p), torch.atleast_2d(r)
    return (torch.trapezoid(r**2 * p, r, dim=-1) / (2 * torch.trapezoid(p, r, dim=-1))).sqrt()


def normalise_coefficients(c: Tensor) -> Tensor:
    """Scale (B, K) sine coefficients so that p has unit area: integral of p dx = sum c^2 / 2."""
    return c / (c.square().sum(-1, keepdim=True) / 2).sqrt()


def p_from_coefficients(c: Tensor, x: Tensor) -> Tensor:
    """p(x) of unit area with sqrt p(x) = sum_k c_k sin(k pi x), k = 1 .. K.

    Args:
        c: (B, K), any scale and overall sign.
        x: (X,) or (B, X) in [0, 1].

    Returns:
        (B, X); p >= 0, and it vanishes at both ends as the square of the distance to them.
    """
    k = torch.arange(1, c.shape[-1] + 1, dtype=c.dtype, device=c.device)
    if x.ndim == 1:
        return (normalise_coefficients(c) @ torch.sin(torch.pi * k[:, None] * x.to(c.dtype))).square()
    basis = torch.sin(torch.pi * k[:, None] * x.to(c.dtype)[:, None, :])
    return (normalise_coefficients(c)[:, None, :] @ basis)[:, 0].square()


def coefficients_from_p(p: Tensor, x: Tensor, coefficients: int) -> Tensor:
    """Project sqrt p on K sines; (B, X) on the uniform grid x (X,) to (B, K) of unit area."""
    k = torch.arange(1, coefficients + 1, dtype=p.dtype, device=p.device)
    basis = torch.sin(torch.pi * k[:, None] * x.to(p.dtype))
    # the sines vanish at both ends, so the trapezoidal rule on a uniform grid is a plain sum
    return normalise_coefficients(torch.atleast_2d(p).clamp(min=0).sqrt() @ basis.T)


def cosines_from_coefficients(c: Tensor) -> Tensor:
    """Exact cosine series of p: (B, K) coefficients of sqrt p to (B, 2K + 1) of cos(m pi x), unit area."""
    c = normalise_coefficients(c)
    K = c.shape[-1]
    product = c[:, :, None] * c[:, None, :] / 2
    k = torch.arange(1, K + 1, device=c.device)
    difference, total = (k[:, None] - k).abs().flatten(), (k[:, None] + k).flatten()
    series = c.new_zeros(c.shape[0], 2 * K + 1)
    flat = product.flatten(1)
    return series.index_add(1, difference, flat).index_add(1, total, -flat)


def rg_over_dmax(c: Tensor) -> Tensor:
    """(B,) Rg / Dmax of sine coefficients (B, K), in closed form."""
    series = cosines_from_coefficients(c)
    m = torch.arange(1, series.shape[-1], dtype=c.dtype, device=c.device)
    second = series[:, 0] / 3 + series[:, 1:] @ (2 * torch.cos(torch.pi * m) / (torch.pi * m) ** 2)
    return (second / 2).sqrt()


class UniversalDebye(nn.Module):
    """I(q) / I(0) of many p(x) at once: one matrix product on a fixed kappa grid, then cubic interpolation.

    Build it with `on_grid` (input: p sampled on a uniform x grid, splined in between) or `on_coefficients`
    (input: sine coefficients of sqrt p; exact). Buffers are float64 and follow `.to(device)`.

    Args:
        basis: (F, N) basis functions on a fine uniform x grid, F >= 33.
        kappa_max: largest q Dmax of the grid. Beyond it the curve is continued as kappa^-4 (Porod).
        step: of the kappa grid; the cubic's error is below step^4 / 40 of the local amplitude.
        sine: whether inputs are sine coefficients of sqrt p.
    """

    matrix: Tensor

    def __init__(
        self, basis: np.ndarray, kappa_max: float = 256.0, step: float = 0.2, *, sine: bool = False
    ) -> None:
        super().__init__()
        self.step, self.sine = step, sine
        self.points = ceil(kappa_max / step) + 2
        x = np.linspace(0, 1, basis.shape[0])
        weights = np.full(x.size, 1 / (x.size - 1))
        weights[1:-1:2] *= 4 / 3
        weights[2:-1:2] *= 2 / 3
        weights[[0, -1]] /= 3
        kappa = np.arange(self.points) * step
        kernel = np.sinc(kappa[:, None] * x / np.pi) * weights
        self.register_buffer("matrix", torch.as_tensor((kernel @ basis).T.copy()), persistent=False)

    @classmethod
    def on_grid(cls, points: int = 128, kappa_max: float = 256.0, step: float = 0.2) -> "UniversalDebye":
        """For p (B, X) sampled on linspace(0, 1, X)."""
        fine = np.linspace(0, 1, _fine_points(kappa_max, points))
        spline = CubicSpline(np.linspace(0, 1, points), np.eye(points))
        return cls(spline(fine), kappa_max, step)

    @classmethod
    def on_coefficients(
        cls, coefficients: int, kappa_max: float = 256.0, step: float = 0.2
    ) -> "UniversalDebye":
        """For sine coefficients c (B, K) of sqrt p; p is normalised to unit area."""
        fine = np.linspace(0, 1, _fine_points(kappa_max, coefficients))
        basis = np.cos(np.pi * fine[:, None] * np.arange(2 * coefficients + 1))
        return cls(basis, kappa_max, step, sine=True)

    def forward(self, p: Tensor, d_max: Tensor, q: Tensor) -> Tensor:
        """Return integral p(x) sinc(q Dmax x) dx, which is I(q) / I(0) for p of unit area.

        Args:
            p: (B, X) samples, or (B, K) coefficients after `on_coefficients`.
            d_max: (B,) angstrom.
            q: (Q,) or (B, Q) 1/angstrom.

        Returns:
            (B, Q) in the dtype of p.
        """
        values = cosines_from_coefficients(p.double()) if self.sine else p.double()
        table = values @ self.matrix.to(torch.float64)
        position = torch.atleast_2d(q).double() * d_max.double()[:, None] / self.step
        edge = float(self.points - 2)
        beyond = (position / edge).clamp(min=1)
        # the sums need float64, their values do not
        values = _interpolate_even(table.to(p.dtype), position.clamp(max=edge))
        return values / beyond.to(p.dtype) ** 4


def _fine_points(kappa_max: float, features: int) -> int:
    """Odd number of Simpson points that resolves both the basis and sin(kappa x)."""
    return 2 * max(1024, ceil(4 * kappa_max), 16 * features) + 1


def _interpolate_even(table: Tensor, position: Tensor) -> Tensor:
    """Cubic Lagrange interpolation of rows (B, N), even about 0, at fractional columns (B, Q)."""
    cell = position.detach().floor().clamp(0, table.shape[1] - 3)
    f = (position - cell).to(table.dtype)
    i = cell.long()
    weights = (
        -f * (f - 1) * (f - 2) / 6,
        (f + 1) * (f - 1) * (f - 2) / 2,
        -(f + 1) * f * (f - 2) / 2,
        (f + 1) * f * (f - 1) / 6,
    )
    columns = ((i - 1).abs(), i, i + 1, i + 2)
    return sum(  # type: ignore[return-value]
        w * table.gather(1, column) for w, column in zip(weights, columns, strict=True)
    )
