"""Draws on the way from the flow to the posterior, as far as their weights carry.

With weights w = p / q the draws, resampled in proportion to w^b, are of q^(1-b) p^b: those of q for b = 0,
those of the posterior for b = 1. Where few of the draws have nearly all of the weight, b = 1 would show the
luckiest of them, as narrow as if it were the only one possible; so b ends where a share of the draws still
counts.

Where no draw explains the frame, the weights tell which of them is the least wrong, not what is right: there
the flow stays as it is, which has learnt what to expect where fits fail. And where b stays below 1, a part of
the draws remains the flow's all the same, for the minimum that neither fits nor draws have found.

Where b stays below 1 the fit that is looked at leaves these out, and the quarter of the others that explains
the frame least: a mean of curves is else that of the few that are hundreds of times too high.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.flows import GOLDEN
from nfphasing_bluesky.inference.held import hold
from nfphasing_bluesky.inference.importance import ess_fraction, systematic_resample
from nfphasing_bluesky.modalities import DrawDistribution, Draws, KnowsSamples, Modality
from nfphasing_bluesky.modalities.draws import Evaluated

OF_THE_FLOW = 0.25
OF_THE_FIT = 0.75
HALVINGS = 30
NOT_EXPLAINED = "no draw explains the frame: these are what the network expects where fits fail"


@dataclass(frozen=True)
class Tempered:
    """Draws of B frames, S of each.

    Args:
        draws: those of one frame together.
        evaluated: of the draws.
        predicted: (B * S, ...) of draws without those that stay the flow's and the worst quarter of the
            others: the fit to be looked at.
        doubts: what is wrong with each frame, in words; empty where nothing is.
        notes: what is to be said of each frame that is no doubt.
    """

    draws: Draws
    evaluated: Evaluated
    predicted: Tensor
    doubts: list[str]
    notes: list[str]


def power_of(log_w: Tensor, least: float) -> Tensor:
    """(B,) largest b in 0..1 at which weights w^b of (B, S) have an effective sample size of `least` S."""
    low, high = torch.zeros_like(log_w[:, 0]), torch.ones_like(log_w[:, 0])
    whole = ess_fraction(log_w) >= least
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        enough = ess_fraction(_to_the(middle, log_w)) >= least
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(whole, 1.0, low)


def _to_the(power: Tensor, log_w: Tensor) -> Tensor:
    """Log of w^b, where a weight of nothing stays nothing."""
    return torch.where(torch.isneginf(log_w), log_w, power[:, None] * log_w)


def temper(
    modality: Modality,
    distribution: DrawDistribution,
    batch: Any,
    drawn: tuple[Draws, Evaluated, Tensor],
    noise: tuple[Tensor, Tensor, Tensor],
    least: float,
    chi2_explains: float,
    more: Callable[[int], Tensor] | None = None,
) -> Tempered:
    """Temper the draws of B frames.

    Args:
        modality: of the frames.
        distribution: that they were drawn from.
        batch: B frames.
        drawn: S draws of each, what they say, and their (B, S) log weights.
        noise: standard normals (B, S, .) of draws and (B * S, .) of `evaluate`, uniform numbers (B,).
        least: effective sample size, over S, that the weights keep.
        chi2_explains: largest reduced chi-squared of the best draw of a frame that is explained.
        more: number of a round, from 1, to more standard normals (B, S, .) of draws, where there are any.
    """
    draws, evaluated, log_w = drawn
    latent, tail, u = noise
    b, s = log_w.shape
    explained = _best_chi2(modality, batch, evaluated, b) <= chi2_explains
    explained &= torch.isfinite(log_w).any(1)
    power = torch.where(explained, power_of(log_w, least), 0.0)
    # rows of the draws, then of the flow's own
    rows = torch.arange(b * s, 2 * b * s, device=log_w.device).view(b, s).clone()
    fitted = rows.clone()
    of = explained.nonzero()[:, 0]
    weight, u = _to_the(power, log_w)[of], u.to(log_w.device)[of]
    chosen, partly = systematic_resample(weight, u), (power[of] < 1)[:, None]
    flows_own = (GOLDEN * torch.arange(s, device=log_w.device)).frac() < OF_THE_FLOW
    rows[of] = torch.where(flows_own & partly, rows[of], of[:, None] * s + chosen)
    level = evaluated.log_likelihood.view(b, s)[of]
    bad = level < level.gather(1, chosen).sort(1).values[:, int((1 - OF_THE_FIT) * s), None]
    fitted[of] = of[:, None] * s + systematic_resample(weight.masked_fill(bad & partly, -torch.inf), u)
    flows, notes = distribution.without_fits(), [""] * b
    if isinstance(modality, KnowsSamples) and batch.known is not None:
        own, notes = hold(modality, flows, batch, latent, more)
    else:
        own, _ = flows.draw(latent)
    both = _joined(draws, own), _joined_values(evaluated, modality.evaluate(own, batch, tail))
    doubts = ["" if good else NOT_EXPLAINED for good in explained.tolist()]
    kept = rows.flatten()
    return Tempered(both[0].at(kept), both[1].at(kept), both[1].predicted[fitted.flatten()], doubts, notes)


def likeliest(evaluated: Evaluated, frames: int) -> Tensor:
    """(B,) places of the likeliest draw of each frame among those of all."""
    level = evaluated.log_likelihood.view(frames, -1).nan_to_num(-torch.inf)
    return level.argmax(1) + level.shape[1] * torch.arange(frames, device=level.device)


def _best_chi2(modality: Modality, batch: Any, evaluated: Evaluated, frames: int) -> Tensor:
    """(B,) reduced chi-squared of the likeliest draw of each frame."""
    return modality.reduced_chi2(batch, evaluated.predicted[likeliest(evaluated, frames)])


def _joined(one: Draws, other: Draws) -> Draws:
    return Draws(*(torch.cat([getattr(one, f), getattr(other, f)]) for f in ("label", "theta", "frame")))


def _joined_values(one: Evaluated, other: Evaluated) -> Evaluated:
    nuisance = {name: torch.cat([value, other.nuisance[name]]) for name, value in one.nuisance.items()}
    likelihood = torch.cat([one.log_likelihood, other.log_likelihood])
    return Evaluated(likelihood, nuisance, torch.cat([one.predicted, other.predicted]))
