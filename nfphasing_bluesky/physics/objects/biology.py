"""Cells with membrane, nucleus and granules, and vesicles, as seen in projection."""

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
from nfphasing_bluesky.physics.objects.outlines import Rounded
from nfphasing_bluesky.physics.objects.particles import Places, render_balls, scatter
from nfphasing_bluesky.physics.objects.stamps import ball_chord, paint

_MOST_GRANULES = 40


def vesicles(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Liposomes: thin shells of one radius or many, some with a second shell or a filling."""
    places = scatter(n, shape, generator, smallest=3, largest=min(shape) / 3)
    wall = (log_uniform(generator, (n,), 1, 3)[places.owner]).minimum(0.4 * places.radius)
    maps = render_balls(places, n, shape, 1 - wall / places.radius)
    inner = places.radius * uniform(generator, (len(wall),), 0.4, 0.85)
    twice = (chance(generator, (len(wall),), 0.5) & chance(generator, (n,), 0.4)[places.owner]) & (inner > 3)
    some = twice.nonzero()[:, 0]
    nested = Places(places.owner[some], places.centre[some], inner[some])
    maps += render_balls(nested, n, shape, (1 - wall[some] / inner[some]).clamp(min=0.3))
    cargo = uniform(generator, (n,), -0.5, 0.25).clamp(min=0)
    if bool((cargo > 0).any()):
        maps += each(cargo) * render_balls(places, n, shape, torch.zeros_like(places.radius))
    return to_peak_one(maps)


def cells(n: int, shape: Shape, generator: Generator) -> Tensor:
    """One to six cells: a domed body with a rim, a nucleus with nucleoli, granules in the cytoplasm."""
    size = min(shape)
    device = generator.device
    count = integers(generator, (n,), -2, 6).clamp(min=1)
    owner = torch.repeat_interleave(torch.arange(n, device=device), count)
    C = len(owner)
    radius = (uniform(generator, (C,), 0.14, 0.4) * size / count[owner] ** 0.35).clamp(min=4)
    reach = torch.where(count[owner] == 1, 0.08, 0.4)[:, None]
    middle = torch.tensor([(s - 1) / 2 for s in shape], device=device)
    centre = middle + uniform(generator, (C, 2), -1, 1) * reach * size
    stretch = log_uniform(generator, (n,), 0.8, 2.2).clamp(min=1)[owner]
    body = Rounded(generator, radius, stretch, uniform(generator, (n,), 0, 1)[owner])
    maps = torch.zeros(n, *shape, device=device)
    thick = uniform(generator, (C,), 0.6, 1)
    flat = uniform(generator, (n,), 0.3, 1.2)[owner]
    rim = (uniform(generator, (n,), 0, 0.5) * chance(generator, (n,), 0.7))[owner]

    def cytoplasm(rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        outline, r = body(rows, dy, dx)
        inside = (0.5 + outline - r).clamp(0, 1)
        dome = (1 - (r / outline).clamp(max=0.99).square()) ** each(flat[rows])
        edge = (1.5 - (outline - 1.5 - r).abs() / 1.2).clamp(0, 1)
        return each(thick[rows]) * inside * (0.35 + 0.65 * dome + each(rim[rows]) * edge)

    paint(maps, owner, centre, body.reach + 1, cytoplasm, "sum")
    nucleus = uniform(generator, (C,), 0.3, 0.55) * radius / stretch.sqrt()
    at = centre + 0.2 * nucleus[:, None] * normal(generator, (C, 2))
    dense = (uniform(generator, (n,), 0.2, 0.9) * chance(generator, (n,), 0.8))[owner]
    _add_balls(maps, Places(owner, at, nucleus), dense)
    small = 0.25 * nucleus
    spot = at + 0.35 * nucleus[:, None] * normal(generator, (C, 2)).clamp(-1.2, 1.2)
    _add_balls(maps, Places(owner, spot, small.clamp(min=1)), 0.7 * dense)
    _add_granules(maps, Places(owner, centre, radius / stretch.sqrt()), generator)
    return to_peak_one(maps)


def _add_balls(maps: Tensor, places: Places, level: Tensor) -> None:
    def chord(rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        radius = each(places.radius[rows])
        return each(level[rows]) * ball_chord(dy, dx, radius) / (2 * radius)

    paint(maps, places.owner, places.centre, places.radius + 1, chord, "sum")


def _add_granules(maps: Tensor, bodies: Places, generator: Generator) -> None:
    """Up to forty small dense balls a cell, in some objects."""
    n, C = len(maps), len(bodies.owner)
    most = log_uniform(generator, (n,), 1, _MOST_GRANULES) * chance(generator, (n,), 0.6)
    held = torch.arange(_MOST_GRANULES, device=maps.device) < most[bodies.owner, None]
    cell, _ = held.nonzero(as_tuple=True)
    direction = angles(generator, (len(cell),))
    r = bodies.radius[cell] * uniform(generator, (len(cell),), 0.1, 0.8).sqrt() * 0.9
    centre = bodies.centre[cell] + r[:, None] * torch.stack([direction.sin(), direction.cos()], 1)
    radius = log_uniform(generator, (C,), 0.03, 0.1)[cell] * bodies.radius[cell]
    radius = (radius * torch.exp(0.3 * normal(generator, (len(cell),)))).clamp(min=1)
    level = uniform(generator, (C,), 0.15, 0.7)[cell]
    _add_balls(maps, Places(bodies.owner[cell], centre, radius), level)
