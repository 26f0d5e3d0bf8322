"""The Faddeeva function w(z) = exp(-z^2) erfc(-i z), differentiable.

J. A. C. Weideman, SIAM J. Numer. Anal. 31, 1497 (1994): a rational function of N terms, for Im z >= 0.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_TERMS = 32


def faddeeva(z: Tensor) -> Tensor:
    """w(z) of complex z in either half plane, relative error below 1e-9 for complex128.

    Below the real axis w(z) = 2 exp(-z^2) - w(-z), which overflows far below it, as w does.
    """
    upper = z.imag >= 0
    value = _upper(torch.where(upper, z, -z))
    below = torch.where(upper, 0, z)
    return torch.where(upper, value, 2 * torch.exp(-below * below) - value)


def _upper(z: Tensor) -> Tensor:
    scale = math.sqrt(_TERMS / math.sqrt(2))
    iz = 1j * z
    denominator = scale - iz
    ratio = (scale + iz) / denominator
    total = torch.zeros_like(z)
    for coefficient in _coefficients():
        total = total * ratio + coefficient
    return 2 * total / denominator.square() + (1 / math.sqrt(math.pi)) / denominator


@lru_cache(maxsize=1)
def _coefficients() -> list[float]:
    """Of the powers of the ratio, highest first."""
    scale = math.sqrt(_TERMS / math.sqrt(2))
    points = 2 * _TERMS
    t = scale * np.tan(np.arange(-points + 1, points) * math.pi / points / 2)
    f = np.concatenate([[0.0], np.exp(-(t**2)) * (scale**2 + t**2)])
    powers = np.real(np.fft.fft(np.fft.fftshift(f))) / (2 * points)
    return [float(a) for a in powers[_TERMS:0:-1]]
