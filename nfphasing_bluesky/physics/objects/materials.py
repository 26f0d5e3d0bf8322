"""What absorbs where, beside a phase that is known: one material, several, or something of its own."""

from enum import IntEnum

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import Shape, chance, each, log_uniform, to_peak_one, uniform
from nfphasing_bluesky.physics.objects.fields import gaussian_field, power_laws
from nfphasing_bluesky.physics.objects.mixture import random_objects
from nfphasing_bluesky.physics.objects.optics import two_materials

_LEAST_RATIO = 0.02
"""Weakest beta / delta of a second material over that of the first."""

_EDGE = 0.03
"""Width of the step between two materials, in thickness over the largest one."""

_LEVELS = 6


class Absorbing(IntEnum):
    """How an absorption goes with a phase, as `absorbing_maps` draws it."""

    NOTHING = 0
    """A pure phase object."""
    TIED = 1
    """One material."""
    MATERIALS = 2
    """Two, one behind the other or where it is thick."""
    LEVELS = 3
    """The phase's edges, each level as strong as it likes: many materials."""
    OTHER = 4
    """Another object."""
    SMOOTH = 5
    """A smoothly varying field."""


SHARES = (0.15, 0.2, 0.3, 0.2, 0.1, 0.05)
"""Of each kind, in that order."""


def absorbing_maps(maps: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw what absorbs beside thickness maps.

    Args:
        maps: (n, H, W) phase over its largest value, in [0, 1].
        generator: of all randomness, on the maps' device.

    Returns:
        (n, H, W) absorption over its largest value, in [0, 1], all 0 for NOTHING, and (n,) `Absorbing`.
    """
    n, shape = len(maps), (maps.shape[1], maps.shape[2])
    share = torch.tensor(SHARES, device=maps.device)
    kind = torch.multinomial(share, n, replacement=True, generator=generator) if n else share[:0].long()
    absorbing = torch.where(each(kind == Absorbing.TIED), maps, 0.0)
    for which, draw in ((Absorbing.MATERIALS, _materials), (Absorbing.LEVELS, _levels)):
        rows = (kind == which).nonzero()[:, 0]
        if len(rows):
            absorbing[rows] = draw(maps[rows], generator)
    for other, fill in ((Absorbing.OTHER, _other), (Absorbing.SMOOTH, _smooth)):
        rows = (kind == other).nonzero()[:, 0]
        if len(rows):
            absorbing[rows] = fill(len(rows), shape, generator)
    return to_peak_one(absorbing), kind


def _materials(maps: Tensor, generator: Generator) -> Tensor:
    """(n, H, W) absorption of two materials, of which one is where the first is thick, or an object."""
    n = len(maps)
    thick = torch.sigmoid((maps - each(uniform(generator, (n,), 0.2, 0.8))) / _EDGE)
    share = torch.where(
        each(chance(generator, (n,), 0.5)), thick, _other(n, (maps.shape[1], maps.shape[2]), generator)
    )
    share = torch.where(each(chance(generator, (n,), 0.5)), share, 1 - share)
    one = torch.ones(n, device=maps.device)
    return two_materials(maps, share, one, log_uniform(generator, (n,), _LEAST_RATIO, 1.0), one)[1]


def _levels(maps: Tensor, generator: Generator) -> Tensor:
    """(n, H, W) a broken line of the thickness that begins at 0."""
    nodes = uniform(generator, (len(maps), _LEVELS))
    nodes[:, 0] = 0
    place = maps * (_LEVELS - 1)
    below = place.floor().clamp(0, _LEVELS - 2)
    low, high = (torch.gather(nodes, 1, (below.long() + step).flatten(1)).view_as(maps) for step in (0, 1))
    return low + (high - low) * (place - below)


def _other(n: int, shape: Shape, generator: Generator) -> Tensor:
    return random_objects(n, shape, generator=generator).maps


def _smooth(n: int, shape: Shape, generator: Generator) -> Tensor:
    return torch.special.ndtr(gaussian_field(power_laws(n, generator, 3.0, 5.0), shape, generator))
