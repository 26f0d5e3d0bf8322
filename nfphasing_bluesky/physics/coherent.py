"""Coherent far field of a compact object: |FFT u|^2 at twice the object's pixels along each axis.

Objects are (..., h, w) of real density in a grid of h x w pixels with nothing around it. Patterns are
(..., H, W) with q = 0 at [H // 2, W // 2], H = 2 h, W = 2 w, and 1 along an axis of a single pixel: that is
the Nyquist rate of the autocorrelation, so a pattern says all that an oversampled one could.
"""

import math

import torch
from torch import Tensor


def pattern_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Shape (H, W) of the pattern of an object of shape (h, w)."""
    rows, columns = (1 if n == 1 else 2 * n for n in shape)
    return rows, columns


def far_field(u: Tensor) -> Tensor:
    """(..., H, W) complex amplitudes of objects (..., h, w)."""
    shape = pattern_shape((u.shape[-2], u.shape[-1]))
    return torch.fft.fftshift(torch.fft.fft2(u, s=shape), dim=(-2, -1))


def coherent_pattern(u: Tensor) -> Tensor:
    """(..., H, W) intensities |FFT u|^2 of objects (..., h, w); differentiable."""
    amplitude = far_field(u)
    return amplitude.real.square() + amplitude.imag.square()


def friedel_mates(shape: tuple[int, int]) -> Tensor:
    """(H W,) flat index of the pixel at -q of each pixel of a pattern (H, W), modulo the period."""
    rows, columns = ((2 * (n // 2) - torch.arange(n)) % n for n in shape)
    return (rows[:, None] * shape[1] + columns).flatten()


def far_field_matrix(shape: tuple[int, int], pixels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Real and imaginary part (P, h w) of the amplitudes at some pixels per density at each place.

    Args:
        shape: (h, w) of the object.
        pixels: (P,) flat indices into the pattern.
        dtype: of both.
    """
    size = pattern_shape(shape)
    q = torch.stack([pixels // size[1] - size[0] // 2, pixels % size[1] - size[1] // 2], 1)
    places = torch.cartesian_prod(*(torch.arange(n, device=pixels.device) for n in shape))
    period = torch.tensor(size, dtype=torch.float64, device=pixels.device)
    phase = -2 * math.pi * (q.double() / period) @ places.double().mT
    return phase.cos().to(dtype), phase.sin().to(dtype)
