"""A growing film for the demo: gold islands on silicon, a frame in grazing incidence each second.

Islands are spheres on the surface that grow as the gold arrives, and fewer and farther apart as they merge.
The frames are computed pixel by pixel for the whole detector (`physics.gisaxs`), not along the rays of the
cuts that the model looks at.
"""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Device

FRAMES = 12
EVERY_S = 1.0
SIDE = 200
PIXEL_M, DISTANCE_M, WAVELENGTH_M = 0.45e-3, 2.0, 1.3e-10
INCIDENCE_DEGREE = 0.4
BEAM_PX = (30.0, 100.0)
"""Row from below and column of the direct beam, from the outer corner."""
STOP_PX = 3
"""Half the width of the stop along the plane of incidence."""
BRIGHTEST = 3e3
"""Counts of the brightest pixel of the last frame."""
BACKGROUND = 0.5
GOLD, SILICON = (2.9e-5, 2.2e-6), (5.4e-6, 9e-8)
SPREAD = 0.15
"""Standard deviation of the logarithm of the radius."""

GEOMETRY = MappingProxyType(
    {
        "wavelength_m": WAVELENGTH_M,
        "distance_m": DISTANCE_M,
        "pixel_size_m": (PIXEL_M, PIXEL_M),
        "poni_m": ((SIDE - BEAM_PX[0]) * PIXEL_M, BEAM_PX[1] * PIXEL_M),
        "incidence_degree": INCIDENCE_DEGREE,
    }
)
"""As a start document holds it."""


def height_angstrom(seconds: NDArray[np.floating]) -> NDArray[np.float64]:
    """Height of the median island: the answer."""
    return 50.0 * (1 + np.asarray(seconds, np.float64) / 2.0) ** (1 / 2)


def distance_angstrom(seconds: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of neighbouring islands: they touch more and more, but never quite."""
    return 1.3 * height_angstrom(seconds) + 70.0


def seconds_of(frames: int) -> NDArray[np.float64]:
    """(frames,) when frames are taken."""
    return EVERY_S * np.arange(frames, dtype=np.float64)


def simulated_frames(frames: int = FRAMES) -> list[NDArray[np.uint32]]:
    """Counts (SIDE, SIDE) of the growing film, one frame each second; row 0 is on top."""
    import torch

    from nfphasing_bluesky.physics.gisaxs import GrazingSample
    from nfphasing_bluesky.physics.grazing.dwba_particles import Particles
    from nfphasing_bluesky.physics.grazing.form_factors import whole_spheres
    from nfphasing_bluesky.physics.grazing.gisaxs_detector import (
        Exposure,
        GrazingDetector,
        detector_pixels,
        expected_counts,
    )
    from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
    from nfphasing_bluesky.physics.particles.size_distribution import log_normal
    from nfphasing_bluesky.physics.reflectivity import Stack, from_refractive_index

    seconds = seconds_of(frames)
    high, apart = (torch.from_numpy(f(seconds)) for f in (height_angstrom, distance_angstrom))
    same = torch.ones_like(high)
    delta, beta = torch.tensor([(0.0, 0.0), SILICON, GOLD], dtype=torch.float64).unbind(1)
    density, absorption = from_refractive_index(delta, beta, 1e10 * WAVELENGTH_M)
    stack = Stack(
        density[None, :2].expand(frames, -1),
        absorption[None, :2].expand(frames, -1),
        torch.zeros(frames, 0, dtype=torch.float64),
        3.0 * same[:, None],
    )
    sizes = log_normal(0.5 * high, SPREAD * same, 12, reach=2.0)
    islands = Particles(
        bodies=whole_spheres(sizes.values),
        share=sizes.share,
        density=density[2] * same,
        absorption=absorption[2] * same,
        number=2 / 3**0.5 / apart.square(),
        layer=0,
        base=0.0 * same,
        order=Paracrystal(apart, 0.25 * apart, 100 * apart),
    )
    pixel = (PIXEL_M, PIXEL_M)
    detector = GrazingDetector(WAVELENGTH_M, DISTANCE_M, pixel, BEAM_PX, (SIDE, SIDE))
    pixels = detector_pixels(detector, float(np.radians(INCIDENCE_DEGREE)), torch.float64)
    unit = expected_counts(GrazingSample(stack, particles=(islands,)), pixels, Exposure(same, 0.0 * same))
    middle = round(BEAM_PX[1])
    unit[:, :, middle - STOP_PX : middle + STOP_PX] = 0.0
    expected = BRIGHTEST / unit[-1].amax() * unit + BACKGROUND
    expected[:, :, middle - STOP_PX : middle + STOP_PX] = 0.0
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(5))
    return list(counts.flip(1).numpy().astype(np.uint32))


def each_second(detector: Device, frames: int = FRAMES) -> Iterator[Any]:
    """Plan: a frame each second."""
    from bluesky.plans import count

    return count([detector], num=frames, delay=EVERY_S)
