"""What modalities of particles on surfaces share, whatever part of a frame they look at.

Scale and background are those of all of a frame: linear, integrated out and drawn exactly. What the particles
are made of scatters as the scale does; it is drawn from its prior.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from nfphasing_bluesky.core import Axis, DensityInfo, Parameter
from nfphasing_bluesky.modalities.draws import Anchors, Draws, Evaluated
from nfphasing_bluesky.modalities.loose_scale import Measured, loosened
from nfphasing_bluesky.modalities.particle_prior import PARTICLE_DENSITY
from nfphasing_bluesky.modalities.surface_fits import no_anchors
from nfphasing_bluesky.modalities.unit_box import UnitBox

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
DEPTHS_ANGSTROM = (-1000.0, 1400.0, 481)


class Sample(Protocol):
    """N samples of one class."""

    @property
    def values(self) -> dict[str, Tensor]:
        """Name -> (N,) parameters as they are reported, but for what is linear."""
        ...


class SurfaceParticles(UnitBox):
    """A modality whose u is rho_e(z), averaged over the area."""

    parameters: ClassVar[tuple[Parameter, ...]]
    noise_columns: ClassVar[int] = 3
    takes_bounds: ClassVar[bool] = False
    one_by_one: ClassVar[bool] = True
    disagreement: ClassVar[str] = ""

    def __init__(self) -> None:
        self.axis = torch.linspace(*DEPTHS_ANGSTROM[:2], int(DEPTHS_ANGSTROM[2]))
        axis = Axis("z", self.axis.double().numpy(), "angstrom")
        self.density_info = DensityInfo("rho_e(z)", "e/angstrom^3", (axis,))

    @abstractmethod
    def scattering(self, theta: Tensor, kind: int, packed: Tensor) -> Tensor:
        """(N, Q) of samples of one class, theta (N, D) in 0..1, of root mean square 1; differentiable."""

    @abstractmethod
    def points(self, packed: Tensor) -> int:
        """Q of what is packed (N, P): where it is measured."""

    @abstractmethod
    def sample_of(self, theta: Tensor, kind: int, sizes: int) -> Sample:
        """Samples of theta (N, D) in 0..1."""

    @abstractmethod
    def profile(self, theta: Tensor, kind: int, particle_density: Tensor, z_angstrom: Tensor) -> Tensor:
        """(N, Z) electron density, averaged over the area, at depths z (Z,), e/angstrom^3."""

    def pattern(self, draws: Draws, packed: Tensor) -> Tensor:
        """(N, Q) scattering of each draw where `packed` (N, P) says, of root mean square 1."""
        count = self.points(packed)
        out = torch.zeros(len(draws), count, dtype=draws.theta.dtype, device=packed.device)
        for k, spec in enumerate(self.classes):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                # a draw outside of the prior, which has no probability anyway, counts as one on its edge
                theta = draws.theta[chosen, : len(spec.free)].clamp(0.0, 1.0)
                out = out.index_copy(0, chosen, self.scattering(theta, k, packed[chosen]))
        return out

    def anchors(self, batch: Any) -> Anchors:
        """The prior: nothing is fitted before the flow."""
        return no_anchors(len(batch), [len(c.free) for c in self.classes])

    def agreement(self, batch: Any, anchors: Anchors) -> Tensor:
        """(B,) NaN: the chi-squared tells what is no such sample."""
        return batch.intensity.new_full((len(batch),), torch.nan)

    def forward(self, draws: Draws, batch: Any) -> Tensor:
        """(N, Q) scattering of each draw where its frame was measured, of root mean square 1."""
        return self.pattern(draws, batch.q[draws.frame])

    def evaluate(self, draws: Draws, batch: Any, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model; scale and background by their exact conditional.

        Of draws that don't explain their frame the scale is what `loose_scale` says. Without noise these are
        central, and the particles' densities spread evenly over their prior.
        """
        linear, shape = self._condition(draws, batch)
        tight, beta = linear.draw(noise)
        background, rows = tight * beta, draws.frame
        measured = Measured(batch.intensity[rows], batch.sigma[rows], ~batch.mask[rows])
        scale = loosened(shape, tight, background, measured, None if noise is None else noise[:, 1])
        beta = background / scale
        predicted = (scale[:, None] * shape + background[:, None]).to(shape.dtype)
        even = (torch.arange(len(draws), device=scale.device) * GOLDEN_RATIO + 0.5).remainder(1.0).to(scale)
        place = even if noise is None else torch.special.ndtr(noise[:, 2].to(scale))
        material = PARTICLE_DENSITY.at(place)
        return Evaluated(linear.log_evidence, {"scale": scale, "beta": beta, "material": material}, predicted)

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

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of every reported parameter; NaN where a class lacks it."""
        missing = torch.full_like(draws.theta[:, 0], torch.nan)
        out = {p.name: missing.clone() for p in self.parameters}
        for k, spec in enumerate(self.classes):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                sample = self.sample_of(draws.theta[chosen, : len(spec.free)], k, 2)
                for name, value in sample.values.items():
                    out[name][chosen] = value.to(missing.dtype)
        out["particle_density_e_per_cubic_angstrom"] = nuisance["material"].to(missing.dtype)
        return out | self._linear(nuisance, missing)
