"""Prior of nanoparticles on a surface or in a film, for scattering in grazing incidence.

The coordinates of a network are places between bounds, 0 to 1, uniform. Two classes: spheroids that stand on
a bare substrate, and spheroids in a film that lies, perhaps on another one, on a substrate. Radii are
log-normal, cut off at twice their spread, and at what the film holds.

Dimension letters: N samples, S sizes, Z depths.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import Parameter
from nfphasing_bluesky.modalities.draws import ClassSpec
from nfphasing_bluesky.modalities.layers.layer_prior import possible_roughness
from nfphasing_bluesky.physics.grazing.dwba_rays import Spheroids
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
from nfphasing_bluesky.physics.layers.depth_profile import bounded_profile
from nfphasing_bluesky.physics.reflectivity import Stack

REACH = 2.0
"""Sizes there are, in standard deviations of their logarithm."""
FULL = 0.9
"""Largest height of the median particle over the thickness of its film."""


@dataclass(frozen=True)
class Quantity:
    """One coordinate.

    Args:
        name: of the coordinate.
        lower, upper: bounds.
        log: whether its prior is uniform in the logarithm.
    """

    name: str
    lower: float
    upper: float
    log: bool = False

    def at(self, place: Tensor) -> Tensor:
        """Value at places between the bounds, 0 to 1."""
        if self.log:
            return self.lower * (math.log(self.upper / self.lower) * place).exp()
        return torch.lerp(place.new_tensor(self.lower), place.new_tensor(self.upper), place)

    def place(self, value: Tensor) -> Tensor:
        """Place between the bounds, 0 to 1, of a value or the next one within them."""
        value = value.clamp(self.lower, self.upper)
        if self.log:
            return (value / self.lower).log() / math.log(self.upper / self.lower)
        return (value - self.lower) / (self.upper - self.lower)


PARTICLES = (
    Quantity("radius", 10.0, 120.0, log=True),
    Quantity("aspect", 0.3, 1.5, log=True),
    Quantity("spread", 0.01, 0.7),
    Quantity("relative_distance", 1.05, 8.0, log=True),
    Quantity("relative_disorder", 0.05, 1.0),
    Quantity("relative_damping", 10.0, 1000.0, log=True),
    Quantity("root_coupling", 0.0, 1.0),
)
"""Radius in the plane; height over diameter; distance over diameter; disorder and damping over distance."""
MOST_COUPLING = 20.0
OFFSET = Quantity("incidence_offset_degree", -0.02, 0.02)
SUPPORTED = (
    *PARTICLES,
    Quantity("substrate_density", 0.3, 2.0, log=True),
    Quantity("substrate_absorption", 0.002, 0.1, log=True),
    Quantity("substrate_roughness", 0.0, 20.0),
    OFFSET,
)
"""Absorption is beta over delta."""
BURIED = (
    *PARTICLES,
    Quantity("film_thickness", 60.0, 800.0, log=True),
    Quantity("depth", 0.0, 1.0),
    Quantity("film_density", 0.2, 2.0, log=True),
    Quantity("film_absorption", 0.002, 0.3, log=True),
    Quantity("lower_thickness", 0.0, 600.0),
    Quantity("lower_density", 0.2, 2.0, log=True),
    Quantity("substrate_density", 0.3, 2.0, log=True),
    Quantity("lower_absorption", 0.002, 0.1, log=True),
    Quantity("surface_roughness", 0.0, 30.0),
    Quantity("interface_roughness", 0.0, 40.0),
    OFFSET,
)
"""Depth of the particles: 0 for those that touch the surface, 1 for those at the bottom of the film."""
QUANTITIES = (SUPPORTED, BURIED)
PARTICLE_DENSITY = Quantity("particle_density", 0.3, 4.7, log=True)
"""It scatters as the scale does: nothing is learnt of it, and it is drawn from its prior."""


def unit_class(name: str, quantities: tuple[Quantity, ...]) -> ClassSpec:
    """Class whose free parameters are places between the bounds of quantities."""
    free = tuple(q.name for q in quantities)
    return ClassSpec(name, free, (0.0,) * len(free), (1.0,) * len(free))


CLASSES = (unit_class("supported", SUPPORTED), unit_class("buried", BURIED))

PARAMETERS = (
    Parameter("radius_angstrom", "angstrom", "radius"),
    Parameter("height_angstrom", "angstrom", "height"),
    Parameter("spread", "", "spread of ln radius"),
    Parameter("distance_angstrom", "angstrom", "distance"),
    Parameter("disorder_angstrom", "angstrom", "disorder"),
    Parameter("damping_angstrom", "angstrom", "damping"),
    Parameter("coupling", "", "coupling"),
    Parameter("film_thickness_angstrom", "angstrom", "film"),
    Parameter("depth_angstrom", "angstrom", "depth"),
    Parameter("film_density_e_per_cubic_angstrom", "e/angstrom^3", "film density"),
    Parameter("film_absorption", "", "film beta/delta"),
    Parameter("lower_thickness_angstrom", "angstrom", "lower film"),
    Parameter("lower_density_e_per_cubic_angstrom", "e/angstrom^3", "lower density"),
    Parameter("substrate_density_e_per_cubic_angstrom", "e/angstrom^3", "substrate"),
    Parameter("substrate_absorption", "", "its beta/delta"),
    Parameter("surface_roughness_angstrom", "angstrom", "roughness"),
    Parameter("interface_roughness_angstrom", "angstrom", "roughness below"),
    Parameter("particle_density_e_per_cubic_angstrom", "e/angstrom^3", "particles"),
    Parameter("incidence_offset_degree", "degree", "angle offset"),
    Parameter("scale", "", "scale"),
    Parameter("background", "", "background"),
)
"""`docs/reference.md` says what each is; labels are short, because there are many."""


@dataclass(frozen=True)
class ParticleSample:
    """N samples of one class.

    Args:
        stack: that the particles are on or in.
        layer: of the stack that holds them: 0 for those on the surface.
        bodies: their sizes.
        order: their places in the plane.
        offset_rad: (N,) true less nominal incidence angle.
        values: name -> (N,) parameters as they are reported, but for what is linear.
    """

    stack: Stack
    layer: int
    bodies: Spheroids
    order: Paracrystal
    offset_rad: Tensor
    values: dict[str, Tensor]


def sample_of(theta: Tensor, kind: int, sizes: int) -> ParticleSample:
    """Samples of theta (N, D) in 0..1; differentiable."""
    v = values_at(theta, QUANTITIES[kind])
    stack, layer, room = surroundings(v)
    bodies = _bodies(v, sizes, room)
    order = order_of(v)
    offset = torch.deg2rad(v["incidence_offset_degree"])
    return ParticleSample(stack, layer, bodies, order, offset, reported(v, stack, order))


def values_at(theta: Tensor, quantities: tuple[Quantity, ...]) -> dict[str, Tensor]:
    """Name -> (N,) values at places theta (N, D); the median particle fits into its film, if it has one."""
    v = {q.name: q.at(theta[:, i]) for i, q in enumerate(quantities)}
    if "film_thickness" in v:
        v["radius"] = radius_at(theta[:, 0], v)
    return v


def most_radius(v: Mapping[str, Tensor]) -> Tensor:
    """(N,) largest radius of the median particle, for which its film must have room."""
    if "film_thickness" not in v:
        return torch.full_like(v["aspect"], PARTICLES[0].upper)
    return (0.5 * FULL * v["film_thickness"] / v["aspect"]).clamp_max(PARTICLES[0].upper)


def radius_at(place: Tensor, v: Mapping[str, Tensor]) -> Tensor:
    """(N,) radius at places between the bounds, 0 to 1, of particles of known aspect and film."""
    lower = PARTICLES[0].lower
    return lower * ((most_radius(v) / lower).log().clamp_min(0.05) * place).exp()


def surroundings(v: dict[str, Tensor]) -> tuple[Stack, int, Tensor | None]:
    """Stack, the layer of it that holds the particles, and that layer's thickness (N,), if it has one."""
    return (_films(v), 1, v["film_thickness"]) if "film_thickness" in v else (_bare(v), 0, None)


