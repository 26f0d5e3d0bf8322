"""Dead leaves: shapes of scale-invariant sizes that hide one another.

A. B. Lee, D. Mumford and J. Huang, Int. J. Comput. Vis. 41, 35 (2001): with radii of density r^-3 the image
has statistics that are the same at all scales, as those of natural images are.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import Shape, each, integers, log_uniform, to_peak_one, uniform
from nfphasing_bluesky.physics.objects.outlines import Outlines, draw_outlines, paint_outlines

# four points a pixel, no two in one row or column: edges near the axes get five levels, not three
_POINTS = ((-0.375, -0.125), (-0.125, 0.375), (0.125, -0.375), (0.375, 0.125))


class Leaves(NamedTuple):
    """M leaves of n objects; the earlier one hides the later one."""

    owner: Tensor
    """(M,) object of each leaf."""
    centre: Tensor
    """(M, 2) row and column, px."""
    outlines: Outlines
    level: Tensor
    """(M,) thickness, in [0, 1]."""


def power_law_radii(u: Tensor, smallest: Tensor, largest: Tensor) -> Tensor:
    """Radii of density r^-3 between two bounds, from u uniform in [0, 1)."""
    return (largest**-2 + u * (smallest**-2 - largest**-2)) ** -0.5


def draw_leaves(n: int, shape: Shape, generator: Generator) -> Leaves:
    """Leaves of radii from 1 to 4 px up to half the frame, covering it 0.3 to 3 times on average."""
    largest = uniform(generator, (n,), 0.15, 0.5) * min(shape)
    smallest = torch.minimum(log_uniform(generator, (n,), 1, 4), largest / 2)
    layers = log_uniform(generator, (n,), 0.3, 3)
    leaves = scatter_leaves(smallest, largest, layers, shape, generator)
    # all levels, or a few
    steps = integers(generator, (n,), 1, 6)[leaves.owner]
    few = (leaves.level * (steps + 1)).floor() / steps
    return leaves._replace(level=torch.where(steps > 4, leaves.level, few))


def scatter_leaves(
    smallest: Tensor, largest: Tensor, layers: Tensor, shape: Shape, generator: Generator
) -> Leaves:
    """Leaves of uniform levels for n objects.

    Args:
        smallest: (n,) radius, px.
        largest: (n,) radius, px.
        layers: (n,) how often leaves cover a point, on average.
        shape: (H, W).
        generator: randomness.
    """
    n, device = len(layers), layers.device
    mean_square = 2 * smallest**2 / (1 - (smallest / largest) ** 2) * (largest / smallest).log()
    # centres lie wherever the largest leaf can touch the frame, or small ones would crowd at its edges
    extent = torch.tensor(shape, device=device) + 4 * largest[:, None]
    count = torch.poisson(layers * extent.prod(1) / (torch.pi * mean_square), generator=generator).long()
    owner = torch.repeat_interleave(torch.arange(n, device=device), count)
    M = len(owner)
    middle = torch.tensor([(s - 1) / 2 for s in shape], device=device)
    centre = middle + (uniform(generator, (M, 2)) - 0.5) * extent[owner]
    radius = power_law_radii(uniform(generator, (M,)), smallest[owner], largest[owner])
    # an object has leaves of one sort or of all
    sort = integers(generator, (n,), 0, 3)[owner]
    sort = torch.where(sort == 3, integers(generator, (M,), 0, 2), sort)
    return Leaves(owner, centre, draw_outlines(radius, sort, 3.0, generator), uniform(generator, (M,)))


def render_leaves(leaves: Leaves, n: int, shape: Shape) -> Tensor:
    """Thickness (n, H, W) of the topmost leaf, 0 where there is none: the mean of four points a pixel."""
    M = len(leaves.owner)
    order = torch.arange(M, device=leaves.owner.device)
    level = torch.cat([leaves.level, leaves.level.new_zeros(1)])
    maps = level.new_zeros(n, *shape)

    def earliest(rows: Tensor, distance: Tensor) -> Tensor:
        return torch.where(distance < 0, each(order[rows]), M)

    for point in _POINTS:
        top = torch.full((n, *shape), M, device=level.device)
        centre = leaves.centre - leaves.centre.new_tensor(point)
        maps += level[paint_outlines(top, leaves.owner, centre, leaves.outlines, earliest, "amin")]
    return maps / len(_POINTS)


def dead_leaves(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Dead leaves of discs, ellipses, polygons or all three."""
    return to_peak_one(render_leaves(draw_leaves(n, shape, generator), n, shape))
