"""2-D small-angle patterns for the demo: oriented particles on a detector with a gap and a beam stop."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import DetectorGeometry, plane_of

SIDE = 128
PIXEL_M, DISTANCE_M, WAVELENGTH_M = 1e-3, 6.0, 1e-10
CENTRE_PX = (60.3, 66.8)
PHOTONS = 2e6
GAP = slice(84, 88)
DEAD = np.iinfo(np.uint32).max
BEAM_STOP_PX = 3.5

GEOMETRY = MappingProxyType(
    {
        "wavelength_m": WAVELENGTH_M,
        "distance_m": DISTANCE_M,
        "pixel_size_m": (PIXEL_M, PIXEL_M),
        "poni_m": tuple(c * PIXEL_M for c in CENTRE_PX),
    }
)
"""As a start document holds it."""


@dataclass(frozen=True)
class Particle:
    """What is in the beam; angles and their standard deviations in degrees, lengths in angstrom."""

    shape: str
    sizes: tuple[float, ...]
    phi: float
    spread: float
    tilt_spread: float
    theta: float = 90.0
    polydispersity: float = 0.08


PARTICLES: Mapping[str, Particle] = MappingProxyType(
    {
        "rods along 30°": Particle("cylinder", (45.0, 280.0), 30.0, 12.0, 8.0),
        "rods along 75°": Particle("cylinder", (30.0, 200.0), 75.0, 18.0, 14.0),
        "prolate ellipsoids": Particle("ellipsoid", (110.0, 45.0), -20.0, 10.0, 8.0),
        "discs": Particle("ellipsoid", (30.0, 85.0), 110.0, 8.0, 6.0),
    }
)


def simulated_patterns(particles: Mapping[str, Particle]) -> list[NDArray[np.uint32]]:
    """Counts (SIDE, SIDE) behind particles; a module gap and the beam stop have the dtype's largest value.

    The patterns are those of every pixel (`physics.saxs2d`), not those that the model computes at bins.
    """
    import torch

    from nfphasing_bluesky.physics import saxs2d
    from nfphasing_bluesky.physics.particles.oriented import Gaussian, Orientation, gaussian_sizes

    qx, qy = plane_of(DetectorGeometry(**GEOMETRY), (SIDE, SIDE)).maps()  # type: ignore[arg-type]
    plane = saxs2d.plane(torch.from_numpy(qx), torch.from_numpy(qy), 420.0)
    rows, columns = (np.arange(SIDE) + 0.5 - c for c in CENTRE_PX)
    dark = np.hypot(rows[:, None], columns[None]) < BEAM_STOP_PX
    dark[GAP] = True
    generator = torch.Generator().manual_seed(9)
    counts = []
    for one in particles.values():
        theta, phi, *spreads = (
            torch.deg2rad(torch.tensor([v], dtype=torch.float64))
            for v in (one.theta, one.phi, one.tilt_spread, one.spread)
        )
        view = Orientation(theta, phi, None, *(Gaussian(s) for s in spreads))
        sizes = [torch.tensor([s], dtype=torch.float64) for s in one.sizes]
        spread = gaussian_sizes(torch.tensor([one.polydispersity], dtype=torch.float64))
        pattern = getattr(saxs2d, one.shape)(plane, *sizes, view, spread)[0] + 1e-4
        expected = PHOTONS * pattern / pattern[~torch.from_numpy(dark)].sum()
        found = torch.poisson(expected, generator=generator).numpy().astype(np.uint32)
        found[dark] = DEAD
        counts.append(found)
    return counts