def order_of(v: dict[str, Tensor]) -> Paracrystal:
    """Places of the particles in the plane."""
    distance = 2 * v["radius"] * v["relative_distance"]
    disorder = distance * v["relative_disorder"]
    coupling = MOST_COUPLING * v["root_coupling"].square()
    damping = distance * v["relative_damping"]
    return Paracrystal(distance, disorder, damping, coupling=coupling)


def _bare(v: dict[str, Tensor]) -> Stack:
    density = torch.stack([torch.zeros_like(v["substrate_density"]), v["substrate_density"]], 1)
    absorption = density * v["substrate_absorption"][:, None]
    return Stack(density, absorption, density[:, :0], v["substrate_roughness"][:, None])


def _films(v: dict[str, Tensor]) -> Stack:
    media = [v["film_density"], v["lower_density"], v["substrate_density"]]
    density = torch.stack([torch.zeros_like(media[0]), *media], 1)
    ratio = torch.stack([torch.zeros_like(media[0]), v["film_absorption"]] + [v["lower_absorption"]] * 2, 1)
    thickness = torch.stack([v["film_thickness"], v["lower_thickness"]], 1)
    rough = torch.stack([v["surface_roughness"]] + [v["interface_roughness"]] * 2, 1)
    return Stack(density, density * ratio, thickness, possible_roughness(rough, thickness.clamp_min(1.0)))


