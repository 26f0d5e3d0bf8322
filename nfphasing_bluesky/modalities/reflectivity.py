"""`reflectivity`: up to five layers on a substrate; u = rho_e(z) in e/angstrom^3.

The classes are the numbers of layers. Scale and background are linear: they are integrated out and drawn
exactly. What is known of the sample comes with the frame as bounds (`layer_prior`).
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Axis, DensityInfo, Frame, Prediction
from nfphasing_bluesky.flows import (
    Anchor,
    AnchorMap,
    EncoderSettings,
    FlowSettings,
    LocalFits,
    LogGrid,
    resample_curve,
)
from nfphasing_bluesky.modalities import curves
from nfphasing_bluesky.modalities.anchors import Target, anchor_features
from nfphasing_bluesky.modalities.batches import cut_to
from nfphasing_bluesky.modalities.draws import Anchors, Draws, Evaluated
from nfphasing_bluesky.modalities.layers import reflectivity_curves
from nfphasing_bluesky.modalities.layers.critical_edge import edge_agreement
from nfphasing_bluesky.modalities.layers.layer_misfit import next_step
from nfphasing_bluesky.modalities.layers.layer_prior import (
    CLASSES,
    NAMES,
    PARAMETERS,
    QUANTITIES,
    columns,
    random_bounds,
    sample_of,
    widest,
)
from nfphasing_bluesky.modalities.layers.reflectivity_curves import ReflectivityBatch, ReflectometerSimulation
from nfphasing_bluesky.modalities.layers.reflectivity_fit import (
    NODES,
    fit_again,
    fit_layers,
    reflected,
    target,
)
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.modalities.network import CurvePosterior, DrawDistribution, NetworkSettings
from nfphasing_bluesky.modalities.unit_box import UnitBox, unit_box
from nfphasing_bluesky.physics.layers.depth_profile import bounded_profile

DEPTHS_ANGSTROM = (-60.0, 1240.0, 521)

# Fringes are evenly spaced in q, so the encoder's grid is: even in the logarithm of exp(q).
GRID = LogGrid(points=192, q_min_inv_angstrom=math.exp(0.004), q_max_inv_angstrom=math.exp(0.6))
EXTRAS = 2 * len(QUANTITIES) + len(CLASSES) + 2
SETTINGS = NetworkSettings(
    encoder=EncoderSettings(grid=GRID, width=256, blocks=2, context=64, extras=EXTRAS),
    flow=FlowSettings(layers=4, hidden=96, bins=8, head_hidden=96, head_blocks=1, anchor=AnchorMap.BOUNDED),
)
NO_RESOLUTION = 1e-5
IMPOSSIBLE_NATS = -1e4


class LayersPosterior(CurvePosterior):
    """The network of stacks: the bounds among its scalars say which numbers of layers are possible."""

    def forward(self, channels: Tensor, extra: Tensor, anchors: Anchors) -> DrawDistribution:
        """Condition on (B, C, N) channels, (B, E) scalars and the anchors of the same frames."""
        found = super().forward(channels, extra, anchors)
        possible = extra[:, -len(CLASSES) :] > 0.5
        log_probs = torch.where(possible, found.class_log_probs, IMPOSSIBLE_NATS)
        return found.with_classes(log_probs.log_softmax(1))


class Reflectivity(UnitBox):
    """The modality."""

    name = "reflectivity"
    parameters = PARAMETERS
    classes = CLASSES
    width = max(len(c.free) for c in CLASSES)
    simulation = ReflectometerSimulation()
    background = BackgroundPrior(1e-9, 1e-4)
    noise_columns = 2
    sigma_floor = 0.01
    hopeless_nats = 60.0
    takes_bounds = True
    one_by_one = False
    disagreement = (
        "total reflection ends beyond the critical edge of the densest material that the bounds allow: "
        "angles may be two theta where theta is expected, or the bounds are wrong"
    )
    training: Mapping[str, Any] = MappingProxyType(
        {
            "batch": 256,
            "round_batches": 16,
            "reuse": 1,
            "rounds": 26,
            "noise": 0.2,
            "warmup": 50,
            "average": 0.995,
            "physics_weight": 0.0,
        }
    )

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        self.settings = settings or SETTINGS
        self.axis = torch.linspace(*DEPTHS_ANGSTROM[:2], int(DEPTHS_ANGSTROM[2]))
        axis = Axis("z", self.axis.double().numpy(), "angstrom")
        self.density_info = DensityInfo("rho_e(z)", "e/angstrom^3", (axis,))

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "Reflectivity":
        """Make it from what a card and weights hold."""
        return cls(NetworkSettings(**network) if network else None)

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated curves cover, missing ends included."""
        s = self.simulation
        return {
            "q_min_inv_angstrom": (0.9 * s.q_min[0], 2.5 * s.q_min[1]),
            "q_max_inv_angstrom": (2.0 * s.q_min[0], 1.1 * s.q_max[1]),
            "points": (s.first, 2.0 * s.points[1]),
        }

    def curve(self, draws: Draws, batch: ReflectivityBatch) -> Tensor:
        """(N, Q) share of the beam that each draw reflects, on its frame's points."""
        out = torch.zeros(
            len(draws), batch.points.shape[1], dtype=draws.theta.dtype, device=draws.theta.device
        )
        for k, spec in enumerate(CLASSES):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                frame, theta = draws.frame[chosen], draws.theta[chosen, : len(spec.free)]
                # a draw outside of the prior, which has no probability anyway, counts as one on its edge
                inside = theta.clamp(0.0, 1.0)
                q, dq = batch.points[frame].to(theta), batch.dq[frame].to(theta)
                bounds = (batch.lower[frame], batch.upper[frame])
                nodes = NODES if bool((dq > 0).any()) else 1
                out = out.index_copy(0, chosen, reflected(inside, k, q, dq, bounds, nodes))
        return out

    def simulate(
        self, draws: Draws, generator: torch.Generator
    ) -> tuple[ReflectivityBatch, Mapping[str, Tensor]]:
        """Measure N stacks, with bounds that a user might have set; also the truth of every parameter."""
        n, s = len(draws), self.simulation
        bounds = random_bounds(draws.label, generator)
        q = reflectivity_curves.random_points(s, n, generator)
        dq = reflectivity_curves.random_resolution(s, q, generator)
        nothing = torch.zeros_like(q)
        sharp = ReflectivityBatch(
            q, nothing, nothing, nothing > 1, dq, bounds.lower, bounds.upper, bounds.layers
        )
        found = self.curve(Draws(draws.label, draws.theta, torch.arange(n, device=q.device)), sharp)
        beta, scale = self.background.sample(n, generator), curves.log_uniform(s.scale, n, generator)
        batch = reflectivity_curves.measure(q, dq, found, scale, beta, bounds, s, generator)
        hidden = {"scale": scale, "beta": beta, "lower": bounds.lower, "upper": bounds.upper}
        return batch, self.report(draws, hidden)

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> ReflectivityBatch:
        """Frames to one batch. Raises FrameError or GeometryError for a frame that can't be used."""
        return reflectivity_curves.collate(frames, sigma_floor)

    def usable(self, batch: ReflectivityBatch) -> Tensor:
        """(B,) bool: frames with enough signal that `collate` would take them."""
        return curves.usable(reflectivity_curves.plain(batch))

    def context(self, batch: ReflectivityBatch) -> tuple[Tensor, Tensor]:
        """Channels (B, C, N) even in q, and (B, E) bounds, resolution and possible numbers of layers."""
        grid = self.settings.encoder.grid
        channels = resample_curve(batch.points.exp(), batch.intensity, batch.sigma, batch.mask, grid).channels
        low, high = (edge.to(batch.points) for edge in widest())
        places = torch.cat([(batch.lower - low), (batch.upper - low)], 1) / (high - low).repeat(2)
        usable = (~batch.mask).to(batch.dq)
        mean = (batch.dq * usable).sum(1) / usable.sum(1).clamp_min(1)
        most = (batch.dq * usable).amax(1)
        resolution = (torch.stack([mean, most], 1) + NO_RESOLUTION).log() / 4 + 2
        return channels, torch.cat([places, resolution, batch.layers.to(places)], 1)

    def anchors(self, batch: ReflectivityBatch) -> Anchors:
        """Where fits put the posterior of each frame, for each number of layers."""

        def find(k: int, frames: Tensor) -> Anchor:
            return fit_layers(self.fitted_class(k, batch.points.device), k, batch.at(frames))

        return Anchors(len(batch), find)

    def fitted_class(self, k: int, device: torch.device) -> Target:
        """Stacks of k layers as a fit sees them."""
        return target(k, unit_box(len(CLASSES[k].free), device), self.background)

    def fits_again(self, k: int, drawn: Tensor, batch: ReflectivityBatch, anchor: Anchor) -> LocalFits:
        """Fits that begin at draws, and the anchor; each as probable as the Gaussian around it says."""
        b, width = len(batch), drawn.shape[2]
        own = self.fitted_class(k, batch.points.device)
        places, _ = own.box(drawn.double(), drawn)
        again = fit_again(own, k, batch, places, anchor)
        location = torch.cat([again.location.view(b, -1, width), anchor.location[:, None]], 1)
        factor = torch.cat([again.factor.view(b, -1, width, width), anchor.factor[:, None]], 1)
        return self._weighed(k, location, factor, batch)

    def agreement(self, batch: ReflectivityBatch, anchors: Anchors) -> Tensor:
        """(B,) whether total reflection ends where the bounds allow: 1, 0, or NaN where it is not seen."""
        return edge_agreement(batch)

    def next_step(
        self, batch: ReflectivityBatch, best: Draws, predicted: Tensor, sigma_floor: float
    ) -> list[str]:
        """What to check of each of B curves that no draw explains, the likeliest draw of each given."""
        return next_step(batch, best, predicted, sigma_floor)

    def forward(self, draws: Draws, batch: ReflectivityBatch) -> Tensor:
        """(N, Q) share of the beam that each draw reflects."""
        return self.curve(draws, batch)

    def evaluate(self, draws: Draws, batch: ReflectivityBatch, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model; scale and background by their exact conditional."""
        linear, shape = self._condition(draws, batch)
        scale, beta = linear.draw(noise)
        predicted = (scale[:, None] * (shape + beta[:, None])).to(shape.dtype)
        nuisance = {
            "scale": scale,
            "beta": beta,
            "lower": batch.lower[draws.frame],
            "upper": batch.upper[draws.frame],
        }
        return Evaluated(linear.log_evidence, nuisance, predicted)

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, Z) electron density at each depth below the surface, e/angstrom^3."""
        z = self.axis.to(draws.theta)
        out = draws.theta.new_zeros(len(draws), len(z))
        for k, spec in enumerate(CLASSES):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                bounds = nuisance["lower"][chosen], nuisance["upper"][chosen]
                sample = sample_of(draws.theta[chosen, : len(spec.free)], k, *bounds)
                out[chosen] = bounded_profile(sample.stack, z).to(out.dtype)
        return out

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of every reported parameter; NaN where a class lacks it."""
        missing = torch.full_like(draws.theta[:, 0], torch.nan)
        out = {p.name: missing.clone() for p in PARAMETERS}
        for k, spec in enumerate(CLASSES):
            chosen = (draws.label == k).nonzero()[:, 0]
            if not chosen.numel():
                continue
            bounds = nuisance["lower"][chosen], nuisance["upper"][chosen]
            sample = sample_of(draws.theta[chosen, : len(spec.free)], k, *bounds)
            for place, column in enumerate(columns(k)):
                out[NAMES[column]][chosen] = sample.values[:, place].to(missing.dtype)
            out["total_thickness_angstrom"][chosen] = sample.stack.thickness.sum(1).to(missing.dtype)
        return out | self._linear(nuisance, missing)

    def on_frame(
        self, frame: Frame, draws: Draws, nuisance: Mapping[str, Tensor], prediction: Prediction
    ) -> Prediction:
        """Prediction at the points that the curve has."""
        return cut_to(frame, prediction)

    def features(self, batch: ReflectivityBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties that `ranges` bounds."""
        return curves.features(reflectivity_curves.plain(batch))

    def network(self) -> nn.Module:
        """Untrained encoder, class head and one flow for each number of layers."""
        features = [anchor_features(len(c.free)) for c in CLASSES]
        return LayersPosterior(self.classes, self.settings, features)
