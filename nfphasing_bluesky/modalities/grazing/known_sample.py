"""What is known of particles on a surface narrows their prior, with no new training.

Bounds are on parameters as they are reported. The prior is uniform in coordinates; within the bounds it stays
so, and the posterior there is that without them, cut off and normalised again.

The coordinates of a sample are found one after another, each between the ends that the bounds and the
coordinates before it leave: so every place of a unit cube is a sample within the bounds, and one outside has
a place next to it. There guesses, fits and what the network does not reach are made. Only where bounds of
parameters that depend on each other are narrow may a place lie outside of some.

Dimension letters: N samples, D coordinates, P parameters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.modalities.grazing.particle_prior import (
    FULL,
    MOST_COUPLING,
    PARTICLE_DENSITY,
    Quantity,
    most_radius,
    radius_at,
)
from nfphasing_bluesky.modalities.layers.layer_prior import ROUGH_SHARE, check_interval

DIRECT = {
    "spread": "spread",
    "film_thickness": "film_thickness_angstrom",
    "film_density": "film_density_e_per_cubic_angstrom",
    "film_absorption": "film_absorption",
    "lower_thickness": "lower_thickness_angstrom",
    "lower_density": "lower_density_e_per_cubic_angstrom",
    "lower_absorption": "substrate_absorption",
    "substrate_density": "substrate_density_e_per_cubic_angstrom",
    "substrate_absorption": "substrate_absorption",
    "substrate_roughness": "surface_roughness_angstrom",
    "incidence_offset_degree": "incidence_offset_degree",
    "side_degree": "side_degree",
}
"""Coordinates that are parameters, and what these are called."""
FIRST = ("side_degree", "film_thickness", "aspect", "radius", "relative_distance", "lower_thickness")
"""Coordinates that others depend on, in this order."""
NARROWEST = 1e-4
"""Of an interval over its middle: what is known exactly is one of that width."""
MARGIN = 0.01
"""Of each interval at both ends, where no place of the cube lies: rounding must not lead beyond it."""
LEAST_ROOM = 1e-6
TRIED = 64


@dataclass(frozen=True)
class Ends:
    """Bounds of N samples by parameter.

    Args:
        names: of P parameters.
        both: (N, 2, P) lowest and highest, infinite where nothing is known.
    """

    names: tuple[str, ...]
    both: Tensor

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """(N,) lowest and (N,) highest value of a parameter."""
        low, high = self.both[:, :, self.names.index(name)].unbind(1)
        return low, high

    def hold(self, values: Mapping[str, Tensor]) -> Tensor:
        """(N,) bool: samples whose parameters lie within; those that a class lacks say nothing."""
        good = torch.ones(len(self.both), dtype=torch.bool, device=self.both.device)
        for name, value in values.items():
            low, high = self.of(name)
            good &= (value >= low) & (value <= high)
        return good


def within(w: Tensor, quantities: Sequence[Quantity], ends: Ends) -> Tensor:
    """(N, D) coordinates within the bounds of places w (N, D) in 0..1; all of the latter are one."""

    def choose(i: int, low: Tensor, high: Tensor) -> Tensor:
        return low + (high - low) * (MARGIN + (1 - 2 * MARGIN) * w[:, i])

    return _walk(quantities, ends, choose)


def nearest(
    theta: Tensor, quantities: Sequence[Quantity], ends: Ends, beyond: Tensor | None = None
) -> Tensor:
    """(N, D) places in 0..1 of coordinates theta (N, D).

    Those of coordinates beyond their ends are next to them, or what `beyond` (N, D) says.
    """
    places = torch.zeros_like(theta)

    def choose(i: int, low: Tensor, high: Tensor) -> Tensor:
        share = (theta[:, i] - low) / (high - low)
        place = ((share - MARGIN) / (1 - 2 * MARGIN)).clamp(0.0, 1.0)
        if beyond is not None:
            place = torch.where((share < 0) | (share > 1), beyond[:, i].to(place), place)
        places[:, i] = place
        return low + (high - low) * (MARGIN + (1 - 2 * MARGIN) * places[:, i])

    _walk(quantities, ends, choose)
    return places


def _walk(
    quantities: Sequence[Quantity], ends: Ends, choose: Callable[[int, Tensor, Tensor], Tensor]
) -> Tensor:
    """(N, D) coordinates, each chosen between the lowest and the highest that are possible."""
    order = sorted(range(len(quantities)), key=lambda i: _rank(quantities[i].name))
    least = {q.name: (q.lower, q.upper) for q in quantities}
    chosen: dict[int, Tensor] = {}
    v: dict[str, Tensor] = {}
    for i in order:
        q = quantities[i]
        low, high = (_place(q, value, v) for value in _room(q.name, ends, v, least))
        low = low.clamp_max(1 - LEAST_ROOM)
        chosen[i] = choose(i, low, torch.maximum(high, low + LEAST_ROOM))
        v[q.name] = radius_at(chosen[i], v) if q.name == "radius" else q.at(chosen[i])
    return torch.stack([chosen[i] for i in range(len(quantities))], 1)


def _rank(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)


def _place(q: Quantity, value: Tensor, v: Mapping[str, Tensor]) -> Tensor:
    """(N,) place between the bounds of a quantity, 0 to 1, of a value or the next one that is possible."""
    if q.name == "radius":
        whole = (most_radius(v) / q.lower).log().clamp_min(0.05)
        return ((value.clamp_min(q.lower) / q.lower).log() / whole).clamp(0.0, 1.0)
    return q.place(value)


def _room(
    name: str, ends: Ends, v: Mapping[str, Tensor], least: Mapping[str, tuple[float, float]]
) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of a quantity that the bounds leave, given those before it."""
    if name == "film_thickness":
        return _room_of_film(ends, least)
    if name == "aspect":
        (low, high), (short, tall) = _radii(ends, least), _heights(ends, v)
        share = 2 * _height_share(v)
        return short / (share * high), tall / (share * low)
    if name == "radius":
        (low, high), (short, tall) = _radii(ends, least), _heights(ends, v)
        share = 2 * _height_share(v) * v["aspect"]
        return torch.maximum(low, short / share), torch.minimum(high, tall / share)
    if name == "relative_distance":
        low, high = _distances(ends, least)
        return low / (2 * v["radius"]), high / (2 * v["radius"])
    if name in ("relative_disorder", "relative_damping"):
        distance = 2 * v["radius"] * v["relative_distance"]
        low, high = ends.of(f"{name.removeprefix('relative_')}_angstrom")
        return low / distance, high / distance
    if name == "root_coupling":
        low, high = ends.of("coupling")
        return (low.clamp_min(0.0) / MOST_COUPLING).sqrt(), (high.clamp_min(0.0) / MOST_COUPLING).sqrt()
    if name == "depth":
        height = 2 * v["radius"] * v["aspect"]
        low, high = ends.of("depth_angstrom")
        room = v["film_thickness"] - height
        return (low - 0.5 * height) / room, (high - 0.5 * height) / room
    if name in ("surface_roughness", "interface_roughness"):
        thickness = v["film_thickness"] if name == "surface_roughness" else v["lower_thickness"]
        most = ROUGH_SHARE * thickness.clamp_min(1.0)
        low, high = ends.of(f"{name}_angstrom")
        return _rougher(low, most), _rougher(high, most)
    low, high = ends.of(DIRECT[name])
    if name == "lower_thickness":
        low = torch.maximum(low, ends.of("interface_roughness_angstrom")[0] / ROUGH_SHARE * 1.02)
    return low, high


