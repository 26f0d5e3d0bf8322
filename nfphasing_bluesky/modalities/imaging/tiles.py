"""Frames larger than what a network was trained on: overlapping tiles, blended with weights."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

STEP = 8
"""Tiles start at multiples of this, so that the coarsest pixels of neighbours coincide."""


class Tiling(NamedTuple):
    """Tiles of (height, width) pixels that cover frames of a shape, where rows and columns of them begin."""

    shape: tuple[int, int]
    size: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """Row and column of the first pixel of each tile, row by row."""
        return tuple((y, x) for y in self.rows for x in self.columns)

    @property
    def single(self) -> bool:
        """True when one tile is the whole frame."""
        return self.size == self.shape

    def cut(self, images: Tensor) -> Tensor:
        """(..., T, h, w) tiles of images (..., H, W)."""
        h, w = self.size
        return torch.stack([images[..., y : y + h, x : x + w] for y, x in self.corners], -3)

    def blend(self, tiles: Tensor) -> Tensor:
        """Images (..., H, W) of tiles (..., T, h, w): their mean, weighted by the distance to a tile's edge.

        The weight of a tile falls to zero at its edges, but for those on the frame's own border. It is a
        product of rows and columns, so that rows of tiles become bands and these the image.
        """
        grid = tiles.unflatten(-3, (len(self.rows), len(self.columns)))
        bands = _joined(grid.transpose(-3, -2), self.columns, self.shape[1])
        return _joined(bands.movedim(-1, -3), self.rows, self.shape[0]).mT


def tiling(shape: tuple[int, int], tile: int) -> Tiling:
    """Tiles of at most `tile` pixels a side, overlapping by half or a little more."""
    size = tuple(min(tile, STEP * (n // STEP)) for n in shape)
    rows, columns = (_starts(n, s) for n, s in zip(shape, size, strict=True))
    return Tiling(shape, (size[0], size[1]), rows, columns)


def _starts(pixels: int, size: int) -> tuple[int, ...]:
    if pixels == size:
        return (0,)
    step = max(STEP, STEP * (size // 2 // STEP))
    return (*range(0, pixels - size, step), pixels - size)


def _joined(pieces: Tensor, starts: Sequence[int], pixels: int) -> Tensor:
    """(..., pixels) weighted means of pieces (..., T, n) that begin where it is said."""
    n = pieces.shape[-1]
    out, total = pieces.new_zeros(*pieces.shape[:-2], pixels), pieces.new_zeros(pixels)
    for t, start in enumerate(starts):
        weight = _ramp(n, start, pixels).to(pieces)
        out[..., start : start + n] += weight * pieces[..., t, :]
        total[start : start + n] += weight
    return out / total


def _ramp(size: int, start: int, pixels: int) -> Tensor:
    """(size,) weights: half a squared cosine on the sides where another tile goes on."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    up = torch.sin(torch.pi / 2 * (2 * place).clamp_max(1.0)).square()
    weight = torch.ones(size, dtype=torch.float64)
    if start > 0:
        weight = weight * up
    if start + size < pixels:
        weight = weight * up.flip(0)
    return weight


def tile_corners(n: int, shape: Sequence[int], tile: int, generator: Generator) -> Tensor:
    """(n, 2) random rows and columns of tiles in frames of a shape, on the grid of a `tiling`."""
    device = generator.device
    places = [
        torch.randint(0, (pixels - tile) // STEP + 1, (n,), generator=generator, device=device) * STEP
        for pixels in shape
    ]
    return torch.stack(places, 1)
