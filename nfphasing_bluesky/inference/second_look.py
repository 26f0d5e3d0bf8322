"""Fits that begin at draws: a flow knows more of where the minimum is than guesses do."""

import math
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.flows import LocalFits
from nfphasing_bluesky.inference.classes import IMPOSSIBLE
from nfphasing_bluesky.modalities import DrawDistribution, FitsAgain

STARTS = 64


def look_again(
    modality: FitsAgain, distribution: DrawDistribution, batch: Any, noise: Tensor
) -> DrawDistribution:
    """Put fits beside the flows of every class that a frame may be of.

    Args:
        modality: of the frames.
        distribution: of the network.
        batch: B frames.
        noise: (B, K, STARTS, D) standard normal.
    """
    guess = distribution.class_log_probs
    fits = {}
    for k in range(guess.shape[1]):
        frames = (guess[:, k] > math.log(IMPOSSIBLE)).nonzero()[:, 0]
        if not frames.numel():
            continue
        flow = distribution.of_class(k, frames)
        width = distribution.mixture.mixture.flow(k).dimension
        drawn, _ = flow.from_latent(noise[frames, k, :, :width].transpose(0, 1))
        anchor = distribution.anchors.get(k, frames)
        found = modality.fits_again(k, drawn.transpose(0, 1), batch.at(frames), anchor)
        fits[k] = _placed(found, frames, len(guess))
    return distribution.with_fits(fits)


def _placed(found: LocalFits, frames: Tensor, count: int) -> LocalFits:
    """Fits of `count` frames, of which some have none."""
    location = found.location.new_zeros(count, *found.location.shape[1:])
    factor = torch.eye(location.shape[2]).to(location).expand(*location.shape, -1).clone()
    log_share = found.log_share.new_full((count, found.log_share.shape[1]), -torch.inf)
    location[frames], factor[frames], log_share[frames] = found.location, found.factor, found.log_share
    return LocalFits(location, factor, log_share)
