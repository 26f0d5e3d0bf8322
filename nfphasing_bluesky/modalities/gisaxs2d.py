"""`gisaxs2d`: nanoparticles on a surface or in a film from whole frames; u = rho_e(z) in e/angstrom^3.

Spheroids, truncated spheres, cylinders or cones on a substrate, or spheroids in a film (`island_prior`). A
frame is summed over a grid of exit angles and q in the plane, in which counts stay counts
(`physics.grazing.grazing_bins`).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Frame
from nfphasing_bluesky.flows import Anchor, LocalFits
from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.grazing import frame_bins, frame_fit
from nfphasing_bluesky.modalities.grazing.binned_frames import BinnedFrames
from nfphasing_bluesky.modalities.grazing.frame_bins import FramesBatch, FrameSimulation
from nfphasing_bluesky.modalities.grazing.frame_model import FINE, SHAPE, patterns
from nfphasing_bluesky.modalities.grazing.frame_network import PARTICLES, FramePosterior
from nfphasing_bluesky.modalities.grazing.island_prior import (
    CLASSES,
    PARAMETERS,
    QUANTITIES,
    IslandSample,
    profile,
    sample_of,
)
from nfphasing_bluesky.modalities.grazing.particle_prior import PARTICLE_DENSITY
from nfphasing_bluesky.modalities.grazing.surface_particles import SurfaceParticles
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.modalities.network import NetworkSettings


class GisaxsFrames(BinnedFrames, SurfaceParticles):
    """The modality."""

    name = "gisaxs2d"
    parameters = PARAMETERS
    classes = CLASSES
    quantities = QUANTITIES
    width = max(len(c.free) for c in CLASSES)
    simulation = FrameSimulation()
    background = BackgroundPrior(1e-6, 0.3)
    sigma_floor = 0.03
    hopeless_nats = 60.0
    shape = SHAPE
    training: Mapping[str, Any] = MappingProxyType(
        {"batch": 256, "round_batches": 16, "reuse": 2, "average": 0.998, "physics_weight": 0.0}
    )

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        self.settings = settings or PARTICLES
        super().__init__()

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "GisaxsFrames":
        """Make it from what a card and weights hold."""
        return cls(NetworkSettings(**network) if network else None)

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> FramesBatch:
        """Frames to one batch. Raises FrameError or GeometryError for a frame that can't be used."""
        return self.with_known(super().collate(frames, sigma_floor), frames)

    def scattering(self, theta: Tensor, kind: int, packed: Tensor) -> Tensor:
        """(N, Q) of samples of one class."""
        return patterns(theta, kind, packed, FINE)

    def sample_of(self, theta: Tensor, kind: int, sizes: int) -> IslandSample:
        """Samples of theta (N, D) in 0..1."""
        return sample_of(theta, kind, sizes)

    def profile(self, theta: Tensor, kind: int, particle_density: Tensor, z_angstrom: Tensor) -> Tensor:
        """(N, Z) electron density."""
        return profile(sample_of(theta, kind, FINE.sizes), particle_density, z_angstrom)

    def simulate(self, draws: Draws, generator: torch.Generator) -> tuple[FramesBatch, Mapping[str, Tensor]]:
        """Measure N samples, each with a geometry of its own; also the truth of every parameter."""
        batch, hidden = frame_bins.simulate(self, draws, generator)
        u = torch.rand(len(draws), generator=generator, device=generator.device)
        return batch, self.report(draws, {**hidden, "material": PARTICLE_DENSITY.at(u)})

    def fits_again(self, k: int, drawn: Tensor, batch: FramesBatch, anchor: Anchor) -> LocalFits:
        """Fits that begin at guesses and draws, each as probable as the Gaussian around it says."""
        found = (
            frame_fit.fit_again(k, drawn, batch, self.background)
            if batch.known is None
            else frame_fit.fit_known(k, drawn, batch, self.background, self.names)
        )
        location, factor = (v.view(len(batch), -1, *v.shape[1:]) for v in (found.location, found.factor))
        return self._weighed(k, location, factor, batch)

    def network(self) -> nn.Module:
        """Untrained encoder, class head and one flow for each class."""
        return FramePosterior(CLASSES, self.settings, SHAPE)
