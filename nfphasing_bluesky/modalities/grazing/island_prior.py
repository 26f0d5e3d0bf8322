"""Prior of nanoparticles of several shapes on a surface, or in a film, for whole frames in grazing incidence.

As in `particle_prior`, whose quantities these are, coordinates are places between bounds, 0 to 1, uniform.
The classes are shapes: spheroids, truncated spheres, cylinders and cones that stand on a bare substrate, and
spheroids in a film that lies, perhaps on another one, on a substrate. They sit in a coupled radial
paracrystal, which is dilute where its disorder is as large as the distance.

Dimension letters: N samples, S sizes, Z depths.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nfphasing_bluesky.core import Parameter
from nfphasing_bluesky.modalities.draws import ClassSpec
from nfphasing_bluesky.modalities.grazing.particle_prior import BURIED as BURIED_SPHEROIDS
from nfphasing_bluesky.modalities.grazing.particle_prior import PARAMETERS as PARAMETERS_OF_CUTS
from nfphasing_bluesky.modalities.grazing.particle_prior import (
    SUPPORTED,
    Quantity,
    filled,
    order_of,
    reported,
    share_of_area,
    sizes_of,
    surroundings,
    unit_class,
    values_at,
)
from nfphasing_bluesky.physics.grazing.dwba_grid import Population
from nfphasing_bluesky.physics.grazing.form_factors import Bodies, Shape
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
from nfphasing_bluesky.physics.reflectivity import Stack

SIDE = Quantity("side_degree", 35.0, 80.0)
"""Angle between the side of a cone and its base."""


def _with_aspect(lower: float, upper: float) -> tuple[Quantity, ...]:
    return tuple(replace(q, lower=lower, upper=upper) if q.name == "aspect" else q for q in SUPPORTED)


QUANTITIES = (
    SUPPORTED,
    _with_aspect(0.15, 0.98),
    _with_aspect(0.1, 1.5),
    (*_with_aspect(0.3, 0.98), SIDE),
    BURIED_SPHEROIDS,
)
"""Aspect: height over diameter; of cones over that at which their sides meet."""
SHAPES = (Shape.SPHEROID, Shape.TRUNCATED_SPHERE, Shape.CYLINDER, Shape.CONE, Shape.SPHEROID)
NAMES = ("spheroids", "truncated_spheres", "cylinders", "cones", "buried_spheroids")
CLASSES: tuple[ClassSpec, ...] = tuple(unit_class(n, q) for n, q in zip(NAMES, QUANTITIES, strict=True))
PARAMETERS = (
    *PARAMETERS_OF_CUTS[:2],
    Parameter("side_degree", "degree", "side angle"),
    *PARAMETERS_OF_CUTS[2:],
)


@dataclass(frozen=True)
class IslandSample:
    """N samples of one class.

    Args:
        stack: that the particles are on or in.
        layer: of the stack that holds them: 0 for those on the surface.
        particles: of all sizes.
        order: their places in the plane.
        offset_rad: (N,) true less nominal incidence angle.
        values: name -> (N,) parameters as they are reported, but for what is linear.
    """

    stack: Stack
    layer: int
    particles: Population
    order: Paracrystal
    offset_rad: Tensor
    values: dict[str, Tensor]


def sample_of(theta: Tensor, kind: int, sizes: int) -> IslandSample:
    """Samples of theta (N, D) in 0..1; differentiable."""
    v = values_at(theta, QUANTITIES[kind])
    if SHAPES[kind] is Shape.CONE:
        # height over that of a full cone becomes height over diameter
        v["aspect"] = 0.5 * v["aspect"] * torch.deg2rad(v["side_degree"]).tan()
    stack, layer, room = surroundings(v)
    radius, tall, share = sizes_of(v, sizes, room)
    side = torch.deg2rad(v["side_degree"])[:, None].expand_as(radius) if "side_degree" in v else None
    base = torch.zeros_like(tall)
    if room is not None:
        base = tall + v["depth"][:, None] * (room[:, None] - tall)
    order = order_of(v)
    offset = torch.deg2rad(v["incidence_offset_degree"])
    values = reported(v, stack, order)
    if side is not None:
        values["side_degree"] = v["side_degree"]
    bodies = Bodies(SHAPES[kind], radius, tall, side)
    return IslandSample(stack, layer, Population(bodies, share, base), order, offset, values)


def profile(sample: IslandSample, particle_density: Tensor, z_angstrom: Tensor) -> Tensor:
    """(N, Z) electron density, averaged over the area, at depth z (Z,) below the surface, e/angstrom^3."""
    bodies, share, base = sample.particles
    fraction = (base[:, :, None] - z_angstrom) / bodies.height[:, :, None]
    inside = (fraction >= 0) & (fraction <= 1)
    radius = bodies.disc_radius(fraction.clamp(0.0, 1.0))
    area = math.pi * torch.where(inside, radius.square() * share[:, :, None], 0.0).sum(1)
    return filled(sample.stack, sample.layer, share_of_area(sample.order, area), particle_density, z_angstrom)
