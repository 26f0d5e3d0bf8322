"""Wiring of integrated circuits, and stacks of layers seen from the side."""

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
    normal,
    to_peak_one,
    turned_grid,
    uniform,
)
from nfphasing_bluesky.physics.objects.fields import Spectrum, gaussian_field, slope
from nfphasing_bluesky.physics.objects.stamps import coverage

_METALS = 3
_MOST_INTERFACES = 24


def circuits(n: int, shape: Shape, generator: Generator) -> Tensor:
    """One to three metal layers of wires, jogs and pads on square lattices, added up."""
    count = integers(generator, (n, 1), 1, _METALS)
    owner = (torch.arange(_METALS, device=generator.device) < count).nonzero()[:, 0]
    M = len(owner)
    quarter = torch.pi / 2 * integers(generator, (M,), 0, 1)
    turn = uniform(generator, (n,), -torch.pi / 4, torch.pi / 4) * chance(generator, (n,), 0.6)
    pitch = log_uniform(generator, (M,), 5, min(shape) / 3)
    wires = _wires(turn[owner] + quarter, pitch, shape, generator)
    level = uniform(generator, (M,), 0.3, 1)
    return to_peak_one(wires.new_zeros(n, *shape).index_add_(0, owner, each(level) * wires))


def _wires(angle: Tensor, pitch: Tensor, shape: Shape, generator: Generator) -> Tensor:
    """Coverage (M, H, W) of wires on lattices: runs along the tracks, jogs across them, pads at nodes."""
    M = len(angle)
    G = math.ceil(math.hypot(*shape) / float(pitch.min())) + 4
    along, across = turned_grid(shape, angle)
    shift = uniform(generator, (M, 2))
    u = along / each(pitch) + each(shift[:, 0]) + G / 2
    v = across / each(pitch) + each(shift[:, 1]) + G / 2
    # a run that has begun goes on for a few nodes: the threshold of a short moving average
    noise = torch.nn.functional.avg_pool1d(uniform(generator, (M, G, G + 5)), 5, 1)[..., :G]
    dense = uniform(generator, (M, 1, 1), 0.42, 0.62)
    run = noise < dense
    jog = chance(generator, (M, G, G), 0.12) & (uniform(generator, (M, 1, 1)) < 0.7)
    pad = chance(generator, (M, G, G), 0.08) & (uniform(generator, (M, 1, 1)) < 0.7)
    i, j = v.round().long().clamp(1, G - 1), u.round().long().clamp(1, G - 1)
    node = i * G + j
    du, dv = (u - j) * each(pitch), (v - i) * each(pitch)
    half = (pitch * uniform(generator, (M,), 0.18, 0.32)).clamp(min=0.8)
    code = run * 1 + run.roll(1, 2) * 2 + jog * 4 + jog.roll(1, 1) * 8 + pad * 16
    bits = code.flatten(1).gather(1, node.flatten(1)).view(node.shape)
    wide, tall = du.abs(), dv.abs()
    node_box = torch.maximum(wide, tall) - each(half)
    distance = torch.full_like(du, 1.0)
    for bit, ahead, aside in ((1, du, tall), (2, -du, tall), (4, dv, wide), (8, -dv, wide)):
        arm = torch.where(ahead >= 0, aside - each(half), node_box)
        distance = torch.where((bits & bit) > 0, torch.minimum(distance, arm), distance)
    big = torch.maximum(wide, tall) - each(1.6 * half).minimum(each(0.42 * pitch))
    distance = torch.where((bits & 16) > 0, torch.minimum(distance, big), distance)
    return coverage(distance)


class Stack(NamedTuple):
    """n stacks of layers, lengths in px."""

    angle: Tensor
    """(n,) direction across the layers, rad."""
    edge: Tensor
    """(n, J) places of the interfaces, ascending, from the frame's centre."""
    level: Tensor
    """(n, J + 1) thickness (along the beam) before, between and behind them; 0 outside."""
    height: Tensor
    """(n,) standard deviation of the waves that all interfaces of a stack share."""


def draw_stacks(n: int, shape: Shape, generator: Generator) -> Stack:
    """Stacks of 2 to 23 layers, four tenths to one and a half times as thick as the frame."""
    J, size, device = _MOST_INTERFACES, min(shape), generator.device
    order = torch.arange(J + 1, device=device)
    count = log_uniform(generator, (n, 1), 3, J).round()
    thickness = torch.exp(uniform(generator, (n, 1)) * normal(generator, (n, J)))
    periodic = chance(generator, (n, 1), 0.4)
    pair = uniform(generator, (n, 1), 0.3, 1.7)
    thickness = torch.where(periodic, torch.where(order[:J] % 2 > 0, pair, 2 - pair), thickness)
    # what comes before the first interface is no layer
    thickness = thickness * (order[:J] < count) * (order[:J] > 0)
    total = log_uniform(generator, (n, 1), 0.4 * size, 1.5 * size)
    edge = (thickness / thickness.sum(1, keepdim=True)).cumsum(1) * total
    edge = edge - total / 2 + uniform(generator, (n, 1), -0.2, 0.2) * size
    level = torch.where(periodic, (order % 2).float(), uniform(generator, (n, J + 1)))
    level = level * ((order > 0) & (order < count))
    height = uniform(generator, (n,), 0, 0.08) * size * chance(generator, (n,), 0.6)
    return Stack(angles(generator, (n,)), edge, level, height)


def render_stacks(stack: Stack, shape: Shape, generator: Generator) -> Tensor:
    """Maps (n, H, W) of stacks, with waves drawn for them."""
    n = len(stack.angle)
    u, _ = turned_grid(shape, stack.angle)
    ones = torch.ones_like(stack.angle)
    along = stack.angle + torch.pi / 2
    waves = Spectrum(uniform(generator, (n,), 3.5, 5), 0 * ones, 3 * ones, along)
    u = u + each(stack.height) * gaussian_field(waves, shape, generator)
    pitch = slope(u).clamp(min=0.5)
    step = stack.level.diff(dim=1)
    maps = torch.zeros_like(u)
    for j in range(int((step != 0).sum(0).nonzero().max()) + 1):
        maps += each(step[:, j]) * (0.5 + (u - each(stack.edge[:, j])) / pitch).clamp(0, 1)
    return maps.clamp(min=0)


def strata(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Stacks of layers, flat or wavy, periodic or not, cut across."""
    return to_peak_one(render_stacks(draw_stacks(n, shape, generator), shape, generator))