@lru_cache(maxsize=8)
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Places on -1..1 and weights (S,)."""
    place, weight = np.polynomial.legendre.leggauss(count)
    return torch.as_tensor(place), torch.as_tensor(weight)


def _bodies(v: dict[str, Tensor], sizes: int, room: Tensor | None) -> Spheroids:
    radius, tall, share = sizes_of(v, sizes, room)
    middle = -0.5 * tall
    if room is not None:
        middle = 0.5 * tall + v["depth"][:, None] * (room[:, None] - tall)
    return Spheroids(radius, tall, share, middle)


def sizes_of(v: dict[str, Tensor], sizes: int, room: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Radius, height and share (N, S) of log-normal sizes, cut off at `REACH`, and where the room ends."""
    place, weight = (x.to(v["radius"]) for x in _legendre(sizes))
    reach = torch.full_like(v["radius"], REACH)
    height = 2 * v["radius"] * v["aspect"]
    if room is not None:
        fits = (0.99 * room / height).log() / v["spread"]
        reach = torch.minimum(reach, fits)
    standard = 0.5 * ((reach - REACH)[:, None] + (reach + REACH)[:, None] * place)
    share = weight * torch.exp(-0.5 * standard.square())
    factor = torch.exp(v["spread"][:, None] * standard)
    return v["radius"][:, None] * factor, height[:, None] * factor, share / share.sum(1, keepdim=True)


def reported(v: dict[str, Tensor], stack: Stack, order: Paracrystal) -> dict[str, Tensor]:
    """Name -> (N,) parameters as they are reported, but for what is linear."""
    height = 2 * v["radius"] * v["aspect"]
    out = {
        "radius_angstrom": v["radius"],
        "height_angstrom": height,
        "spread": v["spread"],
        "distance_angstrom": order.distance,
        "disorder_angstrom": order.disorder,
        "damping_angstrom": order.damping,
        "coupling": MOST_COUPLING * v["root_coupling"].square(),
        "incidence_offset_degree": v["incidence_offset_degree"],
        "substrate_density_e_per_cubic_angstrom": v["substrate_density"],
        "surface_roughness_angstrom": stack.roughness[:, 0],
    }
    if "film_thickness" not in v:
        return out | {"substrate_absorption": v["substrate_absorption"]}
    return out | {
        "film_thickness_angstrom": v["film_thickness"],
        "depth_angstrom": 0.5 * height + v["depth"] * (v["film_thickness"] - height),
        "film_density_e_per_cubic_angstrom": v["film_density"],
        "film_absorption": v["film_absorption"],
        "lower_thickness_angstrom": v["lower_thickness"],
        "lower_density_e_per_cubic_angstrom": v["lower_density"],
        "substrate_absorption": v["lower_absorption"],
        "interface_roughness_angstrom": stack.roughness[:, 2],
    }


def covered(sample: ParticleSample, z_angstrom: Tensor) -> Tensor:
    """(N, Z) share of the area that particles take at depth z (Z,) below the surface, at most 1."""
    b = sample.bodies
    place = (z_angstrom[:, None] - b.middle[:, None]) / (0.5 * b.height[:, None])
    area = math.pi * b.radius.square()[:, None] * (1 - place.square()).clamp_min(0.0)
    return share_of_area(sample.order, (b.share[:, None] * area).sum(2))


def share_of_area(order: Paracrystal, area: Tensor) -> Tensor:
    """(N, Z) share that cross sections (N, Z), angstrom^2, take of particles on a hexagonal lattice."""
    number = 2 / math.sqrt(3) / order.distance.square()
    return (number[:, None] * area).clamp_max(1.0)


def profile(sample: ParticleSample, particle_density: Tensor, z_angstrom: Tensor) -> Tensor:
    """(N, Z) electron density, averaged over the area, at depth z (Z,) below the surface, e/angstrom^3."""
    return filled(sample.stack, sample.layer, covered(sample, z_angstrom), particle_density, z_angstrom)


def filled(stack: Stack, layer: int, taken: Tensor, particle_density: Tensor, z_angstrom: Tensor) -> Tensor:
    """(N, Z) density of a stack in whose layer particles take a share (N, Z) of the area."""
    matrix = stack.density[:, layer, None]
    return bounded_profile(stack, z_angstrom) + taken * (particle_density[:, None] - matrix)
