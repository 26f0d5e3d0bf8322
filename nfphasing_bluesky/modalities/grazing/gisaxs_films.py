"""Multilayers in grazing incidence as drawn in the published problem: twelve layers with six parameters each.

M. Zhdanov et al., arXiv:2210.01543: tantalum oxide, tantalum and five periods of copper nitride and tantalum
on 100 nm of silica on silicon, at 0.14073 nm, 0.64 degrees and 1277 mm, on a detector of 1024 x 512 pixels of
0.05 mm upright to the reflected beam. Each layer has its delta and beta, thickness, roughness of its top,
Hurst exponent and lateral correlation length, uniform between bounds, with beta below delta and the roughness
below the thickness.

Dimension letters: N samples, L = 12 layers.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.gisaxs import GrazingSample
from nfphasing_bluesky.physics.grazing.dwba_roughness import Roughness
from nfphasing_bluesky.physics.grazing.gisaxs_detector import GrazingDetector
from nfphasing_bluesky.physics.reflectivity import Stack, from_refractive_index

WAVELENGTH_ANGSTROM = 1.4073
INCIDENCE_RAD = math.radians(0.64)
PHOTONS, BACKGROUND = 1e13, 60.0
RESOLUTION_M = 0.02e-3
"""Standard deviation of the detector's resolution."""
DETECTOR = GrazingDetector(
    wavelength_m=WAVELENGTH_ANGSTROM * 1e-10,
    distance_m=1.277,
    pixel_size_m=(0.05e-3, 0.05e-3),
    normal_px=(413.0, 215.0),
    shape=(1024, 512),
    normal_rad=2 * INCIDENCE_RAD,
)
VERTICAL_ANGSTROM = 20_000.0
"""Over which the interfaces follow one another."""

MATERIALS = ("TaO", "Ta", *("Cu3N", "Ta") * 5)
_DELTA = {"TaO": (6e-6, 2e-5), "Ta": (1e-5, 4e-5), "Cu3N": (8e-6, 3e-5)}
_BETA = (1e-8, 9e-6)
_THICKNESS = {"TaO": (3.0, 47.0), "Ta": (3.0, 47.0), "Cu3N": (3.0, 120.0)}
_ROUGHNESS = (3.0, 50.0)
_HURST = (0.1, 0.9)
_LATERAL = (30.0, 300.0)
# delta, beta, thickness of what is below; roughness, Hurst exponent and correlation length of both interfaces
_SILICA, _SILICON, _SILICA_ANGSTROM = (5.93e-6, 7.42e-8), (6.31e-6, 1.21e-7), 1000.0
_KNOWN_SHAPE = (5.4, 0.6, 300.0)


@dataclass(frozen=True)
class Films:
    """N multilayers, (N, L) each, lengths in angstrom."""

    delta: Tensor
    beta: Tensor
    thickness: Tensor
    roughness: Tensor
    hurst: Tensor
    lateral: Tensor

    def __len__(self) -> int:
        return len(self.delta)


def bounds(films: Films) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> lower and upper bounds, (N, L) each: beta ends at delta, the roughness at the thickness."""
    like = films.delta

    def by_material(ranges: dict[str, tuple[float, float]], i: int) -> Tensor:
        ends = [ranges[m][i] for m in MATERIALS]
        return torch.tensor(ends, dtype=like.dtype, device=like.device).expand_as(like)

    delta, thickness = ([by_material(ranges, i) for i in (0, 1)] for ranges in (_DELTA, _THICKNESS))

    def between(low: float, high: float) -> tuple[Tensor, Tensor]:
        return torch.full_like(like, low), torch.full_like(like, high)

    return {
        "delta": (delta[0], delta[1]),
        "beta": (between(*_BETA)[0], films.delta.clamp_max(_BETA[1])),
        "thickness": (thickness[0], thickness[1]),
        "roughness": (between(*_ROUGHNESS)[0], films.thickness.clamp_max(_ROUGHNESS[1])),
        "hurst": between(*_HURST),
        "lateral": between(*_LATERAL),
    }


def films_at(place: Tensor) -> Films:
    """Multilayers at places (N, L, 6) between the bounds, 0 to 1, in the order of the fields of `Films`."""
    parts = dict(zip((f.name for f in fields(Films)), place.unbind(-1), strict=True))
    for names in (("delta", "thickness", "hurst", "lateral"), ("beta", "roughness")):
        limits = bounds(Films(**parts))
        parts |= {name: torch.lerp(*limits[name], parts[name]) for name in names}
    return Films(**parts)


def sample_films(n: int, generator: Generator) -> Films:
    """N multilayers drawn from the prior, in float64, on the generator's device."""
    place = torch.rand(
        n, len(MATERIALS), 6, generator=generator, dtype=torch.float64, device=generator.device
    )
    return films_at(place)


def log_prior(films: Films) -> Tensor:
    """(N,) log density of the prior in the units of `Films`; minus infinity outside of it."""
    total = torch.zeros(len(films), dtype=films.delta.dtype, device=films.delta.device)
    for name, (low, high) in bounds(films).items():
        value = getattr(films, name)
        inside = (value >= low) & (value <= high)
        total = total + torch.where(inside, -(high - low).log(), -torch.inf).sum(1)
    return total


def grazing_sample(films: Films) -> GrazingSample:
    """Multilayers on silica and silicon, whose parameters are known."""
    n = len(films)
    like = films.delta

    def with_known(values: Tensor, *known: float) -> Tensor:
        return torch.cat([values, torch.tensor(known, dtype=like.dtype, device=like.device).expand(n, -1)], 1)

    media = zip(_SILICA, _SILICON, strict=True)
    optical = [
        torch.nn.functional.pad(with_known(values, *known), (1, 0))
        for values, known in zip((films.delta, films.beta), media, strict=True)
    ]
    roughness, hurst, lateral = (
        with_known(values, known, known)
        for values, known in zip((films.roughness, films.hurst, films.lateral), _KNOWN_SHAPE, strict=True)
    )
    stack = Stack(
        *from_refractive_index(optical[0], optical[1], WAVELENGTH_ANGSTROM),
        with_known(films.thickness, _SILICA_ANGSTROM),
        roughness,
    )
    vertical = torch.full((n,), VERTICAL_ANGSTROM, dtype=like.dtype, device=like.device)
    return GrazingSample(stack, Roughness(hurst, lateral, vertical))
