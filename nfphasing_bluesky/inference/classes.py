"""p(class | I) from the evidence of each class, where there is a choice.

The network's own class probabilities are a guess from the look of the curve. The evidence
Z_k = p(I | class k) is the mean importance weight of draws of that class, and p(class | I) follows from it. A
few draws a class are enough, and part of the network's guess is kept for what they may have missed. What
falls `hopeless_nats` short of the best class loses most of that: none of its draws would explain anything.
Not all of it, because what so few draws have missed may be there all the same.

Where minima are many, it may be that hardly any draw of any class explains the frame. Weights w of all
classes are tempered together then, w^b with the largest b that leaves a few of them, and p(class | I) is that
of the distribution between guess and posterior: it goes back to the guess where nothing was found.

These draws are draws of the posterior as good as any, and serve as its first ones; what each of them is worth
is reckoned with class probabilities that the others gave, as if it had been drawn afterwards.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.inference.importance import log_weights
from nfphasing_bluesky.modalities import DrawDistribution, Draws, FitsAgain, Modality
from nfphasing_bluesky.modalities.network import Pilots

PILOTS = 32
KEPT_OF_GUESS = 0.1
IMPOSSIBLE = 2e-3
LARGEST_LOSS = 7.0
"""In nats, of what is kept of the guess."""
FEWEST_PILOTS = 4.0
HALVINGS = 30


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
    pilots, weights = {}, {}
    likely = {k: (guess[:, k] > math.log(IMPOSSIBLE)).nonzero()[:, 0] for k in range(count)}
    likely = {k: frames for k, frames in likely.items() if frames.numel()}
    distribution.prepare(likely)
    for k, frames in likely.items():
        pilots[k] = _pilots(modality, distribution, noise[frames, k], k, frames)
        weights[k] = _weights(modality, batch, pilots[k], k)
    if isinstance(modality, FitsAgain):
        weights = tempered_together(weights, likely, guess)
    for k, frames in likely.items():
        evidence[frames, k] = torch.logsumexp(weights[k], 1) - math.log(noise.shape[2])
    for k, made in pilots.items():
        without = evidence[made.frames, None].expand(-1, noise.shape[2], -1).clone()
        without[..., k] = _without_itself(weights[k])
        own = _shares(guess[made.frames, None], without, modality.hopeless_nats)[..., k]
        pilots[k] = made._replace(log_q=made.log_q + own.to(made.log_q))
    return distribution.with_classes(_shares(guess, evidence, modality.hopeless_nats), pilots)


def _shares(guess: Tensor, evidence: Tensor, hopeless_nats: float) -> Tensor:
    """(..., K) log probabilities of the classes from the network's guess and the evidence."""
    found = torch.log_softmax(evidence, dim=-1)
    behind = (evidence.amax(-1, keepdim=True) - evidence).nan_to_num(0.0, posinf=0.0)
    lost = (behind - hopeless_nats).clamp(0.0, LARGEST_LOSS)
    kept = guess + math.log(KEPT_OF_GUESS) - lost
    both = torch.logaddexp(found + math.log(1 - KEPT_OF_GUESS), kept).log_softmax(-1)
    return torch.where(torch.isfinite(evidence).any(-1, keepdim=True), both, guess)


def tempered_together(
    weights: Mapping[int, Tensor], frames: Mapping[int, Tensor], guess: Tensor
) -> dict[int, Tensor]:
    """Log weights (F, P) of each class, on the way from the guess to the posterior.

    Args:
        weights: class -> log weights of its draws.
        frames: class -> (F,) the frames that these are of.
        guess: (B, K) log probabilities of the classes.
    """
    count = next(iter(weights.values())).shape[1]
    all_of = guess.new_full((*guess.shape, count), -torch.inf)
    for k, own in weights.items():
        all_of[frames[k], k] = own - guess[frames[k], k, None]
    finite = torch.isfinite(all_of)

    def between(power: Tensor) -> Tensor:
        return torch.where(finite, guess[..., None] + power[:, None, None] * all_of, -torch.inf)

    def enough(power: Tensor) -> Tensor:
        log_v = between(power).flatten(1)
        return (2 * log_v.logsumexp(1) - (2 * log_v).logsumexp(1)).exp() >= FEWEST_PILOTS

    low, high = torch.zeros_like(guess[:, 0]), torch.ones_like(guess[:, 0])
    whole = enough(high)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        good = enough(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    found = between(torch.where(whole, 1.0, low))
    return {k: found[frames[k], k] for k in weights}


def _without_itself(weights: Tensor) -> Tensor:
    """(F, P) log mean of the other weights, for each of (F, P)."""
    top = weights.amax(1, keepdim=True).nan_to_num(neginf=0.0)
    w = (weights - top).exp()
    # summed from both ends: a difference of sums would lose what is left beside a heavy one
    before = torch.nn.functional.pad(w.cumsum(1), (1, 0))[:, :-1]
    after = torch.nn.functional.pad(w.flip(1).cumsum(1).flip(1), (0, 1))[:, 1:]
    return (before + after).log() + top - math.log(max(1, weights.shape[1] - 1))


def _pilots(
    modality: Modality, distribution: DrawDistribution, noise: Tensor, k: int, frames: Tensor
) -> Pilots:
    """Draws of class k from noise (F, P, D)."""
    width = len(modality.classes[k].free)
    theta, log_q = distribution.of_class(k, frames).from_latent(noise[..., :width].transpose(0, 1))
    return Pilots(frames, theta.transpose(0, 1), log_q.T)


def _weights(modality: Modality, batch: Any, pilots: Pilots, k: int) -> Tensor:
    """(F, P) log importance weights, the prior probability of the class among them."""
    frames, each, width = pilots.theta.shape
    flat = pilots.theta.flatten(0, 1)
    draws = Draws(
        torch.full((len(flat),), k, device=flat.device),
        torch.nn.functional.pad(flat, (0, modality.width - width)),
        torch.arange(frames, device=flat.device).repeat_interleave(each),
    )
    likelihood = modality.log_likelihood(draws, batch.at(pilots.frames))
    return log_weights(likelihood, modality.log_prior(draws), pilots.log_q.flatten()).view(frames, each)
