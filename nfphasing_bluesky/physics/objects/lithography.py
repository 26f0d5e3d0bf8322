"""Written patterns: gratings and zone plates.

Signed distances to the edges, negative inside the metal, so that edges are a pixel wide at any angle.
"""

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
    turned_grid,
    uniform,
)
from nfphasing_bluesky.physics.objects.stamps import coverage

THINNEST = 1.5


class Grating(NamedTuple):
    """n gratings, (n,) each, lengths in px."""

    angle: Tensor
    """Direction across the lines, rad."""
    period: Tensor
    """At the frame's centre."""
    duty: Tensor
    """Width of a line over the period."""
    phase: Tensor
    """Shift in periods."""
    chirp: Tensor
    """Relative change of the frequency over the frame's shorter side."""
    cross_period: Tensor
    """Of the second set of lines, at right angles."""
    pattern: Tensor
    """0 lines, 1 pillars, 2 a mesh, 3 a chequerboard."""


def draw_gratings(n: int, shape: Shape, generator: Generator) -> Grating:
    """Periods from 4 px to half the frame, lines and spaces of 1.5 px or more; half of them chirped."""
    size = min(shape)
    chirp = uniform(generator, (n,), -0.8, 0.8) * chance(generator, (n,), 0.5)
    # the finest period of a chirped grating is the one that must not fall below 4 px
    period = log_uniform(generator, (n,), 4, size / 2) * (1 + 0.7 * chirp.abs())
    cross = torch.where(chance(generator, (n,), 0.5), period, log_uniform(generator, (n,), 4, size / 2))
    thinnest = THINNEST * (1 + 0.7 * chirp.abs()) / torch.minimum(period, cross)
    duty = torch.lerp(thinnest, 1 - thinnest, uniform(generator, (n,), 0.1, 0.9))
    pattern = (integers(generator, (n,), -2, 3)).clamp(min=0)
    angle, phase = angles(generator, (n,)), uniform(generator, (n,))
    return Grating(angle, period, duty, phase, chirp, cross, pattern)


def grating_distance(grating: Grating, shape: Shape) -> Tensor:
    """Signed distance (n, H, W) to the nearest line edge, px."""
    u, v = turned_grid(shape, grating.angle)
    chirp = each(grating.chirp) / min(shape)
    phase = u * (1 + chirp * u / 2) / each(grating.period)
    pitch = each(grating.period) / (1 + chirp * u).clamp(min=0.1)
    line = stripe(phase + each(grating.phase), grating.duty, pitch)
    if not bool((grating.pattern > 0).any()):
        return line
    cross = stripe(v / each(grating.cross_period), grating.duty, each(grating.cross_period))
    pillars, mesh = torch.maximum(line, cross), torch.minimum(line, cross)
    chequers = torch.maximum(mesh, -pillars)
    pattern = each(grating.pattern)
    distance = torch.where(pattern == 0, line, torch.where(pattern == 1, pillars, mesh))
    return torch.where(pattern == 3, chequers, distance)


def gratings(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Gratings, pillars, meshes and chequerboards; in 40 % of the objects a rectangular field of them."""
    grating = draw_gratings(n, shape, generator)
    distance = grating_distance(grating, shape)
    size = min(shape)
    inside = uniform(generator, (n, 2), -0.2, 0.2) * size
    u, v = turned_grid(shape, grating.angle, inside)
    half = uniform(generator, (n, 2), 0.12, 0.35) * size
    half = torch.where(chance(generator, (n, 1), 0.4), half, 10 * size)
    field = torch.maximum(u.abs() - each(half[:, 0]), v.abs() - each(half[:, 1]))
    return coverage(torch.maximum(distance, field))


class Rings(NamedTuple):
    """n concentric patterns, lengths in px."""

    centre: Tensor
    """(n, 2) row and column from the frame's centre."""
    outer: Tensor
    """(n,) radius."""
    finest: Tensor
    """(n,) period at the outer radius."""
    power: Tensor
    """(n,) 2 for a Fresnel zone plate, 1 for rings of equal period."""
    stop: Tensor
    """(n,) radius of the central stop."""


def draw_rings(n: int, shape: Shape, generator: Generator) -> Rings:
    """Zone plates and ring gratings, whole or a part of a large one; the finest period 4 px to a seventh."""
    size = min(shape)
    large = chance(generator, (n,), 0.4)
    outer = size * torch.where(large, uniform(generator, (n,), 0.7, 2), uniform(generator, (n,), 0.2, 0.5))
    place = torch.where(large, 0.9 * outer, 0.15 * size)
    angle = angles(generator, (n,))
    centre = place[:, None] * uniform(generator, (n, 1)) * torch.stack([angle.sin(), angle.cos()], 1)
    finest = log_uniform(generator, (n,), 4, size / 7)
    power = torch.where(chance(generator, (n,), 0.75), 2.0, 1.0)
    stop = (outer * uniform(generator, (n,), 0, 0.4)).clamp(min=THINNEST) * chance(generator, (n,), 0.4)
    return Rings(centre, outer, finest, power, stop)


def zone_plates(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Fresnel zone plates and ring gratings."""
    rings = draw_rings(n, shape, generator)
    rows, columns = centred_grid(shape, rings.outer)
    dy, dx = rows - each(rings.centre[:, 0]), columns - each(rings.centre[:, 1])
    r = (dy.square() + dx.square()).sqrt().clamp(min=1)
    # (r / outer)^power over the zones has the slope 1 / finest at the outer radius, where a line ends
    zones = (2 * rings.outer / (rings.power * rings.finest)).round() / 2
    shift = 0.75 - zones
    phase = each(zones) * (r / each(rings.outer)) ** each(rings.power)
    pitch = r / (each(rings.power) * phase)
    distance = stripe(phase + each(shift), torch.full_like(rings.outer, 0.5), pitch)
    # the stop ends in the middle of a space
    space = (zones * (rings.stop / rings.outer) ** rings.power + shift).round() - shift
    stop = rings.outer * (space.clamp(min=0) / zones) ** (1 / rings.power)
    stopped = torch.minimum(distance, torch.where(each(rings.stop) > 0, r - each(stop), 1.0))
    return coverage(torch.maximum(stopped, r - each(rings.outer)))


def stripe(phase: Tensor, duty: Tensor, pitch: Tensor) -> Tensor:
    """Signed distance to the edges of lines, one in each unit of the phase."""
    return ((phase - phase.floor() - 0.5).abs() - each(duty) / 2) * pitch
