"""Orthonormal Haar transforms: an image as a coarse one and details, level by level.

The coarse image is twice the mean of 2 x 2 pixels, so that white noise stays white and determinants are 1.
Sums and differences only: a convolution would be rounded to bfloat16 under autocast.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def haar_split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Coarse image (..., C, H/2, W/2) and details (..., 3 C, H/2, W/2) of (..., C, H, W).

    The details are C differences along W, then C along H, then C along the diagonal.
    """
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    top, bottom, left, right = a + b, c + d, a - b, c - d
    details = torch.cat((left + right, top - bottom, left - right), dim=-3)
    return 0.5 * (top + bottom), 0.5 * details


def haar_merge(coarse: Tensor, details: Tensor) -> Tensor:
    """Inverse of `haar_split`."""
    across, down, diagonal = (0.5 * details).chunk(3, dim=-3)
    mean = 0.5 * coarse
    top = torch.stack((mean + across + down + diagonal, mean - across + down - diagonal), dim=-1)
    bottom = torch.stack((mean + across - down - diagonal, mean - across - down + diagonal), dim=-1)
    return torch.stack((top.flatten(-2), bottom.flatten(-2)), dim=-2).flatten(-3, -2)


def split_levels(x: Tensor, levels: int) -> list[Tensor]:
    """Coarsest image, then details coarse to fine, of (..., C, H, W) halved `levels` times."""
    parts = []
    for _ in range(levels):
        x, details = haar_split(x)
        parts.append(details)
    return [x, *reversed(parts)]


def merge_levels(parts: Sequence[Tensor]) -> Tensor:
    """Inverse of `split_levels`."""
    x = parts[0]
    for details in parts[1:]:
        x = haar_merge(x, details)
    return x
