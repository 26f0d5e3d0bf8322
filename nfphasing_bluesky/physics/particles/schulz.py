"""Averages over a Schulz (Gamma) size distribution in closed form.

Sizes are r = R t with t ~ Gamma(shape k = 1/p^2, mean 1), p the relative standard deviation, so that

    E[t^m exp(i c t)] = Gamma(k + m) / (Gamma(k) k^m) (1 - i c / k)^-(k + m)

(Kotlarchyk and Chen, J. Chem. Phys. 79, 2461 (1983)). Work in float64 here: the callers' sums cancel.
"""

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-12
"""Added to p^2, so that p = 0 (a single size) is the smooth limit of every formula."""


def relative_variance(polydispersity: Tensor) -> Tensor:
    """Return p^2 as float64, kept off zero."""
    return polydispersity.double().square() + VARIANCE_FLOOR


def moment(order: int, variance: Tensor) -> Tensor:
    """E[t^order] of the unit-mean distribution for any integer order with 1 + order p^2 > 0.

    Args:
        order: power of t, may be negative.
        variance: p^2, any shape.
    """
    result = torch.ones_like(variance)
    for j in range(order):
        result = result * (1 + j * variance)
    for j in range(-order):
        result = result / (1 - (j + 1) * variance)
    return result


class Oscillation:
    """E[t^m exp(2 i kappa t)] / E[t^m] for successive m, as pairs (cosine part, sine part).

    Args:
        kappa: q R, float64, any shape.
        variance: p^2, broadcasts against kappa.
    """

    def __init__(self, kappa: Tensor, variance: Tensor) -> None:
        self.z = 2 * kappa * variance
        self.norm = 1 + self.z.square()
        amplitude = torch.exp(-torch.log1p(self.z.square()) / (2 * variance))
        phase = torch.atan(self.z) / variance
        self.zero = (amplitude * torch.cos(phase), amplitude * torch.sin(phase))

    def up(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """From order m to m + 1: multiply by (1 + i z) / (1 + z^2)."""
        c, s = pair
        return (c - self.z * s) / self.norm, (s + self.z * c) / self.norm

    def down(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """From order m to m - 1: multiply by 1 - i z."""
        c, s = pair
        return c + self.z * s, s - self.z * c


# (sin x - x cos x)^2 = x^6 / 9 * sum_n SQUARED_SERIES[n] x^(2 n)
_SQUARED_SERIES = (1.0, -1 / 5, 3 / 175, -4 / 4725, 2 / 72765)
_SERIES_BELOW = 0.15


def sphere_average(kappa: Tensor, variance: Tensor) -> Tensor:
    """E[t^6 Phi(kappa t)^2] / E[t^6] with Phi(x) = 3 (sin x - x cos x) / x^3, so that it is 1 at 0.

    Args:
        kappa: q R, float64, any shape.
        variance: p^2, broadcasts against kappa.
    """
    small = kappa < _SERIES_BELOW
    x = torch.where(small, kappa.detach().clamp(min=_SERIES_BELOW), kappa)
    x2 = x.square()
    wave = Oscillation(x, variance)
    c0, _ = wave.zero
    _, s1 = first = wave.up(wave.zero)
    c2, _ = wave.up(first)
    m2x2 = moment(2, variance) * x2
    squared = 0.5 * (1 + m2x2 - c0 + m2x2 * c2) - x * s1
    closed = 9 * squared / (x2 * x2 * x2 * moment(6, variance))
    y2 = torch.where(small, kappa, kappa.detach().clamp(max=_SERIES_BELOW)).square()
    series, ratio = torch.ones_like(y2), torch.ones_like(variance)
    power = torch.ones_like(y2)
    for n, coefficient in enumerate(_SQUARED_SERIES[1:], start=1):
        ratio = ratio * (1 + (4 + 2 * n) * variance) * (1 + (5 + 2 * n) * variance)
        power = power * y2
        series = series + coefficient * ratio * power
    return torch.where(small, series, closed)
