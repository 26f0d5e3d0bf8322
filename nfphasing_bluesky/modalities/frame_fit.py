"""Fits of particles to binned frames that begin at guesses of the prior and at draws of the flow.

A frame says so much that few places in twelve to eighteen dimensions come close to it. Guesses and draws are
compared coarsely computed, within a relative error that lets none of them be all that counts; the best are
fitted within that error first, which smooths the landscape, and the best of these then to the frame as it is.
So a frame is explained without trained weights; draws of a trained flow are better guesses.

Letters: B frames, P draws of each, C fits, D coordinates, Q bins.
"""

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities.anchors import Target
from nfphasing_bluesky.modalities.frame_bins import FramesBatch
from nfphasing_bluesky.modalities.frame_model import Detail, moved_patterns, patterns
from nfphasing_bluesky.modalities.island_prior import CLASSES
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.modalities.surface_fits import best_places, fit_from, in_box, roughly, target
from nfphasing_bluesky.modalities.unit_box import unit_box

FITTED = Detail(8, 2, 1)
ROUGH = Detail(6, 1, 1)
ROUGH_ERROR = 0.3
GUESSES = 512
ROUGH_FITS, ROUGH_STEPS = 10, 8
FITS, STEPS = 4, 12


def class_target(
    k: int, background: BackgroundPrior, device: torch.device, detail: Detail, steps: int
) -> Target:
    """Class k as a fit sees it."""
    return target(
        len(CLASSES[k].free),
        lambda theta, packed: patterns(theta, k, packed, detail),
        lambda theta, packed: moved_patterns(theta, k, packed, detail),
        background,
        device,
        steps,
    )


@cache
def guesses(k: int, device: torch.device) -> Tensor:
    """(GUESSES, D) places of the prior, the same for every frame: evenly spread Sobol points."""
    sobol = torch.quasirandom.SobolEngine(len(CLASSES[k].free), scramble=True, seed=k)
    return sobol.draw(GUESSES).to(device)


def fit_again(k: int, drawn: Tensor, batch: FramesBatch, background: BackgroundPrior) -> Anchor:
    """Fits (B * FITS,) of class k, those of one frame together; draws (B, P, D) are among the guesses."""
    device = batch.intensity.device
    own = guesses(k, device).expand(len(batch), -1, -1)
    places = torch.cat([drawn.to(own), own], 1).clamp(0.0, 1.0)

    def roughly_computed(theta: Tensor, packed: Tensor) -> Tensor:
        return patterns(theta, k, packed, ROUGH)

    starts = best_places(roughly_computed, places, batch, background, ROUGH_FITS, ROUGH_ERROR)
    rough = replace(batch, sigma=roughly(batch, ROUGH_ERROR).sqrt())
    first = fit_from(class_target(k, background, device, ROUGH, ROUGH_STEPS), in_box(starts), rough)
    found, _ = unit_box(starts.shape[2], device).inverse(first.location.double(), first.location)
    second = best_places(
        lambda theta, packed: patterns(theta, k, packed, FITTED),
        found.view(len(batch), ROUGH_FITS, -1),
        batch,
        background,
        FITS,
        0.1 * ROUGH_ERROR,
    )
    return fit_from(class_target(k, background, device, FITTED, STEPS), in_box(second), batch)
