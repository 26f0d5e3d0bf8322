"""Siemens stars, as resolution is tested with: spokes, rings, gaps, hubs, and spokes cut off for a label."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import (
    Shape,
    angles,
    centred_grid,
    chance,
    each,
    integers,
    log_uniform,
    uniform,
)
from nfphasing_bluesky.physics.objects.lithography import THINNEST, stripe
from nfphasing_bluesky.physics.objects.stamps import coverage

_RINGS = 3


class Star(NamedTuple):
    """n Siemens stars, lengths in px."""

    centre: Tensor
    """(n, 2) row and column from the frame's centre."""
    spokes: Tensor
    """(n,) number."""
    duty: Tensor
    """(n,) angular width of a spoke over the pitch."""
    turn: Tensor
    """(n,) rad."""
    inner: Tensor
    """(n,) radius where spokes begin."""
    outer: Tensor
    """(n,) radius where they end."""
    ring: Tensor
    """(n, 3) radii of rings across the spokes."""
    ring_width: Tensor
    """(n, 3) 0 for no ring."""
    solid: Tensor
    """(n, 3) a ring of metal, else a gap."""
    hub: Tensor
    """(n,) radius of a disc in the centre, 0 for none."""
    missing: Tensor
    """(n,) number of neighbouring spokes cut off, as by a label."""
    cut: Tensor
    """(n, 2) radii between which these are cut off."""


def draw_stars(n: int, shape: Shape, generator: Generator) -> Star:
    """Stars of 10 to 72 spokes, whole or in part; a spoke is 1.5 px wide where it begins, or wider."""
    size = min(shape)
    spokes = log_uniform(generator, (n,), 10, min(72.0, 0.7 * size)).round()
    inner = (spokes * log_uniform(generator, (n,), 3, 8) / (2 * torch.pi)).clamp(max=0.4 * size)
    large = chance(generator, (n,), 0.5)
    outer = size * torch.where(large, uniform(generator, (n,), 0.6, 2), uniform(generator, (n,), 0.3, 0.5))
    outer = torch.maximum(outer, 2 * inner)
    off = torch.where(large, (0.6 * outer).clamp(max=0.8 * size), 0.08 * size)
    off = off[:, None] * uniform(generator, (n, 2), -1, 1)
    span = (outer - inner)[:, None]
    ring = inner[:, None] + span * uniform(generator, (n, _RINGS), 0.1, 0.9)
    some = chance(generator, (n, _RINGS), 0.6)
    width = some * uniform(generator, (n, _RINGS), 0.02, 0.06) * outer[:, None].clamp(max=size)
    hub = inner * uniform(generator, (n,), 0.2, 0.8) * chance(generator, (n,), 0.4)
    missing = (integers(generator, (n,), -2, 3)).clamp(min=0)
    low = inner + (outer - inner) * uniform(generator, (n,), 0.1, 0.6)
    high = torch.where(chance(generator, (n,), 0.5), 2 * outer, low + 0.3 * (outer - inner))
    return Star(
        off,
        spokes,
        uniform(generator, (n,), 0.4, 0.6),
        angles(generator, (n,)),
        inner,
        outer,
        ring,
        width.clamp(min=THINNEST) * some,
        chance(generator, (n, _RINGS), 0.5),
        hub,
        missing,
        torch.stack([low, high], 1),
    )


def star_distance(star: Star, shape: Shape) -> Tensor:
    """Signed distance (n, H, W) to the nearest edge, px; first order between spokes and rings."""
    rows, columns = centred_grid(shape, star.spokes)
    dy, dx = rows - each(star.centre[:, 0]), columns - each(star.centre[:, 1])
    r = (dy.square() + dx.square()).sqrt()
    turns = (torch.atan2(dy, dx) + each(star.turn)) / (2 * torch.pi) % 1.0
    phase = turns * each(star.spokes)
    distance = stripe(phase, star.duty, 2 * torch.pi * r / each(star.spokes))
    cut = torch.maximum(each(star.cut[:, 0]) - r, r - each(star.cut[:, 1]))
    distance = torch.where(phase < each(star.missing), torch.maximum(distance, -cut), distance)
    for j in range(_RINGS):
        # half a width of -1 is nowhere inside
        half = torch.where(star.ring_width[:, j] > 0, star.ring_width[:, j] / 2, -1)
        ring = (r - each(star.ring[:, j])).abs() - each(half)
        solid, gap = torch.minimum(distance, ring), torch.maximum(distance, -ring)
        distance = torch.where(each(star.solid[:, j]), solid, gap)
    distance = torch.maximum(distance, torch.maximum(each(star.inner) - r, r - each(star.outer)))
    return torch.minimum(distance, torch.where(each(star.hub) > 0, r - each(star.hub), 1.0))


def siemens_stars(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Siemens stars with rings, gaps, hubs and spokes cut short."""
    return coverage(star_distance(draw_stars(n, shape, generator), shape))
