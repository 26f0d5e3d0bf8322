"""Particles: balls, hollow balls and flat crystallites, scattered, in clusters, or packed into lattices."""

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
from nfphasing_bluesky.physics.objects.outlines import draw_outlines, paint_outlines
from nfphasing_bluesky.physics.objects.stamps import ball_chord, paint

_MOST = 1500
_SITES = 25


class Places(NamedTuple):
    """M places in n frames, lengths in px."""

    owner: Tensor
    """(M,) object of each."""
    centre: Tensor
    """(M, 2) row and column."""
    radius: Tensor
    """(M,) px."""


def scatter(n: int, shape: Shape, generator: Generator, *, smallest: float, largest: float) -> Places:
    """Places for particles that fill 5 to 80 % of the frame or of a part of it, at least one.

    A third lie anywhere in and about the frame, a third in a cloud within it, a third on a hexagonal lattice,
    filled from a point outwards. Radii are log-normal about one log-uniform between two bounds (px).
    """
    H, W = shape
    device = generator.device
    radius = log_uniform(generator, (n,), smallest, largest)
    spread = uniform(generator, (n,), 0, 0.5) * chance(generator, (n,), 0.7)
    arrangement = integers(generator, (n,), 0, 2)
    extent = torch.where(arrangement == 0, 1.0, uniform(generator, (n,), 0.35, 0.9))
    area = extent**2 * H * W
    filled = log_uniform(generator, (n,), 0.05, 0.8)
    count = (filled * area / (torch.pi * radius**2)).ceil().clamp(1, _MOST).long()
    owner = torch.repeat_interleave(torch.arange(n, device=device), count)
    M = len(owner)
    own = radius[owner]
    middle = torch.tensor([(H - 1) / 2, (W - 1) / 2], device=device)
    size = torch.tensor([H, W], device=device)
    anywhere = (uniform(generator, (M, 2)) - 0.5) * (size + 2 * own[:, None])
    cloud = 0.3 * normal(generator, (M, 2)) * (extent[owner, None] * size)
    first = torch.zeros(M, 1, dtype=torch.bool, device=device)
    first[count.cumsum(0) - count] = True
    # the first one is well inside
    anywhere, cloud = (torch.where(first, 0.5 * x, x) for x in (anywhere, cloud))
    rank = torch.arange(M, device=device) - (count.cumsum(0) - count)[owner]
    crystal = _lattice(n, generator, device)[owner, rank.clamp(max=_lattice_sites().shape[0] - 1)]
    pitch = 2 * radius * uniform(generator, (n,), 1, 1.6)
    loose = uniform(generator, (n,), 0, 0.12)
    crystal = pitch[owner, None] * (crystal + loose[owner, None] * normal(generator, (M, 2)))
    offset = uniform(generator, (n, 2), -0.25, 0.25)[owner] * size
    sort = arrangement[owner, None]
    centre = torch.where(sort == 0, anywhere, torch.where(sort == 1, cloud, crystal) + offset)
    spread = torch.where(arrangement == 2, 0.1 * spread, spread)
    sizes = own * torch.exp((spread[owner] * normal(generator, (M,))).clamp(-1, 1))
    return Places(owner, middle + centre, sizes.clamp(min=smallest))


def _lattice_sites() -> Tensor:
    """(S, 2) points of a hexagonal lattice of unit pitch, nearest first."""
    i = torch.arange(-_SITES, _SITES + 1.0)
    points = torch.stack([(i[:, None] * 0.75**0.5).expand(-1, len(i)), i + 0.5 * i[:, None]], -1).view(-1, 2)
    # within this radius none is missing
    near = points.norm(dim=1) <= _SITES * 0.75**0.5
    points = points[near]
    return points[points.norm(dim=1).argsort(stable=True)]


def _lattice(n: int, generator: Generator, device: torch.device) -> Tensor:
    """(n, S, 2) turned lattices, a site in twenty empty."""
    sites = _lattice_sites().to(device)
    turn = angles(generator, (n,))
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    y, x = sites[:, 0], sites[:, 1]
    turned = torch.stack([y * cos + x * sin, x * cos - y * sin], -1)
    # vacancies are sent away; the first site is taken
    vacant = (
        chance(generator, (n, len(sites), 1), 0.05) & (torch.arange(len(sites), device=device) > 0)[:, None]
    )
    return torch.where(vacant, 1e4, turned)


def render_balls(places: Places, n: int, shape: Shape, hollow: Tensor, overlap: bool = True) -> Tensor:
    """Projected thickness (n, H, W) in px.

    Args:
        places: centres and radii of the balls.
        n: number of objects.
        shape: (H, W).
        hollow: (M,) inner over outer radius, 0 for full balls.
        overlap: balls one behind the other add up; otherwise the thicker one counts.
    """
    maps = places.radius.new_zeros(n, *shape)
    hole = (hollow * places.radius).clamp(min=1e-3)
    some = bool((hollow > 0).any())

    def chord(rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        thick = ball_chord(dy, dx, each(places.radius[rows]))
        return thick - ball_chord(dy, dx, each(hole[rows])) if some else thick

    return paint(maps, places.owner, places.centre, places.radius + 1, chord, "sum" if overlap else "amax")


def balls(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Balls of radii from 1.5 px to a third of the frame, one object in three of hollow ones."""
    places = scatter(n, shape, generator, smallest=1.5, largest=min(shape) / 3)
    hollow = uniform(generator, (n,), 0.4, 0.95) * chance(generator, (n,), 1 / 3)
    return to_peak_one(render_balls(places, n, shape, hollow[places.owner]))


def crystallites(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Plates, cubes, rods and bevelled crystals of one or several thicknesses, radii from 1.5 px."""
    places = scatter(n, shape, generator, smallest=1.5, largest=min(shape) / 3)
    owner, M = places.owner, len(places.owner)
    sort = torch.where(chance(generator, (n,), 0.75), 2, integers(generator, (n,), 0, 1))[owner]
    outlines = draw_outlines(places.radius, sort, 3.0, generator)
    # in half of the objects all crystals are of one habit
    habit = integers(generator, (n,), 3, 6)[owner]
    same = chance(generator, (n,), 0.5)[owner]
    length = log_uniform(generator, (n,), 1, 4)[owner]
    outlines = outlines._replace(
        corners=torch.where(same & (sort == 2), habit, outlines.corners),
        aspect=torch.where(same & (sort == 2), length, outlines.aspect),
        offsets=torch.where(same[:, None], 1.0, outlines.offsets),
    )
    spread = uniform(generator, (n,), 0, 0.7) * chance(generator, (n,), 0.6)
    level = 1 - spread[owner] * uniform(generator, (M,))
    bevel = uniform(generator, (n,), -1, 1).clamp(min=0)[owner] * places.radius
    bevel = torch.where(outlines.corners > 0, bevel, 0.2 * bevel)

    def thickness(rows: Tensor, distance: Tensor) -> Tensor:
        return each(level[rows]) * ((0.5 - distance) / (1 + each(bevel[rows]))).clamp(0, 1)

    maps = paint_outlines(level.new_zeros(n, *shape), owner, places.centre, outlines, thickness, "amax")
    return to_peak_one(maps)
