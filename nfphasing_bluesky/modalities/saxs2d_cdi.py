"""`saxs2d-cdi`: coherent patterns |FFT u|^2 of compact objects; u = their real, non-negative density.

Small-angle contrast is real and of one sign, so u lies between 0 and 1, in units of the largest density; no
phase is free then. The prior is that of `compact_prior`, whose density is known. What no intensity can tell,
the inversion twin and the shift within the grid, and on small grids the other solutions, are answers side by
side: see `solutions`. `Posterior.modes()` shows them, after shifts are taken away. I = s (|FFT u|^2 + beta):
where a frame does not say its scale s, both s and a flat background are integrated out, and drawn for each
draw of u from what the frame and u say of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import PROJECTED, Axis, DensityInfo, Frame, Parameter, Prediction, Symmetry
from nfphasing_bluesky.modalities.batches import gaussian_chi2
from nfphasing_bluesky.modalities.coherent import coherent_frames
from nfphasing_bluesky.modalities.coherent.coherent_frames import CoherentBatch
from nfphasing_bluesky.modalities.coherent.coherent_levels import levels
from nfphasing_bluesky.modalities.coherent.compact_prior import LEAST, compact_prior
from nfphasing_bluesky.modalities.coherent.half_pattern import half_pattern
from nfphasing_bluesky.modalities.coherent.object_walk import TRAJECTORIES, ExactPosterior, walked
from nfphasing_bluesky.modalities.coherent.solutions import LOG_WEIGHT, MISSING, Search, solutions
from nfphasing_bluesky.modalities.coherent.solutions_network import (
    SolutionsDistribution,
    SolutionsPosterior,
    SolutionsSettings,
)
from nfphasing_bluesky.modalities.draws import Anchors, ClassSpec, Draws, Evaluated
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.physics.coherent import coherent_pattern, pattern_shape

PARAMETERS = (
    Parameter("total_density", "px", "sum of the density over the pixels"),
    Parameter("extent_px", "px", "root mean square distance of the density from its centre"),
    Parameter("scale", "", "intensity of a pixel over |FFT u|^2, in the frame's units"),
    Parameter("background", "", "flat background, in the frame's units"),
)
BACKGROUND = (1e-4, 0.1)
"""Bounds of the background over the mean of a typical pattern."""
SEED = 1
INCOMPLETE = (
    "objects that explain the pattern as well may be missing: another fit finds one with a probability of "
    "{:.2g}; search longer (`search` of the settings)"
)
TYPICAL = 256
PIXELS_AT_ONCE = 2**21


class SaxsCoherent:
    """The modality."""

    name = "saxs2d-cdi"
    parameters = PARAMETERS
    symmetry = Symmetry(shift="bounded", references=64)
    neighbours = 0
    sigma_floor = 0.0
    hopeless_nats = math.inf
    takes_bounds = False
    noise_columns = 2
    has_log_prior = True
    disagreement = ""
    training: Mapping[str, Any] = MappingProxyType(
        {"batch": 32, "reuse": 8, "round_batches": 4, "warmup": 50, "physics_weight": 0.0}
    )

    def __init__(self, settings: SolutionsSettings | None = None, patience: float = 1.0) -> None:
        self.settings, self._patience = settings or SolutionsSettings(), patience
        s = self.settings
        self.prior = compact_prior(s.shape, s.correlation_px, s.contrast, s.reach)
        names = tuple(f"pixel_{k}" for k in range(self.width))
        self.classes = (ClassSpec("object", names, (0.0,) * self.width, (1.0,) * self.width),)
        self.density_info = self._info((torch.nan, torch.nan))
        objects = self._objects(self.sample_prior(TYPICAL, torch.Generator().manual_seed(0)).theta)
        self._typical = float(coherent_pattern(objects).mean((1, 2)).median())
        self.background = BackgroundPrior(*(self._typical * bound for bound in BACKGROUND))

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "SaxsCoherent":
        """Make it from what a card and weights hold."""
        return cls(SolutionsSettings(**network) if network else None)

    @property
    def width(self) -> int:
        """D: pixels of the object."""
        return self.settings.shape[0] * self.settings.shape[1]

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated patterns cover."""
        return {"signal_to_noise": (2.0, 300.0), "masked_share": (0.0, 0.12)}

    def latents(self, batch: CoherentBatch) -> int:
        """D, whatever the frame."""
        return self.width

    def fit_prior(self, generator: torch.Generator) -> None:
        """Nothing to do."""

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Theta uniform in the unit box."""
        device = generator.device
        u = torch.rand(n, self.width, generator=generator, device=device)
        label = torch.zeros(n, dtype=torch.long, device=device)
        return Draws(label, 0.5 + inner * (u - 0.5), torch.arange(n, device=device))

    def sample_like(
        self, batch: CoherentBatch, n: int, generator: torch.Generator, inner: float = 1.0
    ) -> Draws:
        """Objects of the prior: doses are drawn, and a network knows them all."""
        return self.sample_prior(n, generator, inner)

    def parts(self, batch: CoherentBatch, generator: torch.Generator) -> CoherentBatch:
        """The patterns as they are."""
        return batch

    def log_prior(self, draws: Draws) -> Tensor:
        """(N,) 0 in the unit box, minus infinity outside."""
        inside = ((draws.theta >= 0) & (draws.theta <= 1)).all(1)
        return torch.where(inside, 0.0, -torch.inf).to(draws.theta)

    def simulate(
        self, draws: Draws, generator: torch.Generator
    ) -> tuple[CoherentBatch, Mapping[str, Tensor]]:
        """Measure N objects at random doses; also the truth of every parameter."""
        beta = self.background.sample(len(draws), generator).double()
        expected = coherent_pattern(self._objects(draws.theta)) + beta[:, None, None]
        size = pattern_shape(self.settings.shape)
        batch, scale = coherent_frames.measured(expected, size, self._typical, generator)
        return batch, self.report(draws, {"scale": scale, "beta": beta})

    def batch_key(self, frame: Frame) -> str:
        """Patterns are cut to one size: all share a batch."""
        return ""

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> CoherentBatch:
        """Frames to one batch. Raises FrameError or GeometryError for one that can't be used."""
        batch = coherent_frames.collate(frames, self.settings.shape, self._typical)
        sigma = (batch.sigma.square() + (sigma_floor * batch.intensity).square()).sqrt()
        return replace(batch, sigma=sigma)

    def usable(self, batch: CoherentBatch) -> Tensor:
        """(B,) bool: patterns with enough signal that `collate` would take them."""
        return coherent_frames.usable(batch)

    def context(self, batch: CoherentBatch) -> tuple[Tensor, Tensor]:
        """Channels (B, C, N) and scalars (B, E)."""
        return coherent_frames.context(batch)

    def anchors(self, batch: CoherentBatch) -> Anchors:
        """Components about the solutions of each frame, the heaviest first.

        Those that a frame has less than another repeat its first one with a log weight of minus infinity.
        """
        s = self.settings
        search = Search(s.starts, s.steps, s.slots, patience=self._patience)
        moments = self.background.moments()
        each = [
            solutions(
                half_pattern(batch, i, self.prior, moments), search, torch.Generator().manual_seed(SEED)
            )
            for i in range(len(batch))
        ]
        found, device = Anchors(len(batch)), batch.intensity.device
        for k in range(max(len(anchor.location) for anchor in each)):
            for i, anchor in enumerate(each):
                there = k < len(anchor.location)
                own = anchor.at(torch.tensor([k if there else 0], device=device))
                if not there:
                    own.features[:, LOG_WEIGHT] = -torch.inf
                found.put(k, torch.tensor([i], device=device), own)
        return found

    def searching(self, times: float) -> "SaxsCoherent":
        """Return the same with fits that may look for objects so many times as long."""
        return SaxsCoherent(self.settings, times)

    def incomplete(self, batch: CoherentBatch, anchors: Anchors) -> list[str]:
        """Why objects may be missing among the anchors of each frame; empty where all were found twice."""
        features = anchors.get(0, torch.arange(len(batch), device=batch.intensity.device)).features
        return [INCOMPLETE.format(p) if p > 0 else "" for p in features[:, MISSING].tolist()]

    def walked(
        self,
        draws: Draws,
        distribution: SolutionsDistribution,
        batch: CoherentBatch,
        steps: int,
        generators: Sequence[torch.Generator],
    ) -> tuple[Draws, list[float]]:
        """Draws under the exact posterior of each frame's answers, and acceptance rates; `steps` more."""
        own = distribution.made_from(draws)
        z = self.prior.latent(draws.theta.double())
        location, factor = (
            torch.stack([getattr(a, name) for a in distribution.anchors], 1).double()
            for name in ("location", "factor")
        )
        moved, rates, moments = [], [], self.background.moments()
        for i, rows in enumerate(torch.arange(len(draws), device=z.device).chunk(len(batch))):
            exact = ExactPosterior(half_pattern(batch, i, self.prior, moments), self.background)
            place, rate = walked(
                exact, z[rows], location[i], factor[i], own[rows], TRAJECTORIES + steps, generators[i]
            )
            moved.append(place)
            rates.append(rate)
        theta = torch.special.ndtr(torch.cat(moved)).to(draws.theta).clamp(LEAST, 1 - LEAST)
        there = replace(draws, theta=theta)
        # where answers overlap draws go from one to another
        label = distribution.answers[draws.frame].gather(1, distribution.made_from(there)[:, None])[:, 0]
        return replace(there, label=label), rates

    def agreement(self, batch: CoherentBatch, anchors: Anchors) -> Tensor:
        """(B,) NaN: the chi-squared tells what is no such object."""
        return batch.intensity.new_full((len(batch),), torch.nan)

    def reduced_chi2(self, batch: CoherentBatch, predicted: Tensor) -> Tensor:
        """(B,) mean squared residual over sigma."""
        return gaussian_chi2(batch, predicted)

    def _objects(self, theta: Tensor) -> Tensor:
        return self.prior.density(self.prior.latent(theta.double())).unflatten(1, self.settings.shape)

    def forward(self, draws: Draws, batch: CoherentBatch) -> Tensor:
        """(N, H, W) |FFT u|^2, of unit scale and no background; differentiable in theta."""
        return coherent_pattern(self._objects(draws.theta))

    def on_frame(
        self, frame: Frame, draws: Draws, nuisance: Mapping[str, Tensor], prediction: Prediction
    ) -> Prediction:
        """Prediction at the frame's pixels; NaN at those that are not looked at."""
        parts = []
        for values in (prediction.mean, prediction.lower, prediction.upper):
            whole = np.full(frame.intensity.shape, np.nan)
            whole[coherent_frames.window(frame, self.settings.shape)] = values
            parts.append(whole)
        return Prediction(*parts)

    def log_likelihood(self, draws: Draws, batch: CoherentBatch) -> Tensor:
        """(N,) log p(I | theta), scale and background integrated out; differentiable in theta."""
        return levels(self.forward(draws, batch), draws, batch, self.background).log_likelihood

    def evaluate(self, draws: Draws, batch: CoherentBatch, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model, each with a draw of its scale and background."""
        rows = torch.arange(len(draws), device=draws.theta.device)
        size = max(1, PIXELS_AT_ONCE // batch.intensity[0].numel())
        shape = torch.cat([self.forward(draws.at(some), batch) for some in rows.split(size)])
        given = levels(shape, draws, batch, self.background)
        nuisance = given.draw(noise)
        scale, beta = (nuisance[name][:, None, None] for name in ("scale", "beta"))
        return Evaluated(given.log_likelihood, nuisance, scale * (shape + beta))

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, h, w) u, from 0 to 1."""
        return self._objects(draws.theta).to(draws.theta)

    def _info(self, pixel_m: tuple[float, float]) -> DensityInfo:
        axes = []
        for name, n, pixel in zip("yx", self.settings.shape, pixel_m, strict=True):
            known = bool(np.isfinite(pixel))
            axes.append(Axis(name, np.arange(n) * (pixel if known else 1.0), "m" if known else "px"))
        return DensityInfo(PROJECTED, "relative to its upper bound", tuple(axes))

    def density_of(self, batch: CoherentBatch, index: int) -> DensityInfo:
        """`density_info` with the pixel of one frame."""
        row, column = batch.pixel_m[index].tolist()
        return self._info((row, column))

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum of the density, and radius of gyration in the plane, pixels; scale and background."""
        u = self._objects(draws.theta)
        total = u.sum((1, 2))
        y, x = (torch.arange(n, device=u.device).to(u) for n in self.settings.shape)
        share = u / total.clamp_min(1e-12)[:, None, None]
        variance = sum(
            (share.sum(other) * place.square()).sum(1) - (share.sum(other) * place).sum(1).square()
            for place, other in ((y, 2), (x, 1))
        )
        extent = torch.as_tensor(variance).clamp_min(0).sqrt()
        scale, beta = nuisance["scale"], nuisance["beta"]
        values = (total, extent, scale, scale * beta)
        return {p.name: value.to(draws.theta) for p, value in zip(PARAMETERS, values, strict=True)}

    def seen(self, batch: CoherentBatch) -> Tensor:
        """(B, h, w) bool: all of the object."""
        return torch.ones(len(batch), *self.settings.shape, dtype=torch.bool)

    def features(self, batch: CoherentBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties that `ranges` bounds."""
        return {
            "signal_to_noise": coherent_frames.signal_to_noise(batch),
            "masked_share": batch.mask.double().mean((1, 2)),
        }

    def network(self) -> nn.Module:
        """Untrained encoder and flow: a mixture of Gaussians at the solutions, which training refines."""
        return SolutionsPosterior(self.settings)

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        """Nothing: the flow begins at the anchors."""

    def settle(self, network: nn.Module, generator: torch.Generator) -> None:
        """Nothing to adjust."""

    def state(self) -> dict[str, Tensor]:
        """Nothing: the prior is analytic."""
        return {}
