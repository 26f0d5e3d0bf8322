"""Scattering of a pair-distance distribution p(r), and sine coefficients of its root, which keep p positive.

I(q) = 4 pi integral_0^Dmax p(r) sin(q r) / (q r) dr (GNOM's convention), so I(0) = 4 pi integral p dr.
Normalised: x = r / Dmax in [0, 1], p(x) of unit area, kappa = q Dmax. Letters: B batch, Q points of the
curve, X points of the x grid, K coefficients.
"""

from math import ceil

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from nfphasing_bluesky.physics.cubic import around, cubic_weights

ROWS = 32
"""Of the kernel's kappa grid, computed together."""


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


class UniversalDebye(nn.Module):
    """I(q) / I(0) of many p(x) at once: one matrix product on a fixed kappa grid, then cubic interpolation.

    p is sampled on a uniform x grid and splined in between. Buffers are float64 and follow `.to(device)`.

    Args:
        points: X, number of samples of p on linspace(0, 1, X).
        kappa_max: largest q Dmax of the grid. Beyond it the curve is continued as kappa^-4 (Porod).
        step: of the kappa grid; the cubic's error is below step^4 / 40 of the local amplitude.
    """

    matrix: Tensor

    def __init__(self, points: int = 128, kappa_max: float = 256.0, step: float = 0.2) -> None:
        super().__init__()
        self.step, self.points = step, ceil(kappa_max / step) + 2
        x = np.linspace(0, 1, 2 * max(1024, ceil(4 * kappa_max), 16 * points) + 1)
        weights = np.full(x.size, 1 / (x.size - 1))
        weights[1:-1:2] *= 4 / 3
        weights[2:-1:2] *= 2 / 3
        weights[[0, -1]] /= 3
        kappa = np.arange(self.points) * step
        basis = weights[:, None] * CubicSpline(np.linspace(0, 1, points), np.eye(points))(x)
        # few rows at a time: large temporaries cost more to get from the system than to fill
        rows = [np.sinc(kappa[i : i + ROWS, None] * x / np.pi) @ basis for i in range(0, self.points, ROWS)]
        self.register_buffer("matrix", torch.as_tensor(np.concatenate(rows).T.copy()), persistent=False)

    def forward(self, p: Tensor, d_max: Tensor, q: Tensor) -> Tensor:
        """Return integral p(x) sinc(q Dmax x) dx, which is I(q) / I(0) for p of unit area.

        Args:
            p: (B, X) samples.
            d_max: (B,) angstrom.
            q: (Q,) or (B, Q) 1/angstrom.

        Returns:
            (B, Q) in the dtype of p.
        """
        return self.interpolate(self.table(p), d_max, q)

    def table(self, p: Tensor) -> Tensor:
        """(B, F) curves of (B, X) samples at kappa = 0, step, 2 step, ..."""
        # the sums need float64, their values do not
        return (p.double() @ self.matrix.to(torch.float64)).to(p.dtype)

    def interpolate(self, table: Tensor, d_max: Tensor, q: Tensor) -> Tensor:
        """(B, Q) curves of tables (B, F), each with its own d_max (B,) in angstrom."""
        # float32 places a point to 1e-4 of a step, far below the cubic's own error
        position = self._position(d_max.to(table), q.to(table))
        edge = float(self.points - 2)
        return _interpolate_even(table, position.clamp(max=edge)) / (position / edge).clamp(min=1) ** 4

    def rows(self, table: Tensor, d_max: Tensor, q: Tensor, factor: Tensor | None = None) -> Tensor:
        """(B, Q, C) values of C curves that all B share, (F, C); beyond the grid, those of its edge.

        Those at a point are multiplied with a factor, (B, Q) or (1, Q), where one is given.
        """
        position = self._position(d_max, q).clamp(max=float(self.points - 2))
        cell = position.detach().floor().clamp(0, table.shape[0] - 3)
        near = (cell.long().view(-1, 1) + around(table.device)).abs()
        weight = cubic_weights((position - cell).to(table).view(-1))
        if factor is not None:
            weight = (weight.view(*position.shape, 4) * factor[..., None]).view(-1, 4)
        out = nn.functional.embedding_bag(near, table, per_sample_weights=weight, mode="sum")
        return out.view(*position.shape, -1)

    def _position(self, d_max: Tensor, q: Tensor) -> Tensor:
        """(B, Q) fractional columns of the table."""
        return torch.atleast_2d(q) * (d_max / self.step)[:, None]


def _interpolate_even(table: Tensor, position: Tensor) -> Tensor:
    """Cubic Lagrange interpolation of rows (B, N), even about 0, at fractional columns (B, Q)."""
    cell = position.detach().floor().clamp(0, table.shape[1] - 3)
    f = (position - cell).to(table.dtype)
    columns = (cell.long().unsqueeze(-1) + around(table.device)).abs()
    values = table.gather(1, columns.flatten(1)).view(*f.shape, 4)
    return (values * cubic_weights(f.flatten()).view_as(values)).sum(-1)
