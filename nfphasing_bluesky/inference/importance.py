"""Importance weights of flow draws under the exact posterior, and what they say."""

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


def systematic_resample(log_w: Tensor, u: Tensor, member: Tensor | None = None) -> Tensor:
    """(B, S) indices drawn in proportion to (B, S) weights, from one uniform number (B,) in [0, 1) each.

    With `member`, bool (B, S), as many as there are members are drawn of these, and put in their places.
    """
    own = log_w if member is None else torch.where(member, log_w, -torch.inf)
    top = own.amax(1, keepdim=True)
    cdf = (own - torch.where(torch.isfinite(top), top, 0.0)).exp().cumsum(1)
    s = own.shape[1]
    if member is None:
        rank, count = torch.arange(s, dtype=cdf.dtype, device=cdf.device), cdf.new_full((len(cdf), 1), s)
    else:
        rank, count = (member.cumsum(1) - 1).to(cdf), member.sum(1, keepdim=True).clamp_min(1).to(cdf)
    places = (rank + u.to(cdf)[:, None]) / count * cdf[:, -1:]
    return torch.searchsorted(cdf, places).clamp_max(s - 1)


def resample(
    draws: Draws, evaluated: Evaluated, log_w: Tensor, least: float, u: Tensor, by_class: bool = False
) -> tuple[Draws, Evaluated]:
    """Draws in proportion to their weights, in frames whose weights say enough; the others as they are.

    A flow is a little too wide wherever the data fix a combination of its coordinates, such as I(0) of large
    particles. Weights of a large effective sample size put that right. Those of a small one would pick the
    luckiest of the draws instead: there the flow knows better. Where it is small because the flow of one
    class is poor, the draws of another may be good: those are resampled among themselves, which leaves the
    shares of the classes as they are.

    Args:
        draws: equally many of each of B frames, those of one together.
        evaluated: of the draws.
        log_w: (B, S) log weights.
        least: effective sample size over S from which weights are used; 1 for never.
        u: (B,) uniform numbers in [0, 1).
        by_class: whether draws of one class are resampled where those of a frame are not, if they are worth
            `FEWEST_EFFECTIVE`.
    """
    if least >= 1:
        return draws, evaluated
    b, s = log_w.shape
    whole = ess_fraction(log_w) >= least
    place = torch.arange(s, device=log_w.device).expand(b, s)
    chosen = torch.where(whole[:, None], systematic_resample(log_w, u), place)
    label = draws.label.view(b, s)
    for k in label.unique().tolist() if by_class and not whole.all() else ():
        member = (label == k) & ~whole[:, None]
        worth = s * ess_fraction(torch.where(member, log_w, -torch.inf)) >= FEWEST_EFFECTIVE
        member = member & worth[:, None]
        chosen = torch.where(member, systematic_resample(log_w, u, member), chosen)
    rows = (chosen + s * torch.arange(b, device=chosen.device)[:, None]).flatten()
    return draws.at(rows), evaluated.at(rows)
