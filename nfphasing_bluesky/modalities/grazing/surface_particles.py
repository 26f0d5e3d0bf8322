"""What modalities of particles on surfaces share, whatever part of a frame they look at.

What the particles are made of scatters as the scale does; it is drawn from its prior.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from nfphasing_bluesky.core import Frame, FrameError
from nfphasing_bluesky.modalities.draws import Draws, Evaluated
from nfphasing_bluesky.modalities.grazing.known_sample import TRIED, Ends, bounds_of, nearest, within
from nfphasing_bluesky.modalities.grazing.particle_prior import PARTICLE_DENSITY, Quantity
from nfphasing_bluesky.modalities.grazing.surface_misfit import ends_of_known
from nfphasing_bluesky.modalities.grazing.surface_scattering import SurfaceScattering
from nfphasing_bluesky.modalities.linear import ScaleBackground

B = TypeVar("B")
MATERIAL = "particle_density_e_per_cubic_angstrom"
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
    takes_bounds: ClassVar[bool] = True
    quantities: ClassVar[tuple[tuple[Quantity, ...], ...]]
    holds: ClassVar[str] = (
        "check wavelength, distance and angles, and whether the sample is particles of one kind, on a "
        "substrate or in a film: the model holds no other"
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, as `known` of a batch has them."""
        return tuple(p.name for p in self.parameters)

    def with_known(self, batch: B, frames: Sequence[Frame]) -> B:
        """Return a batch with what its frames say of their samples.

        Raises:
            FrameError: bounds that can't be, or contradict each other.
        """
        if not any(frame.bounds for frame in frames):
            return batch
        rows = [bounds_of(f.bounds, self.names, self.quantities, f.origin.label) for f in frames]
        for frame, row in zip(frames, rows, strict=True):
            if not self._possible(row):
                all_of = ", ".join(frame.bounds)
                raise FrameError(
                    f"{frame.origin.label}: no sample has all of {all_of} within the bounds, expected that "
                    "they agree with each other; widen them"
                )
        return replace(batch, known=torch.stack(rows))  # type: ignore[type-var]

    def _possible(self, row: Tensor) -> bool:
        """Whether any sample of any class lies within bounds (2, P)."""
        ends = Ends(self.names, row.expand(TRIED, -1, -1))
        for k, quantities in enumerate(self.quantities):
            w = torch.quasirandom.SobolEngine(len(quantities), scramble=True, seed=k).draw(TRIED).double()
            if bool(ends.hold(self.values(within(w, quantities, ends).float(), k)).any()):
                return True
        return False

    def inside(self, draws: Draws, batch: Any) -> Tensor:
        """(N,) bool: draws whose parameters lie within what is known; what a class lacks says nothing."""
        good = torch.ones(len(draws), dtype=torch.bool, device=draws.theta.device)
        if batch.known is None:
            return good
        for k, spec in enumerate(self.classes):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                ends = Ends(self.names, batch.known[draws.frame[chosen]])
                good[chosen] = ends.hold(self.values(draws.theta[chosen, : len(spec.free)], k))
        return good

    def moved_within(self, draws: Draws, u: Tensor, batch: Any) -> Draws:
        """Return draws moved to within what is known: what is beyond goes anywhere there, as u (N, D)."""
        theta = draws.theta.clone()
        for k, spec in enumerate(self.classes):
            chosen, own = (draws.label == k).nonzero()[:, 0], len(spec.free)
            if chosen.numel():
                ends = Ends(self.names, batch.known[draws.frame[chosen]])
                w = nearest(theta[chosen, :own].double(), self.quantities[k], ends, u[chosen, :own])
                theta[chosen, :own] = within(w, self.quantities[k], ends).to(theta)
        return replace(draws, theta=theta)

    def ended(self, batch: Any, draw: Draws, b: int) -> str:
        """Which bounds of what is known of a frame a draw ends at, in words; empty where nothing is known."""
        if batch.known is None:
            return ""
        k = int(draw.label[0])
        values = self.values(draw.theta[:, : len(self.classes[k].free)], k)
        return ends_of_known(batch.known[b], self.names, values)

    def _condition(self, draws: Draws, batch: Any) -> tuple[ScaleBackground, Tensor]:
        """As of all surfaces; what lies outside of what is known has no probability."""
        linear, shape = super()._condition(draws, batch)
        if batch.known is None:
            return linear, shape
        evidence = linear.log_evidence.masked_fill(~self.inside(draws, batch), -torch.inf)
        return replace(linear, log_evidence=evidence), shape

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
        if batch.known is not None:
            low, high = Ends(self.names, batch.known[draws.frame]).of(MATERIAL)
            first, last = (PARTICLE_DENSITY.place(v.to(scale)) for v in (low, high))
            place = torch.lerp(first, last, place)
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
        return super().report(draws, nuisance) | {MATERIAL: material}
