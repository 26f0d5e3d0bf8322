"""Fits of particles to binned frames that begin at guesses of the prior and at draws of the flow.

A frame says so much that few places in twelve to eighteen dimensions come close to it. Guesses and draws are
compared coarsely computed, within a relative error that lets none of them be all that counts; the best are
fitted within that error first, which smooths the landscape, and the best of these then to the frame as it is.
So a frame is explained without trained weights; draws of a trained flow are better guesses.

Letters: B frames, P draws of each, C fits, D coordinates, Q bins.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities.anchors import Target
from nfphasing_bluesky.modalities.grazing.frame_bins import FramesBatch
from nfphasing_bluesky.modalities.grazing.frame_model import Detail, moved_patterns, patterns
from nfphasing_bluesky.modalities.grazing.island_prior import CLASSES, QUANTITIES
from nfphasing_bluesky.modalities.grazing.known_fits import Cube
from nfphasing_bluesky.modalities.grazing.surface_fits import (
    Patterns,
    best_places,
    fit_from,
    in_box,
    roughly,
    target,
)
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.modalities.unit_box import unit_box

FITTED = Detail(8, 2, 1)
ROUGH = Detail(6, 1, 1)
ROUGH_ERROR = 0.3
GUESSES = 512
ROUGH_FITS, ROUGH_STEPS = 10, 8
FITS, STEPS = 4, 12


def class_target(
    k: int,
    background: BackgroundPrior,
    device: torch.device,
    detail: Detail,
    steps: int,
    cube: Cube | None = None,
) -> Target:
    """Class k as a fit sees it, in the places of a cube if there is one."""

    def own(theta: Tensor, packed: Tensor) -> Tensor:
        return patterns(theta, k, packed, detail)

    def moved(theta: Tensor, packed: Tensor) -> Tensor:
        return moved_patterns(theta, k, packed, detail)

    curve, curves = (own, moved) if cube is None else (cube.patterns(own), cube.moved(own))
    return target(len(CLASSES[k].free), curve, curves, background, device, steps)


@cache
def guesses(k: int, device: torch.device) -> Tensor:
    """(GUESSES, D) places of the prior, the same for every frame: evenly spread Sobol points."""
    sobol = torch.quasirandom.SobolEngine(len(CLASSES[k].free), scramble=True, seed=k)
    return sobol.draw(GUESSES).to(device)


def fit_again(k: int, drawn: Tensor, batch: FramesBatch, background: BackgroundPrior) -> Anchor:
    """Fits (B * FITS,) of class k, those of one frame together; draws (B, P, D) are among the guesses."""
    own = guesses(k, batch.intensity.device).expand(len(batch), -1, -1)
    places = torch.cat([drawn.to(own), own], 1).clamp(0.0, 1.0)
    return _fitted(k, places, batch, background)


def fit_known(
    k: int, drawn: Tensor, batch: FramesBatch, background: BackgroundPrior, names: tuple[str, ...]
) -> Anchor:
    """As `fit_again`, within what is known of the samples: `batch.known`, of parameters of these names."""
    known, cube = batch.known, Cube(QUANTITIES[k], names)
    assert known is not None  # noqa: S101  asked by the caller
    own = guesses(k, batch.intensity.device).expand(len(batch), -1, -1)
    places = torch.cat([cube.places(drawn, known).to(own), own], 1)
    found = _fitted(k, places, cube.frames(batch, batch.q, known), background, cube)
    return cube.in_flow(found, known.repeat_interleave(FITS, 0))


def _fitted(
    k: int, places: Tensor, batch: Any, background: BackgroundPrior, cube: Cube | None = None
) -> Anchor:
    """Fits (B * FITS,) that begin at the best of places (B, P, D) in 0..1."""
    device = batch.intensity.device

    def of(detail: Detail) -> Patterns:
        def computed(theta: Tensor, packed: Tensor) -> Tensor:
            return patterns(theta, k, packed, detail)

        return computed if cube is None else cube.patterns(computed)

    starts = best_places(of(ROUGH), places, batch, background, ROUGH_FITS, ROUGH_ERROR)
    rough = replace(batch, sigma=roughly(batch, ROUGH_ERROR).sqrt())
    first_target = class_target(k, background, device, ROUGH, ROUGH_STEPS, cube)
    first = fit_from(first_target, in_box(starts), rough)
    found, _ = unit_box(starts.shape[2], device).inverse(first.location.double(), first.location)
    found = found.view(len(batch), ROUGH_FITS, -1)
    second = best_places(of(FITTED), found, batch, background, FITS, 0.1 * ROUGH_ERROR)
    return fit_from(class_target(k, background, device, FITTED, STEPS, cube), in_box(second), batch)
