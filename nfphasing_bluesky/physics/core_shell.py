"""Core-shell sphere averaged over a Schulz distribution of the core radius, the shell's thickness fixed.

With radii r_1 = R t (weight 1 - c) and r_2 = R t + d (weight c), c the shell's contrast over the core's,

    F = Im sum_i w_i (1 - i q r_i) exp(i q r_i) = Im (A + B t) exp(i kappa t)

and F^2 = (|Z|^2 - Re Z^2) / 2 averages term by term with `schulz.Oscillation`.
"""

from math import comb

import torch
from torch import Tensor

from nfphasing_bluesky.physics import schulz

# sin x - x cos x = x^3 / 3 * sum_n AMPLITUDE_SERIES[n] x^(2 n)
_AMPLITUDE_SERIES = (1.0, -1 / 10, 1 / 280, -1 / 15120, 1 / 1330560)
_SERIES_BELOW = 0.2


def squared_amplitude(q: Tensor, core: Tensor, shell: Tensor, ratio: Tensor, variance: Tensor) -> Tensor:
    """E[F^2] in units of a homogeneous sphere of radius R + d with the core's contrast, at q = 0.

    Args:
        q: (B, Q) 1/angstrom, float64.
        core: (B,) mean core radius R, angstrom, float64.
        shell: (B,) thickness d of the shell, angstrom, float64.
        ratio: (B,) contrast of the shell over that of the core.
        variance: (B,) p^2 of the core radius.
    """
    outer = core + shell
    y = q * outer[:, None]
    small = y < _SERIES_BELOW
    closed = _closed(
        torch.where(small, y.detach().clamp(min=_SERIES_BELOW), y), core / outer, ratio, variance
    )
    series = _series(
        torch.where(small, y, y.detach().clamp(max=_SERIES_BELOW)), core / outer, ratio, variance
    )
    return torch.where(small, series, closed)


def forward_squared(core: Tensor, shell: Tensor, ratio: Tensor, variance: Tensor) -> Tensor:
    """(B,) value of `squared_amplitude` at q = 0."""
    return _gram(core / (core + shell), ratio, variance)[:, 0, 0]


def _closed(y: Tensor, a: Tensor, ratio: Tensor, variance: Tensor) -> Tensor:
    kappa, delta = y * a[:, None], y * (1 - a)[:, None]
    w2 = ratio[:, None]
    w1 = 1 - w2
    cos, sin = torch.cos(delta), torch.sin(delta)
    a_re, a_im = w1 + w2 * (cos + delta * sin), w2 * (sin - delta * cos)
    b_re, b_im = kappa * w2 * sin, -kappa * (w1 + w2 * cos)
    v = variance[:, None]
    wave = schulz.Oscillation(kappa, v)
    c0, s0 = wave.zero
    c1, s1 = wave.up(wave.zero)
    c2, s2 = wave.up((c1, s1))
    m2 = schulz.moment(2, v)
    steady = a_re**2 + a_im**2 + 2 * (a_re * b_re + a_im * b_im) + m2 * (b_re**2 + b_im**2)
    swing = (a_re**2 - a_im**2) * c0 - 2 * a_re * a_im * s0
    swing = swing + 2 * ((a_re * b_re - a_im * b_im) * c1 - (a_re * b_im + a_im * b_re) * s1)
    swing = swing + m2 * ((b_re**2 - b_im**2) * c2 - 2 * b_re * b_im * s2)
    return 4.5 * (steady - swing) / y**6


def _series(y: Tensor, a: Tensor, ratio: Tensor, variance: Tensor) -> Tensor:
    gram = _gram(a, ratio, variance)
    y2 = y.square()
    power, total = torch.ones_like(y2), torch.zeros_like(y2)
    for n in range(len(_AMPLITUDE_SERIES)):
        coefficient = sum(
            _AMPLITUDE_SERIES[i] * _AMPLITUDE_SERIES[n - i] * gram[:, i, n - i] for i in range(n + 1)
        )
        total = total + power * torch.as_tensor(coefficient)[:, None]
        power = power * y2
    return total


def _gram(a: Tensor, ratio: Tensor, variance: Tensor) -> Tensor:
    """(B, 5, 5) E[S_n S_m] of S_n(t) = (1 - c) (a t)^n + c (a t + b)^n, n = 3, 5, ..., 11, b = 1 - a."""
    orders = [2 * n + 3 for n in range(len(_AMPLITUDE_SERIES))]
    top = orders[-1]
    a_powers, b_powers = _powers(a, top), _powers(1 - a, top)
    zero = torch.zeros_like(a)
    rows = []
    for n in orders:
        row = [ratio * comb(n, j) * a_powers[j] * b_powers[n - j] if j <= n else zero for j in range(top + 1)]
        row[n] = row[n] + (1 - ratio) * a_powers[n]
        rows.append(torch.stack(row, -1))
    polynomials = torch.stack(rows, 1)
    moments = torch.stack([schulz.moment(n, variance) for n in range(2 * top + 1)], -1)
    index = torch.arange(top + 1, device=a.device)
    return polynomials @ moments[:, index[:, None] + index] @ polynomials.transpose(1, 2)


def _powers(x: Tensor, top: int) -> list[Tensor]:
    result = [torch.ones_like(x)]
    for _ in range(top):
        result.append(result[-1] * x)
    return result
