"""Voronoi cells: polycrystals, foams and grain boundaries.

Centres are drawn one in each cell of a lattice with staggered rows, turned and stretched for each object, so
that the nearest ones are found among neighbours, whatever their number.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import (
    Shape,
    angles,
    chance,
    each,
    integers,
    log_uniform,
    to_peak_one,
    uniform,
)

_BLOCK = 4
_AROUND = 3
_CANDIDATES = 18
_CHUNK_PIXELS = 2**15
SHORTEST_SPACING = 4.5


class Seeds(NamedTuple):
    """Centres of the cells of n objects, on G by G lattices."""

    lattice: Tensor
    """(n, G * G, 2) in units of the lattice; the frame's centre is at (G / 2, G / 2)."""
    matrix: Tensor
    """(n, 2, 2) takes (row, column) from the frame's centre, px, to the lattice."""


class Partition(NamedTuple):
    """Who owns each pixel, (n, H, W) each."""

    first: Tensor
    """Index of the nearest centre, in the metric of the lattice."""
    second: Tensor
    """Index of the next one."""
    border: Tensor
    """Distance to the border between the two, px."""


def draw_seeds(n: int, shape: Shape, generator: Generator) -> Seeds:
    """Cells of 4.5 px up to two thirds of the frame; in one object of three drawn out up to threefold."""
    spacing = log_uniform(generator, (n,), SHORTEST_SPACING, 2 / 3 * min(shape))
    stretch = log_uniform(generator, (n,), 1 / 9, 3).clamp(min=1)
    jitter = uniform(generator, (n, 1, 1), 0.6, 1)
    angle = angles(generator, (n,))
    cos, sin = angle.cos(), angle.sin()
    across = torch.stack([cos, -sin], -1) / spacing[:, None]
    along = torch.stack([sin, cos], -1) / (spacing * stretch)[:, None]
    diagonal = math.hypot(*shape)
    G = math.ceil(diagonal / float(spacing.min())) + 2 * (_AROUND + 2)
    cell = torch.cartesian_prod(*[torch.arange(G, device=generator.device)] * 2)
    # every other row is shifted, or cells would meet in fours
    stagger = torch.stack([torch.zeros(G * G, device=cell.device), (cell[:, 0] % 2 - 0.5) / 2], -1)
    place = 0.5 + stagger + jitter * (uniform(generator, (n, G * G, 2)) - 0.5)
    return Seeds(cell + place, torch.stack([across, along], 1))


def partition(seeds: Seeds, shape: Shape) -> Partition:
    """Find the nearest two centres of every pixel.

    The frame goes in blocks of 4 by 4 pixels, each with the 18 centres nearest to its middle as candidates.
    """
    step = max(1, _CHUNK_PIXELS // (shape[0] * shape[1]))
    parts = [_partition(Seeds(*part), shape) for part in zip(*(x.split(step) for x in seeds), strict=True)]
    return Partition(*(torch.cat(x) for x in zip(*parts, strict=True)))


def _partition(seeds: Seeds, shape: Shape) -> Partition:
    n, G = seeds.lattice.shape[0], math.isqrt(seeds.lattice.shape[1])
    device, dtype = seeds.lattice.device, seeds.lattice.dtype
    rows, columns = (math.ceil(s / _BLOCK) for s in shape)
    middle = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
    middle = _BLOCK * middle.to(dtype) + (_BLOCK - 1) / 2 - middle.new_tensor([s - 1 for s in shape]) / 2
    at = middle @ seeds.matrix.mT + G / 2
    reach = torch.arange(-_AROUND, _AROUND + 1, device=device)
    around = (reach[:, None] * G + reach).flatten()
    home = at.floor().long().clamp(_AROUND, G - 1 - _AROUND)
    index = (home[..., 0] * G + home[..., 1])[..., None] + around
    near = _centres(seeds.lattice, index) - at[:, :, None]
    candidate = near.square().sum(-1).topk(_CANDIDATES, largest=False).indices
    index = index.gather(2, candidate)
    near = near.gather(2, candidate[..., None].expand(-1, -1, -1, 2))
    inner = torch.arange(_BLOCK, device=device, dtype=dtype) - (_BLOCK - 1) / 2
    pixel = torch.cartesian_prod(inner, inner) @ seeds.matrix.mT
    # |c - p|^2 up to |p|^2, which all share
    square = near.square().sum(-1)[:, :, None] - 2 * pixel[:, None] @ near.mT
    nearest, which = square.topk(2, largest=False)
    pair = near[:, :, None].expand(-1, -1, _BLOCK**2, -1, -1)
    pair = pair.gather(3, which[..., None].expand(-1, -1, -1, -1, 2))
    separation = (pair[:, :, :, 1] - pair[:, :, :, 0]) @ seeds.matrix[:, None]
    border = (nearest[..., 1] - nearest[..., 0]) / 2 / separation.norm(dim=-1).clamp(min=1e-9)
    owner = index[:, :, None].expand(-1, -1, _BLOCK**2, -1).gather(3, which)

    def image(blocks: Tensor) -> Tensor:
        tiles = blocks.view(n, rows, columns, _BLOCK, _BLOCK).transpose(2, 3)
        return tiles.reshape(n, rows * _BLOCK, columns * _BLOCK)[:, : shape[0], : shape[1]]

    return Partition(image(owner[..., 0]), image(owner[..., 1]), image(border))


def _centres(lattice: Tensor, index: Tensor) -> Tensor:
    flat = index.flatten(1)[..., None].expand(-1, -1, 2)
    return lattice.gather(1, flat).view(*index.shape, 2)


def grains(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Grains of constant thickness, of two to many levels; in half of the objects with grooves between."""
    seeds = draw_seeds(n, shape, generator)
    steps = integers(generator, (n, 1), 1, 6)
    level = uniform(generator, seeds.lattice.shape[:2])
    level = torch.where(steps > 3, level, (level * (steps + 1)).floor() / steps)
    depth = uniform(generator, (n,)) * chance(generator, (n,), 0.5)
    width = uniform(generator, (n,), 0.7, 2.5)
    owner = partition(seeds, shape)
    maps = blend(level, owner)
    return to_peak_one(maps * (1 - each(depth) * torch.exp(-owner.border / each(width))))


def blend(level: Tensor, owner: Partition) -> Tensor:
    """Levels (n, G * G) of cells as maps (n, H, W) with borders of a pixel."""
    here = level.gather(1, owner.first.flatten(1)).view(owner.first.shape)
    there = level.gather(1, owner.second.flatten(1)).view(owner.first.shape)
    return torch.lerp(there, here, (0.5 + owner.border).clamp(max=1))


def grain_boundaries(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Walls of 1 to 5 px along the borders of cells, nothing or little between."""
    seeds = draw_seeds(n, shape, generator)
    owner = partition(seeds, shape)
    half_width = uniform(generator, (n,), 0.1, 1) * (0.2 / seeds.matrix[:, 0].norm(dim=1)).clamp(max=2.5)
    half_width = half_width.clamp(min=0.5)
    wall = (0.5 + each(half_width) - owner.border).clamp(0, 1)
    film = uniform(generator, (n, 1), -0.5, 0.5).clamp(min=0) * uniform(generator, seeds.lattice.shape[:2])
    return to_peak_one(torch.maximum(wall, blend(film, owner)))
