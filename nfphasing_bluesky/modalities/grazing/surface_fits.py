"""Fits of particles on surfaces that begin where they are told, and of all classes no anchors before.

Letters: B frames, P places of each, C fits, D coordinates, Q points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities.anchors import Target
from nfphasing_bluesky.modalities.draws import Anchors
from nfphasing_bluesky.modalities.fits import FITTED_AT_ONCE, fit
from nfphasing_bluesky.modalities.linear import BackgroundPrior, condition
from nfphasing_bluesky.modalities.slopes import differences
from nfphasing_bluesky.modalities.unit_box import unit_box

Patterns = Callable[[Tensor, Tensor], Tensor]

FURTHEST = 3.0
"""Coordinate of a box beyond which no fit begins."""


def no_anchors(frames: int, widths: Sequence[int]) -> Anchors:
    """Return the prior, for classes of D coordinates each: nothing is fitted."""

    def find(k: int, rows: Tensor) -> Anchor:
        nothing = torch.zeros(len(rows), widths[k], device=rows.device)
        return Anchor(nothing, torch.diag_embed(nothing + 1), nothing[:, :0])

    return Anchors(frames, find)


def target(
    width: int,
    patterns: Patterns,
    moved: Patterns,
    background: BackgroundPrior,
    device: torch.device,
    steps: int,
) -> Target:
    """One class of D coordinates in 0..1 as a fit sees it.

    Args:
        width: D.
        patterns: (N, D) places and (N, .) `batch.q` to (N, Q).
        moved: the same of places (N, 1 + D, D) of which each but the first was moved along one coordinate.
        background: of the class.
        device: of the fit.
        steps: of a fit, at most.
    """
    box = unit_box(width, device)

    def curve(theta: Tensor, packed: Tensor) -> Tensor:
        return patterns(theta.float().clamp(0.0, 1.0), packed)

    def curves(theta: Tensor, packed: Tensor) -> Tensor:
        return moved(theta.float().clamp(0.0, 1.0), packed)

    return Target(
        box=box,
        curve=curve,
        slopes=lambda theta, packed: differences(curves, box, theta, packed),
        background=background.moments(),
        starts=1,
        steps=steps,
        least_and_most=(background.lower, background.upper),
        ridges=True,
    )


@dataclass(frozen=True)
class Given:
    """Fits that begin where they are told: (B, 1, D) in box coordinates."""

    places: Tensor

    def best(self, batch: Any, count: int) -> Tensor:
        """Return the places."""
        return self.places


def roughly(batch: Any, error: float) -> Tensor:
    """(B, Q) variance of what was measured with a relative error added to its own."""
    variance: Tensor = batch.sigma.square() + (error * batch.intensity).square()
    return variance


def best_places(
    patterns: Patterns,
    places: Tensor,
    batch: Any,
    background: BackgroundPrior,
    count: int,
    error: float,
) -> Tensor:
    """(B, count, D) those of places (B, P, D) in 0..1 that come closest, within a relative error.

    Args:
        patterns: (N, D) places and (N, .) `batch.q` to (N, Q).
        places: of each frame.
        batch: the frames.
        background: of all of them.
        count: C.
        error: on top of a frame's own: it lets no place be all that counts.
    """
    each = places.shape[1]
    shape = patterns(places.flatten(0, 1).float(), batch.q.repeat_interleave(each, 0))
    weight = torch.where(batch.mask, 0.0, roughly(batch, error).clamp_min(1e-30).reciprocal())
    evidence = condition(shape, batch.intensity, weight, background).log_evidence.view(-1, each)
    best = evidence.nan_to_num(-torch.inf).topk(count, dim=1).indices
    return places.gather(1, best[:, :, None].expand(-1, -1, places.shape[2]))


def fit_from(target: Target, y: Tensor, batch: Any) -> Anchor:
    """Fits (B C,), those of one frame together, that begin at y (B, C, D) in box coordinates."""
    rows = torch.arange(len(batch), device=y.device).repeat_interleave(y.shape[1])
    flat, several = y.flatten(0, 1)[:, None], batch.at(rows)
    parts = torch.arange(len(rows)).split(FITTED_AT_ONCE)
    fits = [fit(target, Given(flat[part]), several.at(part)) for part in parts]
    return Anchor(*(torch.cat([getattr(f, n) for f in fits]) for n in ("location", "factor", "features")))


def in_box(places: Tensor) -> Tensor:
    """Coordinates (..., D), where fits begin, of places in 0..1; none too close to the box's edge."""
    y, _ = unit_box(places.shape[-1], places.device)(places.double(), places)
    return y.clamp(-FURTHEST, FURTHEST)
