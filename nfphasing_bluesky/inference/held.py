"""Draws of flows that stay within what is known of a sample, where a network was not told of it.

The posterior within bounds is that without them, cut off. So draws outside are left away and more are drawn;
where these do not suffice, the others are moved: what is beyond its ends goes anywhere between them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.modalities import DrawDistribution, Draws, KnowsSamples

ROUNDS = 8
"""Draws for one that is wanted, at most."""


def hold(
    modality: KnowsSamples,
    distribution: DrawDistribution,
    batch: Any,
    latent: Tensor,
    more: Callable[[int], Tensor] | None,
) -> tuple[Draws, list[str]]:
    """S draws of each of B frames that lie within what is known, and what is said of the flow's that do.

    Args:
        modality: of the frames.
        distribution: flows.
        batch: B frames.
        latent: (B, S, .) standard normals of the first S draws.
        more: number of a round, from 1, to more of them; None for no more.
    """
    b, s = latent.shape[:2]
    pool, inside = _drawn(modality, distribution, batch, latent)
    for number in range(1, ROUNDS):
        if more is None or bool((inside.sum(1) >= s).all()):
            break
        others, good = _drawn(modality, distribution, batch, more(number).to(latent))
        pool, inside = _beside(pool, others, b), torch.cat([inside, good], 1)
    notes = [words(share, inside.shape[1]) for share in inside.double().mean(1).tolist()]
    # those inside first, in the order in which they were drawn
    order = (~inside).to(torch.int8).argsort(dim=1, stable=True)[:, :s]
    rows = torch.arange(b, device=order.device)[:, None] * inside.shape[1] + order
    kept = pool.at(rows.flatten())
    good = inside.gather(1, order)
    if not bool(good.all()):
        u = torch.special.ndtr(latent[..., 1:].reshape(b * s, -1))
        moved = modality.moved_within(kept, u, batch)
        kept = replace(kept, theta=torch.where(good.flatten()[:, None], kept.theta, moved.theta))
        kept = _only_good(kept, modality.inside(kept, batch).view(b, s))
    return kept, notes


def _only_good(draws: Draws, good: Tensor) -> Draws:
    """Draws of which those that are not good (B, S) are others of their frame that are, in turn."""
    b, s = good.shape
    order = (~good).to(torch.int8).argsort(dim=1, stable=True)
    turn = torch.arange(s, device=good.device) % good.sum(1, keepdim=True).clamp_min(1)
    rows = torch.arange(b, device=good.device)[:, None] * s + order.gather(1, turn)
    return draws.at(rows.flatten())


def _drawn(
    modality: KnowsSamples, distribution: DrawDistribution, batch: Any, latent: Tensor
) -> tuple[Draws, Tensor]:
    draws, _ = distribution.draw(latent)
    return draws, modality.inside(draws, batch).view(latent.shape[:2])


def _beside(one: Draws, other: Draws, frames: int) -> Draws:
    """Draws of both, those of one frame together."""

    def joined(a: Tensor, b: Tensor) -> Tensor:
        parts = [v.view(frames, -1, *v.shape[1:]) for v in (a, b)]
        return torch.cat(parts, 1).flatten(0, 1)

    return Draws(*(joined(getattr(one, f), getattr(other, f)) for f in ("label", "theta", "frame")))


def words(share: float, drawn: int) -> str:
    """What is said of the share of the flow's draws, so many, that lies within the bounds."""
    kept = f"{100 * share:.2g} %" if share else f"fewer than {100 / drawn:.1g} %"
    return f"bounds keep {kept} of the network's draws"
