"""Draws of a batch: those of the flow, then polished, tempered, resampled or sifted, as it was asked for."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.core import Origin, ReconstructionSettings, SettingsError
from nfphasing_bluesky.inference.held import hold
from nfphasing_bluesky.inference.importance import ess_fraction, log_weights, resample
from nfphasing_bluesky.inference.polish import polish
from nfphasing_bluesky.inference.possible import keep_possible
from nfphasing_bluesky.inference.seeds import generator_of, normal_of, uniform_of
from nfphasing_bluesky.inference.tempered import likeliest, temper
from nfphasing_bluesky.modalities import (
    Distribution,
    DrawDistribution,
    Draws,
    Evaluated,
    KnowsSamples,
    Modality,
    Proposes,
    UnitBox,
    WalksDraws,
)

WEIGHED = 64
"""Draws whose effective sample size is shown: enough, whatever n_samples is."""


class Drawn(NamedTuple):
    """Draws of a batch, those of one frame together, and what is known of how good they are.

    `best` are the likeliest draw of each frame and (B, ...) what it predicts.
    """

    draws: Draws
    evaluated: Evaluated
    ess: Tensor | None
    acceptance: list[float] | None
    predicted: Tensor
    doubts: list[str]
    best: tuple[Draws, Tensor]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class HowToDraw:
    """Of frames of one modality.

    Args:
        modality: of the frames.
        settings: how frames become posteriors.
        chi2_explains: largest reduced chi-squared of the best draw of a frame that is explained.
        device: of draws.
    """

    modality: Modality
    settings: ReconstructionSettings
    chi2_explains: float
    device: torch.device

    def draw(
        self, batch: Any, distribution: Distribution, origins: Sequence[Origin], s: int, seed: int
    ) -> Drawn:
        """Draw S objects a frame.

        Raises:
            SettingsError: draws are to be polished where log p(theta) is not known.
        """
        normal = self._noise(batch, origins, self._proposals(s), seed)
        width = 1 + self.modality.latents(batch)

        def more(number: int) -> Tensor:
            return normal_of(seed + 4 + number, origins, s, width).to(self.device)

        draws, log_q = distribution.draw(normal[..., :width])
        tail = normal[..., width:].reshape(len(draws), -1)
        evaluated = self.modality.evaluate(draws, batch, tail)
        best = _best(draws, evaluated, len(batch))
        weights = self._weights(draws, evaluated.log_likelihood, log_q, len(batch))
        ess = None if weights is None else ess_fraction(weights[:, :WEIGHED])
        acceptance: list[float] | None = None
        doubts, least = [""] * len(batch), self.settings.resample_ess
        if isinstance(self.modality, WalksDraws):
            generators = [generator_of(seed + 1, origin) for origin in origins]
            steps = self.settings.polish_steps
            draws, acceptance = self.modality.walked(draws, distribution, batch, steps, generators)
            evaluated = self.modality.evaluate(draws, batch, tail)
            best = _best(draws, evaluated, len(batch))
        elif self.settings.polish_steps:
            draws = self._held(distribution, draws, batch, normal[..., :width], more)
            draws, acceptance = self._polish(distribution, draws, batch, s, origins, seed)
            evaluated = self.modality.evaluate(draws, batch, tail)
            best = _best(draws, evaluated, len(batch))
        elif weights is not None and isinstance(distribution, DrawDistribution) and distribution.fits:
            noise = normal[..., :width], tail, uniform_of(seed + 3, origins)
            own = draws, evaluated, weights
            made = temper(self.modality, distribution, batch, own, noise, least, self.chi2_explains, more)
            return Drawn(made.draws, made.evaluated, ess, None, made.predicted, made.doubts, best, made.notes)
        else:
            hopeless = self.modality.hopeless_nats
            sifted = math.isfinite(hopeless)
            if weights is not None:
                u, by_class = uniform_of(seed + 3, origins), len(self.modality.classes) > 1 and not sifted
                draws, evaluated = resample(draws, evaluated, weights, least, u, by_class, s)
            if sifted:
                draws, evaluated, doubts = keep_possible(draws, evaluated, len(batch), hopeless)
        return Drawn(draws, evaluated, ess, acceptance, evaluated.predicted, doubts, best)

    def _proposals(self, s: int) -> int:
        """Draws of the flow for S that are kept."""
        settings = self.settings
        if settings.polish_steps or settings.resample_ess >= 1 or not isinstance(self.modality, Proposes):
            return s
        return s * self.modality.proposals

    def _held(
        self,
        distribution: Distribution,
        draws: Draws,
        batch: Any,
        latent: Tensor,
        more: Callable[[int], Tensor],
    ) -> Draws:
        """Draws within what is known of their samples, where a modality knows of such."""
        modality = self.modality
        if not isinstance(modality, KnowsSamples) or batch.known is None:
            return draws
        assert isinstance(distribution, DrawDistribution)  # noqa: S101  as of all that fit again
        alone = distribution.with_classes(distribution.class_log_probs, {})
        return hold(modality, alone, batch, latent, more)[0]

    def _noise(self, batch: Any, origins: Sequence[Origin], s: int, seed: int) -> Tensor:
        """(B, S, .) standard normals, from the seed and each frame's sequence number, made on the CPU."""
        columns = 1 + self.modality.latents(batch) + self.modality.noise_columns
        rows = [torch.randn(s, columns, generator=generator_of(seed, o)) for o in origins]
        return torch.stack(rows).to(self.device)

    def _polish(
        self, distribution: Any, draws: Draws, batch: Any, s: int, origins: Sequence[Origin], seed: int
    ) -> tuple[Draws, list[float]]:
        if not self.modality.has_log_prior:
            raise SettingsError(
                f"polish_steps={self.settings.polish_steps}, expected 0 for {self.modality.name}: the exact "
                "posterior needs log p(theta), which is not known"
            )
        parts, rates = [], []
        for b, origin in enumerate(origins):

            def log_target(d: Draws) -> Tensor:
                return self.modality.log_likelihood(d, batch) + self.modality.log_prior(d)

            generator = generator_of(seed + 1, origin)
            mine = draws.at(torch.arange(b * s, (b + 1) * s, device=draws.label.device))
            steps, boxed = self.settings.polish_steps, isinstance(self.modality, UnitBox)
            done = polish(mine, distribution.log_prob, log_target, steps, generator, unit_box=boxed)
            parts.append(done.draws)
            rates.append(done.acceptance)
        joined = Draws(*(torch.cat([getattr(p, f) for p in parts]) for f in ("label", "theta", "frame")))
        return joined, rates

    def _weights(self, draws: Draws, log_likelihood: Tensor, log_q: Tensor, frames: int) -> Tensor | None:
        """(B, S) log importance weights; None where log p(theta) is not known."""
        if not self.modality.has_log_prior:
            return None
        return log_weights(log_likelihood, self.modality.log_prior(draws), log_q).view(frames, -1)


def _best(draws: Draws, evaluated: Evaluated, frames: int) -> tuple[Draws, Tensor]:
    rows = likeliest(evaluated, frames)
    return draws.at(rows), evaluated.predicted[rows]
