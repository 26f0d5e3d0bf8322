"""`gisaxs1d`: nanoparticles on a surface or in a film from two cuts; u = rho_e(z) in e/angstrom^3.

The in-plane cut follows q_y at exit angles about Yoneda's, the out-of-plane cut the exit angle at q_y about
the first side maximum. Scale and background are those of both cuts: linear, integrated out and drawn exactly.
What the particles are made of scatters as the scale does; it is drawn from its prior.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Frame, Prediction
from nfphasing_bluesky.flows import Anchor, LocalFits, resample_curve
from nfphasing_bluesky.modalities.curves import log_uniform
from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.grazing import cut_curves, cut_fit
from nfphasing_bluesky.modalities.grazing.cut_curves import IN_PLANE, CutsBatch, CutSimulation
from nfphasing_bluesky.modalities.grazing.cut_model import FINE, cuts
from nfphasing_bluesky.modalities.grazing.cut_network import (
    IN_PLANE_GRID,
    OUT_OF_PLANE_GRID,
    SETTINGS,
    CutsPosterior,
)
from nfphasing_bluesky.modalities.grazing.particle_prior import (
    CLASSES,
    PARAMETERS,
    PARTICLE_DENSITY,
    QUANTITIES,
    ParticleSample,
    profile,
    sample_of,
)
from nfphasing_bluesky.modalities.grazing.surface_particles import SurfaceParticles
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.modalities.network import NetworkSettings


class GisaxsCuts(SurfaceParticles):
    """The modality."""

    name = "gisaxs1d"
    parameters = PARAMETERS
    classes = CLASSES
    quantities = QUANTITIES
    width = max(len(c.free) for c in CLASSES)
    simulation = CutSimulation()
    background = BackgroundPrior(1e-5, 0.3)
    sigma_floor = 0.03
    hopeless_nats = math.inf
    training: Mapping[str, Any] = MappingProxyType(
        {"batch": 256, "round_batches": 16, "reuse": 1, "average": 0.998, "physics_weight": 0.0}
    )

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        self.settings = settings or SETTINGS
        super().__init__()

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "GisaxsCuts":
        """Make it from what a card and weights hold."""
        return cls(NetworkSettings(**network) if network else None)

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated pairs cover."""
        return cut_curves.feature_ranges(self.simulation)

    def scattering(self, theta: Tensor, kind: int, packed: Tensor) -> Tensor:
        """(N, Q) of samples of one class."""
        return cuts(theta, kind, packed, FINE)

    def points(self, packed: Tensor) -> int:
        """Q."""
        return packed.shape[1] - 6

    def sample_of(self, theta: Tensor, kind: int, sizes: int) -> ParticleSample:
        """Samples of theta (N, D) in 0..1."""
        return sample_of(theta, kind, sizes)

    def profile(self, theta: Tensor, kind: int, particle_density: Tensor, z_angstrom: Tensor) -> Tensor:
        """(N, Z) electron density."""
        return profile(sample_of(theta, kind, FINE.sizes), particle_density, z_angstrom)

    def simulate(self, draws: Draws, generator: torch.Generator) -> tuple[CutsBatch, Mapping[str, Tensor]]:
        """Measure N samples, each with a geometry of its own; also the truth of every parameter."""
        n, s = len(draws), self.simulation
        places = cut_curves.random_places(s, n, generator)
        found = self.pattern(draws, places.packed)
        beta, scale = self.background.sample(n, generator), log_uniform(s.scale, n, generator)
        expected = found + beta[:, None]
        batch = cut_curves.measure(places, expected, scale, s, generator)
        u = torch.rand(n, generator=generator, device=generator.device)
        return batch, self.report(draws, {"scale": scale, "beta": beta, "material": PARTICLE_DENSITY.at(u)})

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> CutsBatch:
        """Frames to one batch. Raises FrameError or GeometryError for a frame that can't be used."""
        return self.with_known(cut_curves.collate(frames, sigma_floor), frames)

    def usable(self, batch: CutsBatch) -> Tensor:
        """(B,) bool: frames with enough signal that `collate` would take them."""
        return cut_curves.usable(batch)

    def context(self, batch: CutsBatch) -> tuple[Tensor, Tensor]:
        """Channels (B, C, N) of both cuts, and (B, E) their ratio, angles and bands."""
        k, incidence, low, high, q_low, q_high = batch.beam.unbind(1)
        leaving = k[:, None] * batch.points[:, IN_PLANE:].sin()
        first, second = (
            resample_curve(
                at.float(), batch.intensity[:, part], batch.sigma[:, part], batch.mask[:, part], grid
            )
            for at, part, grid in (
                (batch.points[:, :IN_PLANE], slice(None, IN_PLANE), IN_PLANE_GRID),
                (leaving, slice(IN_PLANE, None), OUT_OF_PLANE_GRID),
            )
        )
        ratio = (first.normalisation / second.normalisation).log() / 4
        vertical = [40 * k * angle.sin() for angle in (incidence, low, high)]
        angles = [k.log(), 100 * incidence, 100 * low, (high - low).log() / 2 + 3]
        across = [q_low.log() / 2 + 2, (q_high - q_low) / q_low]
        scalars = torch.stack([*vertical, *angles, *across, ratio.to(k)], 1).to(first.channels)
        return torch.cat([first.channels, second.channels], 2), scalars

    def fits_again(self, k: int, drawn: Tensor, batch: CutsBatch, anchor: Anchor) -> LocalFits:
        """Fits that begin at draws, each as probable as the Gaussian around it says."""
        found = (
            cut_fit.fit_again(k, drawn, batch, self.background)
            if batch.known is None
            else cut_fit.fit_known(k, drawn, batch, self.background, self.names)
        )
        location, factor = (v.view(len(batch), -1, *v.shape[1:]) for v in (found.location, found.factor))
        return self._weighed(k, location, factor, batch)

    def on_frame(
        self, frame: Frame, draws: Draws, nuisance: Mapping[str, Tensor], prediction: Prediction
    ) -> Prediction:
        """Prediction at the points that the cuts have, interpolated where these are many."""
        return cut_curves.at_points(frame, prediction)

    def features(self, batch: CutsBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties that `ranges` bounds."""
        return cut_curves.features(batch)

    def network(self) -> nn.Module:
        """Untrained encoder, class head and one flow for each class."""
        return CutsPosterior(self.settings)
