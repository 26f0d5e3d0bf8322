"""Core-shell sphere; core radius and shell thickness each Schulz distributed, independently.

With radii r_1 = R t (weight 1 - c) and r_2 = R t + d s (weight c), c the shell's contrast over the core's,
kappa = q R, delta = q d and X = exp(i delta s),

    F = Im Z,  Z = sum_i w_i (1 - i q r_i) exp(i q r_i) = (A + B t) exp(i kappa t),
    A = w_1 + w_2 (1 - i delta s) X,  B = -i kappa (w_1 + w_2 X),

and F^2 = (|Z|^2 - Re Z^2) / 2 averages over s and t term by term with `schulz.Oscillation`.
"""

from copy import copy
from math import comb

import torch
from torch import Tensor

from nfphasing_bluesky.physics.kept import kept
from nfphasing_bluesky.physics.particles import schulz

# sin x - x cos x = x^3 / 3 * sum_n AMPLITUDE_SERIES[n] x^(2 n)
_AMPLITUDE_SERIES = (1.0, -1 / 10, 1 / 280, -1 / 15120, 1 / 1330560)
_SERIES_BELOW = 0.2
_TERMS = len(_AMPLITUDE_SERIES)
_TOP = 2 * _TERMS + 4

_AT_ONCE = 1 << 14
"""Values of a temporary: a hundred of them are written and read, which a processor's cache should hold."""


