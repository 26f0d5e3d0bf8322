"""Reflectivities for the demo: a film that grows on silicon, measured between two depositions."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin

THICKNESSES_ANGSTROM = (40.0, 70.0, 110.0, 160.0)
FILM_DENSITY, SUBSTRATE_DENSITY = 1.9, 0.71
ROUGHNESS_ANGSTROM = (5.0, 3.0)
POINTS, Q_INV_ANGSTROM = 160, (0.012, 0.40)
PHOTONS, BACKGROUND, FLOOR = 1e8, 2e-8, 0.02

KNOWN: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "layers": (1, 1),
        "thickness_1_angstrom": (20, 250),
        "density_1_e_per_cubic_angstrom": (1.5, 2.4),
        "substrate_density_e_per_cubic_angstrom": (0.70, 0.72),
    }
)
"""What somebody who grows it knows; what a start document says, as `bounds`."""


def metadata() -> dict[str, Any]:
    """Of the start document."""
    return {"nfphasing": {"bounds": {name: list(ends) for name, ends in KNOWN.items()}}}


def growing_film(seed: int = 4) -> list[Frame]:
    """Curves of the film at each of its thicknesses, photon noise and a systematic floor in them."""
    import torch

    from nfphasing_bluesky.physics.reflectivity import Stack, reflectivity

    rng = np.random.default_rng(seed)
    q = np.linspace(*Q_INV_ANGSTROM, POINTS)
    frames = []
    for thickness in THICKNESSES_ANGSTROM:
        density = [0.0, FILM_DENSITY, SUBSTRATE_DENSITY]
        values = (density, [0.02 * d * d for d in density], [thickness], ROUGHNESS_ANGSTROM)
        film = Stack(*(torch.tensor([v], dtype=torch.float64) for v in values))
        expected = reflectivity(film, torch.from_numpy(q)[None])[0].numpy() + BACKGROUND
        # the attenuators come out as the intensity falls
        photons = PHOTONS * (q / q[0]) ** 2
        counts = rng.poisson(photons * expected * (1 + FLOOR * rng.standard_normal(POINTS)))
        sigma = np.hypot(np.sqrt(counts + 1) / photons, FLOOR * expected)
        label = f"film of {thickness:g} Å"
        frames.append(Frame(counts / photons, CurveGeometry(q), sigma, origin=Origin(label)))
    return frames