def _room_of_film(ends: Ends, least: Mapping[str, tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Thicknesses of a film that hold what is known of its particles and its roughness."""
    low, high = ends.of("film_thickness_angstrom")
    height = torch.maximum(ends.of("height_angstrom")[0], 2 * least["aspect"][0] * _radii(ends, least)[0])
    deep = ends.of("depth_angstrom")[0] + 0.5 * height
    rough = ends.of("surface_roughness_angstrom")[0] / ROUGH_SHARE * 1.02
    for other in (height / FULL, deep, rough):
        low = torch.maximum(low, other)
    return low, high


def _distances(ends: Ends, least: Mapping[str, tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Distances of particles at which their disorder and damping can be what is known of them."""
    low, high = ends.of("distance_angstrom")
    for name in ("disorder", "damping"):
        first, last = ends.of(f"{name}_angstrom")
        some, most = least[f"relative_{name}"]
        low, high = torch.maximum(low, first / most), torch.minimum(high, last / some)
    return low, high


def _radii(ends: Ends, least: Mapping[str, tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Radii at which distances can be what is known of them."""
    low, high = ends.of("radius_angstrom")
    near, far = _distances(ends, least)
    close, wide = least["relative_distance"]
    low = torch.maximum(low.clamp_min(least["radius"][0]), near / (2 * wide))
    return low, torch.minimum(high.clamp_max(least["radius"][1]), far / (2 * close))


def _heights(ends: Ends, v: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Heights of the median particle that its film has room for, at the depths that are known."""
    low, high = ends.of("height_angstrom")
    if "film_thickness" not in v:
        return low, high
    from_, to = ends.of("depth_angstrom")
    for most in (FULL * v["film_thickness"], 2 * to, 2 * (v["film_thickness"] - from_)):
        high = torch.minimum(high, most)
    return low, high


def _height_share(v: Mapping[str, Tensor]) -> Tensor | float:
    """Height over diameter, of aspect 1: of cones their sides' angle has a say."""
    return 0.5 * torch.deg2rad(v["side_degree"]).tan() if "side_degree" in v else 1.0


def _rougher(roughness: Tensor, most: Tensor) -> Tensor:
    """Roughness that `possible_roughness` holds at what is reported; see there."""
    share = (roughness.clamp_min(0.0) / most).clamp_max(1.0)
    return roughness.clamp_min(0.0) / (1 - share**4).clamp_min(1e-9) ** 0.25


RANGES = {
    "radius_angstrom": (10.0, 120.0),
    "height_angstrom": (0.0, 680.0),
    "distance_angstrom": (21.0, 1920.0),
    "disorder_angstrom": (1.0, 1920.0),
    "damping_angstrom": (210.0, 1.92e6),
    "coupling": (0.0, MOST_COUPLING),
    "depth_angstrom": (0.0, 800.0),
    "interface_roughness_angstrom": (0.0, 40.0),
    "surface_roughness_angstrom": (0.0, 30.0),
    "particle_density_e_per_cubic_angstrom": (PARTICLE_DENSITY.lower, PARTICLE_DENSITY.upper),
}
"""What parameters may be that are no coordinates."""


def ranges_of(kinds: Sequence[Sequence[Quantity]]) -> dict[str, tuple[float, float]]:
    """Parameter -> lowest and highest value that any class may have."""
    out = dict(RANGES)
    for q in (q for quantities in kinds for q in quantities if q.name in DIRECT):
        name = DIRECT[q.name]
        low, high = out.get(name, (q.lower, q.upper))
        out[name] = (min(low, q.lower), max(high, q.upper))
    return out


def bounds_of(
    known: Mapping[str, tuple[float, float]],
    names: tuple[str, ...],
    kinds: Sequence[Sequence[Quantity]],
    label: str,
) -> Tensor:
    """(2, P) lowest and highest values of what is known of one frame's sample.

    Raises:
        FrameError: an unknown parameter, inverted bounds, or bounds beyond what the model has learnt.
    """
    both = torch.tensor([[-math.inf], [math.inf]], dtype=torch.float64).repeat(1, len(names))
    possible = ranges_of(kinds)
    for name, (low, high) in known.items():
        if name not in names or name not in possible:
            all_of = ", ".join(n for n in names if n in possible)
            raise FrameError(f"{label}: bounds of {name!r}, expected a parameter: {all_of}")
        least, most = possible[name]
        check_interval(label, name, low, high, least, most)
        half = 0.5 * max(0.0, NARROWEST * max(abs(low), 1e-2 * (most - least)) - (high - low))
        both[:, names.index(name)] = torch.tensor([low - half, high + half], dtype=torch.float64)
    return both
