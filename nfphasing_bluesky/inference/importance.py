"""Importance weights of flow draws under the exact posterior, and what they say."""

import torch
from torch import Tensor

from nfphasing_bluesky.modalities import Draws
from nfphasing_bluesky.modalities.base import Evaluated


def log_weights(log_likelihood: Tensor, log_prior: Tensor, log_q: Tensor) -> Tensor:
    """Log w = log p(I|u) + log p(u) - log q(u|I), any shape; draws outside the prior get -inf."""
    weights = log_likelihood.double() + log_prior.double() - log_q.double()
    return torch.where(torch.isfinite(weights), weights, -torch.inf)


def ess_fraction(log_w: Tensor) -> Tensor:
    """Effective sample size over S, (B,) of (B, S) log weights (Kish); 0 when no draw has any weight."""
    finite = torch.isfinite(log_w).any(-1)
    shifted = log_w - torch.where(finite, log_w.amax(-1), 0.0)[:, None]
    w = shifted.exp()
    ess = w.sum(-1) ** 2 / (w**2).sum(-1).clamp_min(1e-300) / log_w.shape[-1]
    return torch.where(finite, ess, 0.0)


def systematic_resample(log_w: Tensor, u: float) -> Tensor:
    """(S,) indices drawn in proportion to (S,) weights, from one uniform number in [0, 1)."""
    w = (log_w - log_w.max()).exp()
    cdf = (w / w.sum()).cumsum(0)
    places = (torch.arange(len(w), dtype=cdf.dtype, device=cdf.device) + u) / len(w)
    return torch.searchsorted(cdf, places).clamp_max(len(w) - 1)


def resample(
    draws: Draws, evaluated: Evaluated, log_w: Tensor, least: float, u: Tensor
) -> tuple[Draws, Evaluated]:
    """Draws in proportion to their weights, in frames whose weights say enough; the others as they are.

    A flow is a little too wide wherever the data fix a combination of its coordinates, such as I(0) of large
    particles. Weights of a large effective sample size put that right. Those of a small one would pick the
    luckiest of the draws instead: there the flow knows better.

    Args:
        draws: equally many of each of B frames, those of one together.
        evaluated: of the draws.
        log_w: (B, S) log weights.
        least: effective sample size over S from which weights are used.
        u: (B,) uniform numbers in [0, 1).
    """
    good = (ess_fraction(log_w) >= least).nonzero()[:, 0]
    if not good.numel():
        return draws, evaluated
    s = log_w.shape[1]
    rows = torch.arange(log_w.numel(), device=log_w.device).view_as(log_w).clone()
    for b in good.tolist():
        rows[b] = b * s + systematic_resample(log_w[b], float(u[b]))
    return draws.at(rows.flatten()), evaluated.at(rows.flatten())
