"""Draws that explain nothing: where a flow's tails reach beyond the posterior, it is cut back."""

import torch

from nfphasing_bluesky.modalities import Draws
from nfphasing_bluesky.modalities.draws import Evaluated

FEWEST = 16
FEW = f"fewer than {FEWEST} draws come near the best one; polish"


def keep_possible(
    draws: Draws, evaluated: Evaluated, frames: int, nats: float
) -> tuple[Draws, Evaluated, list[str]]:
    """Put other draws of a frame in place of those whose likelihood is next to nothing beside its best.

    What stays is the flow, restricted to where the posterior has its mass: of D parameters a posterior's
    draws lie D / 2 nats below the maximum, and chance of forty is below 1e-10 for D = 9. Where next to none
    stays, the best `FEWEST` do: one draw is no posterior.

    Args:
        draws: equally many of each frame, those of one together.
        evaluated: of the draws.
        frames: B.
        nats: below the best draw of its frame, where a draw is given up.

    Returns:
        The draws, what they say, and what is wrong with each frame, in words; empty where nothing is.
    """
    level = evaluated.log_likelihood.view(frames, -1)
    good = level >= level.amax(1, keepdim=True) - nats
    few = good.sum(1) < min(FEWEST, level.shape[1])
    doubts = [FEW if f else "" for f in few.tolist()]
    if bool(good.all()):
        return draws, evaluated, doubts
    rank = level.argsort(dim=1, descending=True, stable=True).argsort(1)
    good = good | (few[:, None] & (rank < FEWEST))
    place = torch.arange(level.shape[1], device=level.device).expand_as(level)
    in_turn = (~good).to(torch.uint8).argsort(dim=1, stable=True)
    others = in_turn.gather(1, place % good.sum(1, keepdim=True).clamp_min(1))
    chosen = torch.where(good, place, others)
    rows = (chosen + level.shape[1] * torch.arange(frames, device=level.device)[:, None]).flatten()
    return draws.at(rows), evaluated.at(rows), doubts
