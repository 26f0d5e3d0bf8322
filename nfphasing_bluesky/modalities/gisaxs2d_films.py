"""`gisaxs2d-films`: twelve layers with rough interfaces from a frame; u = rho_e(z) in e/angstrom^3.

The published problem of arXiv:2210.01543 (`gisaxs_films`): 72 parameters, what they are made of known but for
bounds. A frame is summed over a grid of exit angles and q in the plane, in which counts stay counts.
"""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Parameter
from nfphasing_bluesky.modalities.draws import ClassSpec, Draws
from nfphasing_bluesky.modalities.grazing import frame_bins
from nfphasing_bluesky.modalities.grazing.binned_frames import BinnedFrames
from nfphasing_bluesky.modalities.grazing.film_frames import SHAPE, SIMULATION, film_patterns
from nfphasing_bluesky.modalities.grazing.frame_bins import FramesBatch
from nfphasing_bluesky.modalities.grazing.frame_network import FILMS, FramePosterior
from nfphasing_bluesky.modalities.grazing.gisaxs_films import MATERIALS, Films, films_at, grazing_sample
from nfphasing_bluesky.modalities.grazing.surface_scattering import SurfaceScattering
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.modalities.network import NetworkSettings
from nfphasing_bluesky.physics.layers.depth_profile import bounded_profile

UNITS = {
    "delta": "",
    "beta": "",
    "thickness": "angstrom",
    "roughness": "angstrom",
    "hurst": "",
    "lateral": "angstrom",
}
LABELS = {
    "delta": "delta",
    "beta": "beta",
    "thickness": "thickness",
    "roughness": "roughness",
    "hurst": "Hurst exponent",
    "lateral": "correlation length",
}


def _name(quantity: str, layer: int) -> str:
    unit = UNITS[quantity]
    return f"{quantity}_{layer}_{unit}" if unit else f"{quantity}_{layer}"


_PLACES = tuple((field.name, layer) for layer in range(1, len(MATERIALS) + 1) for field in fields(Films))
"""Quantity and layer of each coordinate, layers counted from the surface."""
CLASSES = (
    ClassSpec(
        "films",
        tuple(_name(*place) for place in _PLACES),
        (0.0,) * len(_PLACES),
        (1.0,) * len(_PLACES),
    ),
)
PARAMETERS = (
    *(
        Parameter(_name(q, layer), UNITS[q] or "1", f"{LABELS[q]} of layer {layer} ({MATERIALS[layer - 1]})")
        for q, layer in _PLACES
    ),
    Parameter("scale", "1", "scale"),
    Parameter("background", "1", "background"),
)


class GisaxsFilms(BinnedFrames, SurfaceScattering):
    """The modality."""

    name = "gisaxs2d-films"
    holds = "its draws say little more than the prior: none fits frames of many counts yet"
    parameters = PARAMETERS
    classes = CLASSES
    width = len(_PLACES)
    depths_angstrom = (-150.0, 2050.0, 441)
    simulation = SIMULATION
    background = BackgroundPrior(1e-6, 0.3)
    sigma_floor = 0.01
    hopeless_nats = torch.inf
    shape = SHAPE
    training: Mapping[str, Any] = MappingProxyType(
        {"batch": 256, "round_batches": 16, "reuse": 2, "average": 0.998, "physics_weight": 0.0}
    )

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        self.settings = settings or FILMS
        super().__init__()

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "GisaxsFilms":
        """Make it from what a card and weights hold."""
        return cls(NetworkSettings(**network) if network else None)

    def scattering(self, theta: Tensor, kind: int, packed: Tensor) -> Tensor:
        """(N, Q) of multilayers."""
        return film_patterns(_by_layer(theta), packed)

    def simulate(self, draws: Draws, generator: torch.Generator) -> tuple[FramesBatch, Mapping[str, Tensor]]:
        """Measure N samples, each with a geometry of its own; also the truth of every parameter."""
        batch, hidden = frame_bins.simulate(self, draws, generator)
        return batch, self.report(draws, hidden)

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, Z) electron density, averaged over the area, at each depth below the surface, e/angstrom^3."""
        sample = grazing_sample(films_at(_by_layer(draws.theta)))
        return bounded_profile(sample.stack, self.axis.to(draws.theta))

    def values(self, theta: Tensor, kind: int) -> Mapping[str, Tensor]:
        """Name -> (N,) parameters of samples as they are reported, but for what is linear."""
        films = films_at(_by_layer(theta))
        return {_name(q, layer): getattr(films, q)[:, layer - 1] for q, layer in _PLACES}

    def network(self) -> nn.Module:
        """Untrained encoder and flow."""
        return FramePosterior(CLASSES, self.settings, SHAPE)


def _by_layer(theta: Tensor) -> Tensor:
    """(N, L, 6)."""
    return theta.unflatten(1, (len(MATERIALS), -1))
