"""The mixture of all kinds: what a network sees while it learns."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.physics.objects.aggregates import aggregates
from nfphasing_bluesky.physics.objects.biology import cells, vesicles
from nfphasing_bluesky.physics.objects.blobs import membranes, porous
from nfphasing_bluesky.physics.objects.cells import grain_boundaries, grains
from nfphasing_bluesky.physics.objects.draws import Shape, to_peak_one, uniform
from nfphasing_bluesky.physics.objects.fibres import fibres
from nfphasing_bluesky.physics.objects.fields import log_normal_fields, smooth_fields, terraces
from nfphasing_bluesky.physics.objects.finish import finish
from nfphasing_bluesky.physics.objects.layers import circuits, strata
from nfphasing_bluesky.physics.objects.leaves import dead_leaves
from nfphasing_bluesky.physics.objects.lithography import gratings, zone_plates
from nfphasing_bluesky.physics.objects.particles import balls, crystallites
from nfphasing_bluesky.physics.objects.stars import siemens_stars
from nfphasing_bluesky.physics.objects.writing import letters

_SMALLEST_SIDE = 16
_CHUNK_PIXELS = 2**18


class Kind(NamedTuple):
    """One kind of object."""

    draw: Callable[[int, Shape, Generator], Tensor]
    """(n, shape, generator) -> maps (n, H, W) in [0, 1], float32, on the generator's device."""
    share: float
    """Of the mixture."""
    isolated: float
    """Share that is cut to a window with empty surroundings."""
    inverted: float
    """Share in which thick and thin change places."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "smooth fields": Kind(smooth_fields, 0.06, 0.5, 0.0),
        "log-normal fields": Kind(log_normal_fields, 0.03, 0.4, 0.0),
        "terraces": Kind(terraces, 0.04, 0.3, 0.0),
        "dead leaves": Kind(dead_leaves, 0.10, 0.4, 0.0),
        "grains": Kind(grains, 0.06, 0.5, 0.0),
        "grain boundaries": Kind(grain_boundaries, 0.04, 0.4, 0.2),
        "balls": Kind(balls, 0.07, 0.0, 0.1),
        "crystallites": Kind(crystallites, 0.07, 0.0, 0.1),
        "aggregates": Kind(aggregates, 0.05, 0.0, 0.0),
        "fibres": Kind(fibres, 0.06, 0.1, 0.0),
        "gratings": Kind(gratings, 0.04, 0.2, 0.2),
        "zone plates": Kind(zone_plates, 0.03, 0.0, 0.2),
        "Siemens stars": Kind(siemens_stars, 0.05, 0.0, 0.3),
        "letters": Kind(letters, 0.04, 0.0, 0.2),
        "circuits": Kind(circuits, 0.04, 0.3, 0.2),
        "strata": Kind(strata, 0.03, 0.2, 0.0),
        "porous": Kind(porous, 0.05, 0.5, 0.0),
        "membranes": Kind(membranes, 0.04, 0.4, 0.1),
        "vesicles": Kind(vesicles, 0.04, 0.0, 0.0),
        "cells": Kind(cells, 0.06, 0.0, 0.0),
    }
)
"""Name -> kind; the order is that of the kind indices."""


class RandomObjects(NamedTuple):
    """n objects and what was drawn for each."""

    maps: Tensor
    """(n, H, W) thickness over the largest one, in [0, 1]."""
    kind: Tensor
    """(n,) index into KINDS."""
    isolated: Tensor
    """(n,) True where the frame's border was kept free by a window."""
    blur_px: Tensor
    """(n,) standard deviation of the extra blur."""


def random_objects(
    n: int,
    shape: Shape = (64, 64),
    *,
    generator: Generator,
    kinds: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    isolated: float | None = None,
) -> RandomObjects:
    """Draw objects from the mixture, on the generator's device.

    Args:
        n: how many.
        shape: (H, W), 16 px or more each.
        generator: all randomness comes from it: same seed, same objects (on a GPU up to
            the rounding of sums).
        kinds: names out of KINDS; their shares are scaled to sum to 1. All by default.
        dtype: of the maps; the drawing itself is in float32.
        isolated: share of objects, of whatever kind, cut to a window with empty surroundings; by default what
            each kind declares.

    Raises:
        SettingsError: an unknown kind, or a frame that is too small.
    """
    if min(shape) < _SMALLEST_SIDE or n < 0:
        raise SettingsError(
            f"{n} objects of {shape} px: pass n >= 0 and sides of {_SMALLEST_SIDE} px or more"
        )
    chosen = _chosen(kinds)
    device, names = generator.device, list(KINDS)
    share = torch.tensor([KINDS[name].share if name in chosen else 0.0 for name in names], device=device)
    kind = torch.multinomial(share, n, replacement=True, generator=generator) if n else share[:0].long()
    maps = torch.empty(n, *shape, device=device)
    step = max(1, _CHUNK_PIXELS // (shape[0] * shape[1]))
    for i, name in enumerate(names):
        for rows in (kind == i).nonzero()[:, 0].split(step):
            if len(rows):
                maps[rows] = KINDS[name].draw(len(rows), shape, generator)
    table = torch.tensor([KINDS[name][2:] for name in names], device=device)[kind]
    alone = uniform(generator, (n,)) < (table[:, 0] if isolated is None else isolated)
    inverted = uniform(generator, (n,)) < table[:, 1]
    brim = (uniform(generator, (n,)) < 0.1) & (table[:, 0] > 0) & ~alone
    blur_px = torch.zeros(n, device=device)
    for rows in torch.arange(n, device=device).split(step):
        maps[rows], blur_px[rows] = finish(
            maps[rows], generator, isolated=alone[rows], inverted=inverted[rows], brim=brim[rows]
        )
    return RandomObjects(to_peak_one(maps).to(dtype), kind, alone, blur_px)


def _chosen(kinds: Sequence[str] | None) -> set[str]:
    unknown = sorted(set(kinds or ()) - set(KINDS))
    if unknown or (kinds is not None and not kinds):
        raise SettingsError(f"kinds {unknown or 'is empty'}; known ones are {', '.join(KINDS)}")
    return set(KINDS if kinds is None else kinds)
