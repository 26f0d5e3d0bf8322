"""Importance weights of flow draws under the exact posterior, and what they say."""

import math

import torch
from torch import Tensor

from nfphasing_bluesky.modalities import Draws
from nfphasing_bluesky.modalities.draws import Evaluated

FEWEST_EFFECTIVE = 50.0
"""Effective draws of a class from which it is resampled: fewer make 95 % intervals too narrow."""


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


def systematic_resample(log_w: Tensor, u: Tensor, count: int | None = None) -> Tensor:
    """(B, count) indices drawn in proportion to (B, N) weights, from one uniform number (B,) in [0, 1) each.

    As many as there are weights where `count` is left out.
    """
    count = count or log_w.shape[1]
    top = log_w.amax(1, keepdim=True)
    cdf = (log_w - torch.where(torch.isfinite(top), top, 0.0)).exp().cumsum(1)
    rank = torch.arange(count, dtype=cdf.dtype, device=cdf.device)
    places = (rank + u.to(cdf)[:, None]) / count * cdf[:, -1:]
    return torch.searchsorted(cdf, places).clamp_max(log_w.shape[1] - 1)


def resample(
    draws: Draws,
    evaluated: Evaluated,
    log_w: Tensor,
    least: float,
    u: Tensor,
    by_class: bool = False,
    count: int | None = None,
) -> tuple[Draws, Evaluated]:
    """Draws in proportion to their weights, in frames whose weights say enough; the others as they are.

    A flow is a little too wide wherever the data fix a combination of its coordinates, such as I(0) of large
    particles. Weights of a large effective sample size put that right. Those of a small one would pick the
    luckiest of the draws instead: there the flow knows better. Where it is small because the flow of one
    class is poor, the draws of another may be good: those are resampled among themselves, which leaves the
    shares of the classes as they are.

    Args:
        draws: N of each of B frames, those of one together.
        evaluated: of the draws.
        log_w: (B, N) log weights.
        least: effective sample size over N from which weights are used; 1 for never.
        u: (B,) uniform numbers in [0, 1).
        by_class: whether draws of one class are resampled where those of a frame are not, if they are worth
            `FEWEST_EFFECTIVE`.
        count: draws of each frame that are kept, N when left out. Fewer than N repeat less, and their
            intervals are less narrow than those of few draws that are.
    """
    b, n = log_w.shape
    count = count or n
    if least >= 1 and count == n:
        return draws, evaluated
    shares = _shares(draws.label.view(b, n), log_w, least, by_class)
    chosen = systematic_resample(shares, u, count)
    rows = (chosen + n * torch.arange(b, device=chosen.device)[:, None]).flatten()
    return draws.at(rows), evaluated.at(rows)


def _shares(label: Tensor, log_w: Tensor, least: float, by_class: bool) -> Tensor:
    """(B, N) log shares of the draws: in proportion to their weights where these say enough, else even."""
    n = log_w.shape[1]
    whole = ess_fraction(log_w) >= least if least < 1 else torch.zeros_like(log_w[:, 0], dtype=torch.bool)
    shares = torch.where(whole[:, None], log_w - log_w.logsumexp(1, keepdim=True), -math.log(n))
    for k in label.unique().tolist() if by_class and not whole.all() else ():
        member = (label == k) & ~whole[:, None]
        own = torch.where(member, log_w, -torch.inf)
        worth = n * ess_fraction(own) >= FEWEST_EFFECTIVE
        among = member.sum(1).clamp_min(1).to(log_w).log()[:, None] - math.log(n)
        shares = torch.where(member & worth[:, None], own - own.logsumexp(1, keepdim=True) + among, shares)
    return shares
