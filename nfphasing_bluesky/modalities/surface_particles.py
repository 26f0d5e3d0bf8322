"""What modalities of particles on surfaces share, whatever part of a frame they look at.

What the particles are made of scatters as the scale does; it is drawn from its prior.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.draws import Draws, Evaluated
from nfphasing_bluesky.modalities.particle_prior import PARTICLE_DENSITY
from nfphasing_bluesky.modalities.surface_scattering import SurfaceScattering

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class Sample(Protocol):
    """N samples of one class."""

    @property
    def values(self) -> dict[str, Tensor]:
        """Name -> (N,) parameters as they are reported, but for what is linear."""
        ...


class SurfaceParticles(SurfaceScattering):
    """A modality of particles; the last column of noise is for their densities."""

    depths_angstrom: ClassVar[tuple[float, float, int]] = (-1000.0, 1400.0, 481)
    noise_columns: ClassVar[int] = 3
    one_by_one: ClassVar[bool] = True

    @abstractmethod
    def sample_of(self, theta: Tensor, kind: int, sizes: int) -> Sample:
        """Samples of theta (N, D) in 0..1."""

    @abstractmethod
    def profile(self, theta: Tensor, kind: int, particle_density: Tensor, z_angstrom: Tensor) -> Tensor:
        """(N, Z) electron density, averaged over the area, at depths z (Z,), e/angstrom^3."""

    def evaluate(self, draws: Draws, batch: Any, noise: Tensor | None = None) -> Evaluated:
        """As of all surfaces; without noise the particles' densities spread evenly over their prior."""
        found = super().evaluate(draws, batch, noise)
        scale = found.nuisance["scale"]
        even = (torch.arange(len(draws), device=scale.device) * GOLDEN_RATIO + 0.5).remainder(1.0).to(scale)
        place = even if noise is None else torch.special.ndtr(noise[:, 2].to(scale))
        return replace(found, nuisance={**found.nuisance, "material": PARTICLE_DENSITY.at(place)})

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, Z) electron density, averaged over the area, at each depth below the surface, e/angstrom^3."""
        z = self.axis.to(draws.theta)
        out = draws.theta.new_zeros(len(draws), len(z))
        for k, spec in enumerate(self.classes):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                theta = draws.theta[chosen, : len(spec.free)]
                out[chosen] = self.profile(theta, k, nuisance["material"][chosen].to(out), z)
        return out

    def values(self, theta: Tensor, kind: int) -> Mapping[str, Tensor]:
        """Name -> (N,) parameters of samples of one class as they are reported, but for what is linear."""
        return self.sample_of(theta, kind, 2).values

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of every reported parameter; NaN where a class lacks it."""
        material = nuisance["material"].to(draws.theta.dtype)
        return super().report(draws, nuisance) | {"particle_density_e_per_cubic_angstrom": material}