class CoreShell:
    """E[F^2] in units of a homogeneous sphere of radius R + d with the core's contrast, at q = 0.

    Args:
        core: (B,) mean core radius R, angstrom, float64.
        shell: (B,) mean shell thickness d, angstrom, float64.
        ratio: (B,) contrast of the shell over that of the core.
        variance: (B,) p^2 of the core radius.
        shell_variance: (B,) p^2 of the shell thickness.
    """

    def __init__(
        self, core: Tensor, shell: Tensor, ratio: Tensor, variance: Tensor, shell_variance: Tensor
    ) -> None:
        self.outer = core + shell
        self.core_share = (core / self.outer)[:, None]
        self.ratio = ratio[:, None]
        self.variance, self.shell_variance = variance[:, None], shell_variance[:, None]

    def at(self, rows: Tensor) -> "CoreShell":
        """Return the particles that an index picks."""
        part = copy(self)
        part.outer, part.core_share, part.ratio = self.outer[rows], self.core_share[rows], self.ratio[rows]
        part.variance, part.shell_variance = self.variance[rows], self.shell_variance[rows]
        return part

    def forward(self) -> Tensor:
        """(B,) value at q = 0."""
        return self._series_coefficients(slice(None))[:, 0]

    def mean_volume(self) -> Tensor:
        """(B,) <(R t + d s)^3> over (R + d)^3."""
        core = _scaled_moments(self.core_share, self.variance)
        shell = _scaled_moments(1 - self.core_share, self.shell_variance)
        return sum(
            (comb(3, k) * core[:, k] * shell[:, 3 - k] for k in range(4)), torch.zeros_like(self.outer)
        )

    def __call__(self, q: Tensor) -> Tensor:
        """(B, Q) values at q (B, Q) 1/angstrom, float64."""
        most = max(1, _AT_ONCE // q.shape[1])
        if len(q) > most:
            parts = torch.arange(len(q), device=q.device).split(most)
            return torch.cat([self.at(part)(q[part]) for part in parts])
        y = q * self.outer[:, None]
        small = y < _SERIES_BELOW
        if not small.any():
            return self._closed(y)
        closed = self._closed(torch.where(small, y.detach().clamp(min=_SERIES_BELOW), y))
        rows = small.any(1).nonzero()[:, 0]
        y2, coefficients = y[rows].clamp(max=_SERIES_BELOW).square(), self._series_coefficients(rows)
        series = coefficients[:, -1:]
        for n in reversed(range(_TERMS - 1)):
            series = series * y2 + coefficients[:, n, None]
        return closed.index_copy(0, rows, torch.where(small[rows], series, closed[rows]))

    def _closed(self, y: Tensor) -> Tensor:
        kappa, delta = y * self.core_share, y * (1 - self.core_share)
        w2, w1 = self.ratio, 1 - self.ratio
        v, u = self.variance, self.shell_variance
        both, own, m2 = w1 * w2, w2 * w2, schulz.moment(2, v)
        n2 = schulz.moment(2, u)
        single, double = schulz.Oscillation(delta / 2, u), schulz.Oscillation(delta, u)
        x_c, x_s = single.zero
        sx_c, sx_s = single.up(single.zero)
        xx_c, xx_s = double.zero
        sxx_c, sxx_s = first = double.up(double.zero)
        ssxx_c, ssxx_s = double.up(first)
        # averages over s of X, s X, X^2, s X^2, s^2 X^2 give those of A^2, A B / (-i kappa), B^2 / (-kappa^2)
        delta2 = delta.square()
        cx_c, cx_s = x_c + delta * sx_s, x_s - delta * sx_c
        cxx_c, cxx_s = xx_c + delta * sxx_s, xx_s - delta * sxx_c
        ccxx_c = xx_c + 2 * delta * sxx_s - delta2 * n2 * ssxx_c
        ccxx_s = xx_s - 2 * delta * sxx_c - delta2 * n2 * ssxx_s
        aa_c, aa_s = w1 * w1 + 2 * both * cx_c + own * ccxx_c, 2 * both * cx_s + own * ccxx_s
        ab_c = w1 * w1 + both * (x_c + cx_c) + own * cxx_c
        ab_s = both * (x_s + cx_s) + own * cxx_s
        bb_c, bb_s = w1 * w1 + 2 * both * x_c + own * xx_c, 2 * both * x_s + own * xx_s
        kappa2 = kappa.square()
        steady = w1 * w1 + own * (1 + delta2 * n2) + 2 * both * cx_c
        steady = steady + 2 * kappa * (own * delta + both * (x_s - cx_s))
        steady = steady + kappa2 * m2 * (w1 * w1 + own + 2 * both * x_c)
        wave = schulz.Oscillation(kappa, v)
        c0, s0 = wave.zero
        c1, s1 = wave.up(wave.zero)
        c2, s2 = wave.up((c1, s1))
        swing = aa_c * c0 - aa_s * s0 + 2 * kappa * (ab_c * s1 + ab_s * c1)
        swing = swing - kappa2 * m2 * (bb_c * c2 - bb_s * s2)
        y2 = y.square()
        return 4.5 * (steady - swing) / (y2 * y2 * y2)

    def _series_coefficients(self, rows: Tensor | slice) -> Tensor:
        """(rows, 5) coefficients of E[F^2] * 9 / y^6 in y^2, from E[S_n S_m], S_n = sum_i w_i r_i^n."""
        a = self.core_share[rows]
        core = _scaled_moments(a, self.variance[rows])
        shell = _scaled_moments(1 - a, self.shell_variance[rows])
        power, rest, binomial, series = _series_tables(a.device)
        # E[(a t)^n (a t + b s)^m] for n, m = 3, 5, ..., and n = 0 for the shell's own square
        cross = (core[:, power] * shell[:, rest] * binomial).sum(-1)
        w2 = self.ratio[rows][..., None]
        w1 = 1 - w2
        mixed = cross[:, :-1, :_TERMS]
        squares = torch.arange(_TERMS, device=a.device)
        total = squares[:, None] + squares
        core_only = core[:, (2 * total + 6).clamp(max=_TOP)]
        shell_only = cross[:, -1, (total + _TERMS).clamp(max=2 * _TERMS - 1)]
        gram = w1 * w1 * core_only + w1 * w2 * (mixed + mixed.transpose(1, 2)) + w2 * w2 * shell_only
        return (gram.flatten(1)) @ series


def _scaled_moments(share: Tensor, variance: Tensor) -> Tensor:
    """(B, TOP + 1) moments E[(share t)^n], n = 0 .. TOP."""
    steps = torch.arange(_TOP, dtype=share.dtype, device=share.device)
    return torch.nn.functional.pad((share * (1 + steps * variance)).cumprod(1), (1, 0), value=1.0)


@kept(8)
def _series_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return indices and binomials of (a t)^n (a t + b s)^m, and the (25, 5) map to the series.

    Rows n = 3, 5, .., 11 and 0; columns m = 3, 5, .., 11 and then the even orders 6, 8, .., 14.
    """
    rows = [2 * i + 3 for i in range(_TERMS)] + [0]
    columns = [2 * j + 3 for j in range(_TERMS)] + [2 * j + 6 for j in range(_TERMS)]
    shape = (len(rows), len(columns), _TOP + 1)
    power, rest = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    binomial = torch.zeros(shape, dtype=torch.float64)
    for i, n in enumerate(rows):
        for j, m in enumerate(columns):
            for k in range(m + 1 if n + m <= _TOP else 0):
                power[i, j, k], rest[i, j, k], binomial[i, j, k] = n + k, m - k, comb(m, k)
    series = torch.zeros(_TERMS, _TERMS, _TERMS, dtype=torch.float64)
    for i in range(_TERMS):
        for j in range(_TERMS - i):
            series[i, j, i + j] = _AMPLITUDE_SERIES[i] * _AMPLITUDE_SERIES[j]
    tables = (power, rest, binomial, series.flatten(0, 1))
    return tuple(table.to(device) for table in tables)  # type: ignore[return-value]
