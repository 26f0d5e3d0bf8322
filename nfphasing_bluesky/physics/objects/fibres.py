"""Fibres: rods, wires and filaments, straight or curling, alone, in bundles or in mats."""

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
    uniform,
)
from nfphasing_bluesky.physics.objects.stamps import coverage, paint, rod_chord, segment_distance

_LAYERS = 3
"""Fibres of different layers add up where they cross; within a layer the thicker one counts."""


class Segments(NamedTuple):
    """M straight pieces of fibres in n objects, lengths in px."""

    owner: Tensor
    """(M,) object and layer: object times the number of layers, plus layer."""
    centre: Tensor
    """(M, 2) row and column."""
    along: Tensor
    """(M, 2) unit direction (row, column)."""
    half_length: Tensor
    """(M,) px."""
    radius: Tensor
    """(M,) px."""


def draw_fibres(n: int, shape: Shape, generator: Generator) -> Segments:
    """One to forty fibres of radii from 0.75 px to a twelfth of the frame; headings drift as they run."""
    size, diagonal = min(shape), (shape[0] ** 2 + shape[1] ** 2) ** 0.5
    device = generator.device
    radius = log_uniform(generator, (n,), 0.75, size / 12)
    most = (0.6 * size / radius).clamp(max=40)
    count = torch.exp(uniform(generator, (n,)) * most.log()).round().long()
    owner = torch.repeat_interleave(torch.arange(n, device=device), count)
    F = len(owner)
    step = (2 * radius).clamp(min=min(size / 24, 5.0))[owner]
    length = log_uniform(generator, (n,), 0.3 * size, 1.5 * diagonal)[owner]
    length = torch.where(chance(generator, (n,), 0.4)[owner], 1.5 * diagonal, length)
    steps = int((length / step).ceil().max())
    # curvature follows a random walk pulled back to zero; in four objects of ten fibres are straight
    bend = (log_uniform(generator, (n,), 0.3, 8) / size).minimum(0.2 / radius)
    bend = (bend * chance(generator, (n,), 0.6))[owner]
    kick = normal(generator, (F, steps))
    drift = torch.nn.functional.conv1d(
        torch.nn.functional.pad(kick[:, None], (4, 4)), torch.full((1, 1, 9), 1 / 3, device=device)
    )[:, 0]
    common = angles(generator, (n,))[owner]
    tidy = chance(generator, (n,), 0.35)[owner]
    heading = torch.where(tidy, common + 0.15 * normal(generator, (F,)), angles(generator, (F,)))
    turn = (bend * step)[:, None] * drift
    # the middle of a fibre has the drawn heading and the drawn place
    heading = heading[:, None] + turn.cumsum(1) - turn.cumsum(1)[:, steps // 2, None]
    along = torch.stack([heading.sin(), heading.cos()], -1)
    path = (along * step[:, None, None]).cumsum(1)
    used = (torch.arange(steps, device=device) - steps // 2).abs() <= (length / step / 2)[:, None]
    frame = torch.tensor(shape, device=device)
    place = (uniform(generator, (F, 2), -0.6, 0.6) * uniform(generator, (n, 1), 0.1, 1)[owner] + 0.5) * frame
    centre = path - path[:, steps // 2, None] + place[:, None]
    slim = torch.exp(0.25 * normal(generator, (F,)))
    thick = (radius[owner] * torch.where(chance(generator, (n,), 0.5)[owner], slim, 1.0)).clamp(min=0.75)
    layer = owner * _LAYERS + integers(generator, (F,), 0, _LAYERS - 1)
    row, column = used.nonzero(as_tuple=True)
    return Segments(layer[row], centre[row, column], along[row, column], 0.5 * step[row] * 1.02, thick[row])


def render_fibres(segments: Segments, n: int, shape: Shape, flat: Tensor) -> Tensor:
    """Projected thickness (n, H, W) over the largest radius, of tapes where `flat` (n,), else round rods."""
    layers = segments.radius.new_zeros(n * _LAYERS, *shape)
    tape = flat[segments.owner // _LAYERS]

    def thickness(rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        distance = segment_distance(dy, dx, segments.along[rows], segments.half_length[rows])
        radius = each(segments.radius[rows])
        strip = coverage(distance - radius) * 2 * radius
        return torch.where(each(tape[rows]), strip, rod_chord(distance, radius))

    reach = segments.along.abs().amax(1) * segments.half_length + segments.radius + 1
    paint(layers, segments.owner, segments.centre, reach, thickness, "amax")
    return layers.view(n, _LAYERS, *shape).sum(1)


def fibres(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Round or flat fibres."""
    segments = draw_fibres(n, shape, generator)
    return to_peak_one(render_fibres(segments, n, shape, chance(generator, (n,), 0.4)))
