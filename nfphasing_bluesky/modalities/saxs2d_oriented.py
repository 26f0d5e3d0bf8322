"""`saxs2d-oriented`: dilute cylinders, ellipsoids, parallelepipeds that point one way; u = projection.

The prior is uniform in the box of the free coordinates (`oriented_shapes`); classes are equally probable.
Sizes, angles and their spreads are those of `physics.particles.uniaxial`: sasmodels' Gaussian sizes, theta,
phi and their Gaussian jitter, which is cut off at some number of standard deviations, one more thing to be
found; parallelepipeds spin about their side c (psi is not measured, and reported densities have a random
one). I(q) = s (P(q) + beta) per pixel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import PROJECTED, Axis, DensityInfo, Frame, Prediction
from nfphasing_bluesky.flows import Anchor, Box
from nfphasing_bluesky.modalities.anchors import Target, anchor_features
from nfphasing_bluesky.modalities.batches import gaussian_chi2
from nfphasing_bluesky.modalities.curves import size_factor
from nfphasing_bluesky.modalities.draws import Anchors, Draws, Evaluated
from nfphasing_bluesky.modalities.fits import fit
from nfphasing_bluesky.modalities.linear import BackgroundPrior, ScaleBackground, condition
from nfphasing_bluesky.modalities.oriented import oriented_patterns, polar
from nfphasing_bluesky.modalities.oriented.oriented_library import FittedPatterns, PatternLibrary
from nfphasing_bluesky.modalities.oriented.oriented_network import (
    PHI,
    PatternNetworkSettings,
    PatternPosterior,
    turned_bounds,
)
from nfphasing_bluesky.modalities.oriented.oriented_parameters import PARAMETERS, reported
from nfphasing_bluesky.modalities.oriented.oriented_patterns import PatternBatch
from nfphasing_bluesky.modalities.oriented.oriented_pixels import at_pixels
from nfphasing_bluesky.modalities.oriented.oriented_shapes import (
    AT_ONCE,
    CLASSES,
    PROJECTION,
    harmonics,
    lengths,
    moved_harmonics,
    pattern_rings,
    tilt,
)
from nfphasing_bluesky.modalities.slopes import differences
from nfphasing_bluesky.physics.particles.oriented import Orientation

STARTS, STEPS = 3, 30
EDGE = 5.0
"""Coordinate of a box beyond which single precision no longer tells a place from the box's edge."""
SHOWN = 64
"""Draws whose mean is the prediction at pixels."""
FEW, FITTED = 8, 16
"""Patterns that are simulated and fitted together."""

CHORD = "angstrom"
ELECTRONS = "e/angstrom^2"
HALF_FIELD_ANGSTROM, FIELD_PIXELS = 260.0, 64


_LIBRARIES: dict[int, PatternLibrary] = {}
"""Of all instances: they do not depend on any settings."""


