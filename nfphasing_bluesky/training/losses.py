"""The two terms of the loss: data negative log-likelihood, and physics.

L = E_sim[-log q(u|I)] + lambda E_I E_{u~q}[log q(u|I) - log p(I|A(u)) - log p(u)]

The second term needs no label: it pulls the draws for any measured I to where the forward model explains
I, and its first part keeps the draws from collapsing to one point. On its own it would seek one mode,
so the first term always stays. Where log p(u) is not known, it is left out, and the first term alone holds
the draws to the prior.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.modalities import Distribution, Draws, Modality


@dataclass(frozen=True)
class PhysicsTerm:
    """The physics loss and its parts, each a mean over frames and draws, in nats per data point.

    Args:
        loss: what is minimised.
        negative_entropy: log q(u|I).
        misfit: -log p(I|A(u)), about half the reduced chi-squared.
        negative_log_prior: -log p(u).
    """

    loss: Tensor
    negative_entropy: float
    misfit: float
    negative_log_prior: float


MOST_NATS = 15.0
"""A frame's, per parameter."""


def data_nll(distribution: Distribution, draws: Draws) -> Tensor:
    """Mean of -log q(class, theta | I) over simulated frames with known theta, nats.

    A frame above `MOST_NATS` a parameter enters with its logarithm: its anchor lies far off, and it must not
    take over.
    """
    nats, most = -distribution.log_prob(draws), MOST_NATS * draws.theta.shape[1]
    return torch.where(nats > most, most * (1 + (nats / most).clamp_min(1.0).log()), nats).mean()


def physics(
    modality: Modality, distribution: Distribution, batch: Any, draws: int, generator: torch.Generator
) -> PhysicsTerm:
    """Physics loss on unlabelled frames.

    The class probabilities are left to the first term: draws of each class are scored within it. A misfit
    far above the number of points enters with its logarithm, so that one bad frame can't take over a
    step; near a good fit the term is exact.
    """
    shape = (len(distribution), draws, 1 + modality.latents(batch))
    noise = torch.randn(shape, generator=generator, device=generator.device)
    made, log_q = distribution.draw(noise)
    log_q = log_q - distribution.class_log_probs.detach()[made.frame, made.label]
    points = (~batch.mask).flatten(1).sum(1)[made.frame].clamp_min(1.0).to(log_q)
    log_likelihood = modality.log_likelihood(made, batch).to(log_q)
    misfit = -log_likelihood / points
    negative_entropy, negative_log_prior = log_q / points, torch.zeros_like(misfit)
    if modality.has_log_prior:
        negative_log_prior = -modality.log_prior(made) / points
    tempered = torch.where(misfit > 1.0, 1.0 + misfit.clamp_min(1.0).log(), misfit)
    loss = (negative_entropy + tempered + negative_log_prior).mean()
    return PhysicsTerm(
        loss,
        float(negative_entropy.detach().mean()),
        float(misfit.detach().median()),
        float(negative_log_prior.detach().mean()),
    )
