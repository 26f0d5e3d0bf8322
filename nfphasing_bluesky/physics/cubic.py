"""Cubic interpolation between four neighbours (Lagrange)."""

import torch
from torch import Tensor

from nfphasing_bluesky.physics.kept import kept


@kept(8)
def _lagrange(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(4, 4) powers 1, f, f^2, f^3 to the weights of the neighbours at -1, 0, 1, 2."""
    sixths = [[0, 6, 0, 0], [-2, -3, 6, -1], [3, -6, 3, 0], [-1, 3, -3, 1]]
    return torch.tensor(sixths, dtype=dtype, device=device) / 6


@kept(8)
def around(device: torch.device) -> Tensor:
    """(4,) places of the neighbours."""
    return torch.arange(-1, 3, device=device)


def cubic_weights(f: Tensor) -> Tensor:
    """(N, 4) weights of the four neighbours at -1, 0, 1, 2 of points at f (N,) in [0, 1]."""
    square = f.square()
    powers = torch.stack((torch.ones_like(f), f, square, square * f), dim=1)
    return powers @ _lagrange(f.device, f.dtype)


def cubic_slopes(f: Tensor) -> Tensor:
    """(N, 4) derivatives of `cubic_weights` by f."""
    powers = torch.stack((torch.zeros_like(f), torch.ones_like(f), 2 * f, 3 * f.square()), dim=1)
    return powers @ _lagrange(f.device, f.dtype)
