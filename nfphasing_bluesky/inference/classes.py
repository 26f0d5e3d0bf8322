"""p(class | I) from the evidence of each class, where there is a choice.

The network's own class probabilities are a guess from the look of the curve. The evidence
Z_k = p(I | class k) is the mean importance weight of draws of that class, and p(class | I) follows from it. A
few draws a class are enough, and part of the network's guess is kept for what they may have missed. What
falls `hopeless_nats` short of the best class is not kept: none of its draws would explain anything.
"""

import math
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.inference.importance import log_weights
from nfphasing_bluesky.modalities import DrawDistribution, Draws, Modality

PILOTS = 32
KEPT_OF_GUESS = 0.1
IMPOSSIBLE = 2e-3


def weigh_classes(
    modality: Modality, distribution: DrawDistribution, batch: Any, noise: Tensor
) -> DrawDistribution:
    """Replace the class probabilities of B frames; those of a single class stay as they are.

    Args:
        modality: of the frames.
        distribution: of the network.
        batch: B frames.
        noise: (B, K, P, D) standard normal: P draws of each class.
    """
    guess = distribution.class_log_probs.double()
    count = guess.shape[1]
    if count == 1:
        return distribution
    evidence = torch.full_like(guess, -torch.inf)
    for k in range(count):
        frames = (guess[:, k] > math.log(IMPOSSIBLE)).nonzero()[:, 0]
        if frames.numel():
            evidence[frames, k] = _log_evidence(modality, distribution, batch, noise[frames, k], k, frames)
    found = torch.log_softmax(evidence, dim=1)
    behind = (evidence.amax(1, keepdim=True) - evidence).nan_to_num(0.0, posinf=0.0)
    kept = guess + math.log(KEPT_OF_GUESS) - (behind - modality.hopeless_nats).clamp_min(0.0)
    both = torch.stack([found + math.log(1 - KEPT_OF_GUESS), kept])
    usable = torch.isfinite(evidence).any(1, keepdim=True)
    return distribution.with_classes(torch.where(usable, torch.logsumexp(both, 0).log_softmax(1), guess))


def _log_evidence(
    modality: Modality, distribution: DrawDistribution, batch: Any, noise: Tensor, k: int, frames: Tensor
) -> Tensor:
    """(F,) log of the evidence of class k times its prior probability, from noise (F, P, D)."""
    width = len(modality.classes[k].free)
    theta, log_q = distribution.of_class(k, frames).from_latent(noise[..., :width].transpose(0, 1))
    flat = theta.transpose(0, 1).flatten(0, 1)
    draws = Draws(
        torch.full((len(flat),), k, device=flat.device),
        torch.nn.functional.pad(flat, (0, modality.width - width)),
        torch.arange(len(frames), device=flat.device).repeat_interleave(noise.shape[1]),
    )
    weights = log_weights(
        modality.log_likelihood(draws, batch.at(frames)), modality.log_prior(draws), log_q.T.flatten()
    )
    return torch.logsumexp(weights.view(len(frames), -1), 1) - math.log(noise.shape[1])
