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

from nfphasing_bluesky.core import Axis, DensityInfo, Frame, Prediction
from nfphasing_bluesky.flows import Anchor, LocalFits, resample_curve
from nfphasing_bluesky.modalities import cut_curves, cut_fit
from nfphasing_bluesky.modalities.curves import log_uniform
from nfphasing_bluesky.modalities.cut_curves import IN_PLANE, CutsBatch, CutSimulation
from nfphasing_bluesky.modalities.cut_model import FINE, cuts
from nfphasing_bluesky.modalities.cut_network import (
    IN_PLANE_GRID,
    OUT_OF_PLANE_GRID,
    SETTINGS,
    CutsPosterior,
    no_anchors,
)
from nfphasing_bluesky.modalities.draws import Anchors, Draws, Evaluated
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.modalities.loose_scale import Measured, loosened
from nfphasing_bluesky.modalities.network import NetworkSettings
from nfphasing_bluesky.modalities.particle_prior import (
    CLASSES,
    PARAMETERS,
    PARTICLE_DENSITY,
    profile,
    sample_of,
)
from nfphasing_bluesky.modalities.unit_box import UnitBox

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
DEPTHS_ANGSTROM = (-1000.0, 1400.0, 481)


class GisaxsCuts(UnitBox):
    """The modality."""

    name = "gisaxs1d"
    parameters = PARAMETERS
    classes = CLASSES
    width = max(len(c.free) for c in CLASSES)
    simulation = CutSimulation()
    background = BackgroundPrior(1e-5, 0.3)
    noise_columns = 3
    sigma_floor = 0.03
    hopeless_nats = math.inf
    takes_bounds = False
    one_by_one = True
    disagreement = ""
    training: Mapping[str, Any] = MappingProxyType(
        {"batch": 256, "round_batches": 16, "reuse": 1, "average": 0.998, "physics_weight": 0.0}
    )

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        self.settings = settings or SETTINGS
        self.axis = torch.linspace(*DEPTHS_ANGSTROM[:2], int(DEPTHS_ANGSTROM[2]))
        axis = Axis("z", self.axis.double().numpy(), "angstrom")
        self.density_info = DensityInfo("rho_e(z)", "e/angstrom^3", (axis,))

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "GisaxsCuts":
        """Make it from what a card and weights hold."""
        return cls(NetworkSettings(**network) if network else None)

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated pairs cover."""
        return cut_curves.feature_ranges(self.simulation)

    def pattern(self, draws: Draws, packed: Tensor) -> Tensor:
        """(N, Q) scattering of each draw at its points and beam (N, Q + 6), of root mean square 1."""
        out = torch.zeros(len(draws), packed.shape[1] - 6, dtype=draws.theta.dtype, device=packed.device)
        for k, spec in enumerate(CLASSES):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                # a draw outside of the prior, which has no probability anyway, counts as one on its edge
                theta = draws.theta[chosen, : len(spec.free)].clamp(0.0, 1.0)
                out = out.index_copy(0, chosen, cuts(theta, k, packed[chosen], FINE))
        return out

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
        return cut_curves.collate(frames, sigma_floor)

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

    def anchors(self, batch: CutsBatch) -> Anchors:
        """The prior: nothing is fitted."""
        return no_anchors(len(batch))

    def fits_again(self, k: int, drawn: Tensor, batch: CutsBatch, anchor: Anchor) -> LocalFits:
        """Fits that begin at draws, each as probable as the Gaussian around it says."""
        found = cut_fit.fit_again(k, drawn, batch, self.background)
        location, factor = (v.view(len(batch), -1, *v.shape[1:]) for v in (found.location, found.factor))
        return self._weighed(k, location, factor, batch)

    def agreement(self, batch: CutsBatch, anchors: Anchors) -> Tensor:
        """(B,) NaN: the chi-squared tells what is no such sample."""
        return batch.intensity.new_full((len(batch),), torch.nan)

    def forward(self, draws: Draws, batch: CutsBatch) -> Tensor:
        """(N, Q) scattering of each draw at its frame's points, of root mean square 1."""
        return self.pattern(draws, batch.q[draws.frame])

    def evaluate(self, draws: Draws, batch: CutsBatch, noise: Tensor | None = None) -> Evaluated:
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
        for k, spec in enumerate(CLASSES):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                sample = sample_of(draws.theta[chosen, : len(spec.free)], k, FINE.sizes)
                out[chosen] = profile(sample, nuisance["material"][chosen].to(out), z)
        return out

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of every reported parameter; NaN where a class lacks it."""
        missing = torch.full_like(draws.theta[:, 0], torch.nan)
        out = {p.name: missing.clone() for p in PARAMETERS}
        for k, spec in enumerate(CLASSES):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                for name, value in sample_of(draws.theta[chosen, : len(spec.free)], k, 2).values.items():
                    out[name][chosen] = value.to(missing.dtype)
        out["particle_density_e_per_cubic_angstrom"] = nuisance["material"].to(missing.dtype)
        return out | self._linear(nuisance, missing)

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
