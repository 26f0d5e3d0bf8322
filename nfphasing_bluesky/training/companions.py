"""Other objects that explain a simulated frame as well as the one it was simulated from.

An object and the frame simulated from it are one draw of their joint distribution, so the object is an exact
draw of the frame's posterior. So is whichever of it and M draws of any other distribution q is chosen in
proportion to their weights p(I|u) p(u) / q(u): that choice is a step of a Markov chain that leaves the
posterior as it is (iterated sampling importance resampling: Andrieu, Lee and Vihola, Bernoulli 24, 842,
2018), however poor q may be. A network that learns a frame with one or another of them therefore learns the
same posterior, from much less noise, and a frame it sees often is not tied to one object.
"""

from typing import Any

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.modalities import DrawDistribution, Draws, Modality

CHOSEN = 16
"""Of each frame's M + 1; some of them more than once."""


@torch.no_grad()
def companions(
    modality: Modality,
    distribution: DrawDistribution,
    batch: Any,
    draws: Draws,
    count: int,
    generator: Generator,
) -> Tensor:
    """(N, CHOSEN, D) draws of the posterior of each of N frames, given its class.

    Args:
        modality: of the frames.
        distribution: q.
        batch: N frames.
        draws: the objects that they were simulated from.
        count: M.
        generator: of draws and choices.
    """
    out = draws.theta[:, None].repeat(1, CHOSEN, 1)
    for k in draws.label.unique().tolist():
        rows = (draws.label == k).nonzero()[:, 0]
        width = len(modality.classes[k].free)
        q = distribution.of_class(k, rows)
        own = draws.theta[rows, :width][None]
        noise = torch.randn(count, len(rows), width, generator=generator, device=own.device)
        theta, log_q = q.from_latent(noise)
        pool = torch.cat([own.to(theta), theta]).transpose(0, 1)
        log_q = torch.cat([q.log_prob(own), log_q]).T
        weight = _weights(modality, pool, log_q, k, batch.at(rows))
        chosen = torch.multinomial(weight, CHOSEN, replacement=True, generator=generator)
        kept = pool.gather(1, chosen[..., None].expand(-1, -1, width))
        out[rows, :, :width] = kept.to(out)
    return out


def _weights(modality: Modality, pool: Tensor, log_q: Tensor, k: int, batch: Any) -> Tensor:
    """(N, 1 + M) normalised weights; the first alone where they make no sense."""
    frames, each, width = pool.shape
    flat = torch.nn.functional.pad(pool.flatten(0, 1).float(), (0, modality.width - width))
    label = torch.full((len(flat),), k, device=flat.device)
    draws = Draws(label, flat, torch.arange(frames, device=flat.device).repeat_interleave(each))
    exact = modality.log_likelihood(draws, batch).double() + modality.log_prior(draws).double()
    log_w = (exact.view(frames, each) - log_q.double()).nan_to_num(-torch.inf, posinf=torch.inf)
    first = torch.nn.functional.one_hot(torch.zeros(frames, dtype=torch.long), each).to(log_w)
    sound = log_w.amax(1).isfinite()
    return torch.where(sound[:, None], log_w.softmax(1), first)
