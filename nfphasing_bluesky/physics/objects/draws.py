"""Random numbers on the generator's device, and the coordinates of a frame's pixels.

Lengths are in pixels; pixel centres lie at integers, (row, column). n counts objects.
"""

import math

import torch
from torch import Generator, Tensor

Shape = tuple[int, int]


def uniform(generator: Generator, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def log_uniform(generator: Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Log-uniform in [low, high); low where high is below it."""
    return low * torch.exp(uniform(generator, shape) * math.log(max(high / low, 1.0)))


def normal(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Standard normal."""
    return torch.randn(shape, generator=generator, device=generator.device)


def integers(generator: Generator, shape: tuple[int, ...], low: int, high: int) -> Tensor:
    """Uniform integers from low to high, both included."""
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device)


def chance(generator: Generator, shape: tuple[int, ...], probability: float) -> Tensor:
    """True with the given probability."""
    return torch.rand(shape, generator=generator, device=generator.device) < probability


def angles(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Uniform directions, rad."""
    return uniform(generator, shape, 0, 2 * math.pi)


def centred_grid(shape: Shape, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (1, W) of the pixels, from the frame's centre, px."""
    H, W = shape
    rows = torch.arange(H, device=like.device, dtype=like.dtype) - (H - 1) / 2
    columns = torch.arange(W, device=like.device, dtype=like.dtype) - (W - 1) / 2
    return rows[:, None], columns[None]


def turned_grid(shape: Shape, angle: Tensor, centre: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Coordinates along and across a direction, each (n, H, W), px.

    Args:
        shape: (H, W).
        angle: (n,) from the column axis towards the row axis, rad.
        centre: (n, 2) origin as (row, column) from the frame's centre; that centre by default.
    """
    rows, columns = centred_grid(shape, angle)
    if centre is not None:
        rows, columns = rows - centre[:, 0, None, None], columns - centre[:, 1, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return columns * cos + rows * sin, rows * cos - columns * sin


def each(value: Tensor) -> Tensor:
    """(n,) as (n, 1, 1), to go with maps (n, H, W)."""
    return value[:, None, None]


def to_peak_one(maps: Tensor) -> Tensor:
    """Scale maps >= 0 (n, H, W) so that each one's largest value is 1; empty ones stay empty."""
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-6)
