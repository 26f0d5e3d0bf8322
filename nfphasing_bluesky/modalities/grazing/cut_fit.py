"""Fits of particles to pairs of cuts that begin at draws of the flow.

A flow of so many parameters is wide, and hardly any of its draws explains a bright pair; but one of them is
nearly always close enough for a fit to find the way. Draws are compared coarsely computed, with a relative
error that lets none of them be all that counts; the best ones are fitted by Levenberg-Marquardt steps with
slopes that keep what a coordinate does not change.

Letters: B pairs, P draws of each, C fits, D coordinates, Q points.
"""

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities.anchors import Target
from nfphasing_bluesky.modalities.grazing.cut_curves import CutsBatch
from nfphasing_bluesky.modalities.grazing.cut_model import Detail, cuts, moved_cuts
from nfphasing_bluesky.modalities.grazing.known_fits import Cube
from nfphasing_bluesky.modalities.grazing.particle_prior import CLASSES, QUANTITIES
from nfphasing_bluesky.modalities.grazing.surface_fits import best_places, fit_from, in_box, target
from nfphasing_bluesky.modalities.linear import BackgroundPrior

FITTED = Detail(8, 3, 1)
ROUGH = Detail(6, 2, 1)
ROUGH_ERROR = 0.2
"""Relative, on top of a pair's own, when draws are compared."""
FITS = 6
STEPS = 10


def class_target(
    k: int, background: BackgroundPrior, device: torch.device, cube: Cube | None = None
) -> Target:
    """Class k as a fit sees it, in the places of a cube if there is one."""

    def own(theta: Tensor, packed: Tensor) -> Tensor:
        return cuts(theta, k, packed, FITTED)

    def moved(theta: Tensor, packed: Tensor) -> Tensor:
        return moved_cuts(theta, k, packed, FITTED)

    curve, curves = (own, moved) if cube is None else (cube.patterns(own), cube.moved(own))
    return target(len(CLASSES[k].free), curve, curves, background, device, STEPS)


def best_draws(k: int, drawn: Tensor, batch: CutsBatch, background: BackgroundPrior, count: int) -> Tensor:
    """(B, count, D) those of draws (B, P, D) in 0..1 that come closest."""

    def roughly_computed(theta: Tensor, packed: Tensor) -> Tensor:
        return cuts(theta, k, packed, ROUGH)

    return best_places(roughly_computed, drawn, batch, background, count, ROUGH_ERROR)


def fit_known(
    k: int, drawn: Tensor, batch: CutsBatch, background: BackgroundPrior, names: tuple[str, ...]
) -> Anchor:
    """As `fit_again`, within what is known of the samples: `batch.known`, of parameters of these names."""
    known, cube = batch.known, Cube(QUANTITIES[k], names)
    assert known is not None  # noqa: S101  asked by the caller

    def roughly_computed(theta: Tensor, packed: Tensor) -> Tensor:
        return cuts(theta, k, packed, ROUGH)

    frames = cube.frames(batch, batch.q, known)
    patterns = cube.patterns(roughly_computed)
    starts = best_places(patterns, cube.places(drawn, known), frames, background, FITS, ROUGH_ERROR)
    found = fit_from(class_target(k, background, starts.device, cube), in_box(starts), frames)
    return cube.in_flow(found, known.repeat_interleave(FITS, 0))


def fit_again(k: int, drawn: Tensor, batch: CutsBatch, background: BackgroundPrior) -> Anchor:
    """Fits (B * FITS,) of class k, those of one pair together, that begin at the best of draws (B, P, D)."""
    starts = best_draws(k, drawn, batch, background, FITS)
    return fit_from(class_target(k, background, starts.device), in_box(starts), batch)
