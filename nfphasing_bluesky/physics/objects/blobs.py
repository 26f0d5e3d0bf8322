"""Thresholded fields: porous media, islands, and membranes as bands about a level."""

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import Shape, chance, each, integers, to_peak_one, uniform
from nfphasing_bluesky.physics.objects.fields import (
    Spectrum,
    above,
    bands,
    gaussian_field,
    power_laws,
    quantile,
    slope,
)

_LAYERS = 4


def random_phases(n: int, shape: Shape, generator: Generator) -> tuple[Tensor, Spectrum]:
    """Fields (n, H, W) fit to be cut: half of them power laws, half bands of 6 px up to half the frame."""
    law = power_laws(n, generator, 2.5, 4)
    band = bands(n, generator, 6, min(shape) / 2)
    choice = chance(generator, (n,), 0.5)
    spectrum = Spectrum(*(torch.where(choice, a, b) for a, b in zip(law, band, strict=True)))
    return gaussian_field(spectrum, shape, generator), spectrum


def porous(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Solids with 8 to 92 % of pores, seen through one to four independent layers."""
    L = _LAYERS
    solid = uniform(generator, (n, 1), 0.08, 0.92)
    single = chance(generator, (n, 1), 0.5)
    layers = torch.where(single, 1, integers(generator, (n, 1), 2, L))
    present = torch.arange(L, device=generator.device) < layers
    owner = present.nonzero()[:, 0]
    field, _ = random_phases(len(owner), shape, generator)
    layer = above(field, quantile(solid[owner, 0]), slope(field))
    maps = layer.new_zeros(n, *shape).index_add_(0, owner, layer)
    return to_peak_one(maps)


def membranes(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Walls of 1.5 to 5 px along the level lines of band-limited fields, the two sides filled unequally."""
    field = gaussian_field(bands(n, generator, 10, min(shape)), shape, generator)
    level = uniform(generator, (n,), -1, 1)
    # where the field is flat a level line has no width of its own
    gradient = torch.maximum(slope(field), 0.5 * slope(field).mean((1, 2), keepdim=True))
    distance = (field - each(level)) / gradient
    wall = (0.5 + each(uniform(generator, (n,), 0.75, 2.5)) - distance.abs()).clamp(0, 1)
    side = (0.5 + distance).clamp(0, 1)
    filled = uniform(generator, (n,), -0.6, 0.6).clamp(min=0)
    return torch.maximum(wall, side * each(filled))