class SaxsOriented:
    """The modality."""

    name = "saxs2d-oriented"
    classes = CLASSES
    parameters = PARAMETERS
    background = BackgroundPrior(1e-6, 0.3)
    neighbours = 0
    symmetry = None
    sigma_floor = 0.01
    hopeless_nats = 40.0
    takes_bounds = False
    noise_columns = 4
    has_log_prior = True
    disagreement = ""
    training: Mapping[str, Any] = MappingProxyType(
        {"batch": 256, "reuse": 8, "round_batches": 24, "warmup": 100, "physics_weight": 0.0}
    )

    def __init__(self, settings: PatternNetworkSettings | None = None) -> None:
        self.settings = settings or PatternNetworkSettings()
        self.axis = torch.linspace(-HALF_FIELD_ANGSTROM, HALF_FIELD_ANGSTROM, FIELD_PIXELS)
        values = self.axis.double().numpy()
        # rows from the top, y up: azimuths turn counter-clockwise in pictures
        axes = (Axis("y", -values, "angstrom"), Axis("x", np.array(values), "angstrom"))
        self.density_info = DensityInfo(PROJECTED, CHORD, axes)
        self._boxes: dict[tuple[int, str], Box] = {}

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "SaxsOriented":
        """Make it from what a card and weights hold."""
        return cls(PatternNetworkSettings(**network))

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated patterns cover."""
        low, high = oriented_patterns.Q_TOP
        return {
            "q_top_inv_angstrom": (0.99 * low, 1.01 * high),
            "points": (0.5 * polar.RINGS * polar.SECTORS, float(polar.RINGS * polar.SECTORS)),
        }

    @property
    def width(self) -> int:
        """D of the padded theta."""
        return max(len(c.free) for c in CLASSES)

    def sample_like(
        self, batch: PatternBatch, n: int, generator: torch.Generator, inner: float = 1.0
    ) -> Draws:
        """Objects of the prior: exposures and q ranges are drawn, and a network knows them all."""
        return self.sample_prior(n, generator, inner)

    def parts(self, batch: PatternBatch, generator: torch.Generator) -> PatternBatch:
        """The patterns as they are."""
        return batch

    def reduced_chi2(self, batch: PatternBatch, predicted: Tensor) -> Tensor:
        """(B,) mean squared residual over sigma, of bins."""
        return gaussian_chi2(batch, predicted)

    def on_frame(
        self, frame: Frame, draws: Draws, nuisance: Mapping[str, Tensor], prediction: Prediction
    ) -> Prediction:
        """Prediction at the frame's pixels, its mean over some of the draws."""
        few = torch.arange(0, len(draws), max(1, len(draws) // SHOWN), device=draws.theta.device)
        some, scale = draws.at(few), nuisance["scale"][few].double()
        qx, qy, q_top = oriented_patterns.pixels(frame)
        found = self._harmonics(some, torch.full_like(scale, q_top)).double()
        turn = (2 * torch.arange(found.shape[2]).to(scale)) * some.theta[:, PHI, None].double()
        both = torch.cat([found * turn.cos()[:, None], found * turn.sin()[:, None]], 2)
        mean = (scale[:, None, None] * both).mean(0).cpu()
        background = float((scale * nuisance["beta"][few]).mean())
        return at_pixels(qx, qy, q_top, mean, background, float(nuisance["axis"][0]), prediction)

    def seen(self, batch: PatternBatch) -> Tensor:
        """(B, H, W) bool: all of the particle."""
        return torch.ones(len(batch), *self.density_info.shape, dtype=torch.bool)

    def latents(self, batch: PatternBatch) -> int:
        """D, whatever the pattern."""
        return self.width

    def fit_prior(self, generator: torch.Generator) -> None:
        """Nothing to do."""

    def _bounds(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) bounds, half a turn for phi, zero where padded."""
        table = torch.zeros(2, len(CLASSES), self.width)
        for k, spec in enumerate(CLASSES):
            for row, values in enumerate(turned_bounds(spec)):
                table[row, k, : len(values)] = torch.tensor(values)
        low, high = table.to(label.device)
        return low[label], high[label]

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Equal shares of the classes (in random order), uniform in each class's box; any phi."""
        device = generator.device
        label = torch.arange(n, device=device) % len(CLASSES)
        label = label[torch.randperm(n, generator=generator, device=device)]
        inside = inner * torch.ones(self.width, device=device)
        inside[PHI] = 1.0
        u = 0.5 + inside * (torch.rand(n, self.width, generator=generator, device=device) - 0.5)
        lower, upper = self._bounds(label)
        return Draws(label, lower + u * (upper - lower), torch.arange(n, device=device))

    def log_prior(self, draws: Draws) -> Tensor:
        """-log K - log volume of the box, phi over half a turn; minus infinity outside."""
        lower, upper = self._bounds(draws.label)
        volume = torch.where(upper > lower, (upper - lower).clamp_min(1e-30).log(), 0.0).sum(-1)
        inside = ((draws.theta >= lower) & (draws.theta <= upper)) | (upper <= lower)
        inside[:, PHI] = draws.theta[:, PHI].isfinite()
        return torch.where(inside.all(-1), -volume - math.log(len(CLASSES)), -torch.inf)

    def simulate(self, draws: Draws, generator: torch.Generator) -> tuple[PatternBatch, Mapping[str, Tensor]]:
        """Measure N objects with a geometry that is slightly wrong; also the truth of every parameter.

        theta is the apparent object, the one that the nominal q implies; see `Saxs1D.simulate`.
        """
        n, device = len(draws), generator.device
        exposure = oriented_patterns.random_exposure(n, generator)
        beta = self.background.sample(n, generator)
        error = oriented_patterns.Q_RELATIVE_ERROR * torch.rand(n, generator=generator, device=device)
        expected = torch.cat(
            [self._at_fine_bins(draws.at(rows), exposure, rows) for rows in torch.arange(n).split(FEW)]
        )
        batch, scale = oriented_patterns.measured(exposure, expected + beta[:, None, None], error, generator)
        factor = size_factor(error, torch.randn(n, generator=generator, device=device))
        hidden = {"scale": scale, "beta": beta, "q_scale": factor, "axis": batch.axis}
        return batch, self.report(draws, hidden)

    def _at_fine_bins(self, draws: Draws, exposure: oriented_patterns.Exposure, rows: Tensor) -> Tensor:
        azimuth, variance, radial = polar.Sectors(*(v[rows] for v in vars(exposure.true).values())).places()
        coefficients = self._harmonics(draws, exposure.q_top[rows], torch.float32)
        waves = polar.waves(azimuth.float(), variance.float(), coefficients.shape[2])
        at_bins = polar.synthesised(coefficients, draws.theta[:, PHI], waves, radial.float())
        return at_bins.double().clamp_min(0.0)

    def _harmonics(self, draws: Draws, q_top: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        count = pattern_rings(q_top.device).legendre.shape[1]
        out = torch.zeros(len(draws), 3 * polar.RINGS, count, dtype=dtype, device=q_top.device)
        for k in range(len(CLASSES)):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                out = out.index_copy(0, chosen, harmonics(k, draws.theta[chosen], q_top[chosen], dtype))
        return out

    def batch_key(self, frame: Frame) -> str:
        """Frames of any size become bins: all share a batch."""
        return ""

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> PatternBatch:
        """Frames to one batch. Raises FrameError or GeometryError for a frame that can't be used."""
        return oriented_patterns.collate(frames, sigma_floor)

    def usable(self, batch: PatternBatch) -> Tensor:
        """(B,) bool: frames with enough signal that `collate` would take them."""
        return oriented_patterns.usable(batch)

    def context(self, batch: PatternBatch) -> tuple[Tensor, Tensor]:
        """Map (B, C, N) around the pattern's axis; the axis and scalars (B, 1 + E)."""
        return oriented_patterns.context(batch)

    def agreement(self, batch: PatternBatch, anchors: Anchors) -> Tensor:
        """(B,) NaN: the chi-squared tells what is no such particle."""
        return batch.intensity.new_full((len(batch),), torch.nan)

    def features(self, batch: PatternBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties that `ranges` bounds."""
        return oriented_patterns.features(batch)

    def network(self) -> nn.Module:
        """Untrained encoder, class head and one flow per class."""
        features = [anchor_features(len(c.free)) for c in CLASSES]
        return PatternPosterior(
            CLASSES,
            self.settings,
            oriented_patterns.MAP,
            oriented_patterns.CHANNELS,
            oriented_patterns.EXTRAS,
            features,
        )

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        """Nothing: the flow begins at the anchors."""

    def settle(self, network: nn.Module, generator: torch.Generator) -> None:
        """Nothing to adjust."""

    def state(self) -> dict[str, Tensor]:
        """Nothing: the prior is analytic."""
        return {}

    def box(self, k: int, device: torch.device | str = "cpu") -> Box:
        """Box of the free parameters of class k, phi from the pattern's axis, float64."""
        key = (k, str(device))
        if key not in self._boxes:
            lower, upper = turned_bounds(CLASSES[k])
            self._boxes[key] = Box(torch.tensor(lower), torch.tensor(upper)).to(device, torch.float64)
        return self._boxes[key]

    def anchors(self, batch: PatternBatch) -> Anchors:
        """Where a fit of each class puts the posterior of each frame, found when asked for."""

        def find(k: int, frames: Tensor) -> Anchor:
            device = batch.intensity.device
            if k not in _LIBRARIES:
                _LIBRARIES[k] = PatternLibrary(k, self.box(k), self.background.moments())
            parts = []
            for rows in frames.split(FITTED):
                fitted = FittedPatterns.of(batch.at(rows), pattern_rings(device).legendre.shape[1])
                parts.append(fit(self._target(k, fitted, device), _LIBRARIES[k], fitted))
            location, factor, features = (
                torch.cat([getattr(p, f) for p in parts]) for f in ("location", "factor", "features")
            )
            reach = EDGE - 2 * factor.diagonal(dim1=1, dim2=2)
            return Anchor(location.clamp(-reach, reach), factor, features)

        return Anchors(len(batch), find)

    def _target(self, k: int, fitted: FittedPatterns, device: torch.device) -> Target:
        box = self.box(k, device)

        def curve(theta: Tensor, q: Tensor) -> Tensor:
            coefficients = harmonics(k, theta, fitted.source.q_top[q], torch.float32)
            return fitted.patterns(coefficients, theta[:, PHI], q)

        def curves(moved: Tensor, q: Tensor) -> Tensor:
            each = moved.shape[1]
            coefficients = moved_harmonics(k, moved, fitted.source.q_top[q])
            phi = moved[..., PHI].flatten()
            return fitted.patterns(coefficients, phi, q.repeat_interleave(each)).unflatten(0, (-1, each))

        def slopes(theta: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
            return differences(curves, box, theta, q)

        return Target(box, curve, slopes, self.background.moments(), STARTS, STEPS)

    def forward(self, draws: Draws, batch: PatternBatch) -> Tensor:
        """(N, R, A) P(q) of each draw at its frame's bins, in the precision of theta."""
        dtype = draws.theta.dtype
        coefficients = self._harmonics(draws, batch.q_top[draws.frame], dtype)
        phi = draws.theta[:, PHI] - batch.axis.to(draws.theta)[draws.frame]
        frames, each = _grouped(draws.frame)
        parts = []
        step = max(1, AT_ONCE // each)
        for some in torch.arange(len(frames), device=frames.device).split(step):
            rows = slice(int(some[0]) * each, (int(some[-1]) + 1) * each)
            part = batch.at(frames[some])
            waves, radial = part.waves(coefficients.shape[2], dtype), part.radial.to(dtype)
            parts.append(polar.synthesised(coefficients[rows], phi[rows], waves, radial))
        return torch.cat(parts)

    def log_likelihood(self, draws: Draws, batch: PatternBatch) -> Tensor:
        """(N,) log p(I | theta), scale and background integrated out; differentiable in theta."""
        return self._condition(draws, batch)[0].log_evidence

    def _condition(self, draws: Draws, batch: PatternBatch) -> tuple[ScaleBackground, Tensor]:
        shape = self.forward(draws, batch)
        frames, _ = _grouped(draws.frame)
        intensity, weight = batch.intensity[frames].flatten(1), batch.root_weight[frames].square().flatten(1)
        return condition(shape.flatten(1), intensity, weight, self.background), shape

    def evaluate(self, draws: Draws, batch: PatternBatch, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model; scale and background by their exact conditional."""
        linear, shape = self._condition(draws, batch)
        scale, beta = linear.draw(noise)
        empty = torch.zeros_like(scale)
        normal, turn = (empty, empty) if noise is None else noise[:, 2:].to(scale).unbind(1)
        factor = size_factor(batch.q_relative_error[draws.frame].to(scale), normal)
        contrast = batch.contrast[draws.frame]
        nuisance = {
            "scale": scale,
            "beta": beta,
            "q_scale": factor,
            "axis": batch.axis[draws.frame],
            "psi": math.pi * torch.special.ndtr(turn),
            "contrast": torch.where(contrast.isfinite(), contrast, 1.0),
        }
        predicted = (scale[:, None, None] * (shape + beta[:, None, None])).to(batch.intensity.dtype)
        return Evaluated(linear.log_evidence, nuisance, predicted)

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, Y, X) projection of a particle of mean size and orientation, in the units of `density_of`."""
        axis = self.axis.to(draws.theta)
        y, x = torch.meshgrid(-axis, axis, indexing="ij")
        out = draws.theta.new_zeros(len(draws), *y.shape)
        for k, project in enumerate(PROJECTION):
            chosen = (draws.label == k).nonzero()[:, 0]
            if chosen.numel():
                t = draws.theta[chosen]
                view = Orientation(math.pi / 2 - tilt(k, t), t[:, PHI], nuisance["psi"][chosen])
                stretch = nuisance["q_scale"][chosen].to(t)
                out[chosen] = project(x, y, *(size * stretch for size in lengths(k, t)), view)
        return out * nuisance["contrast"].to(out)[:, None, None]

    def density_of(self, batch: PatternBatch, index: int) -> DensityInfo:
        """Electrons per square angstrom when the contrast is known, else the length of the beam's path."""
        known = bool(batch.contrast[index].isfinite())
        return replace(self.density_info, units=ELECTRONS) if known else self.density_info

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of every reported parameter; NaN where a class lacks it. phi is within 90 of the axis."""
        return reported(draws, nuisance)


def _grouped(frame: Tensor) -> tuple[Tensor, int]:
    """Frames of groups of draws that follow each other, and the draws in each."""
    frames, counts = frame.unique_consecutive(return_counts=True)
    if len(counts) and bool((counts == counts[0]).all()):
        return frames, int(counts[0])
    return frame, 1
