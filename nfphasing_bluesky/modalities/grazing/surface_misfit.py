"""What to check next where no sample explains a frame in grazing incidence, from what is left over."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nfphasing_bluesky.modalities.draws import ClassSpec, Draws
from nfphasing_bluesky.modalities.grazing.cut_curves import IN_PLANE, CutsBatch
from nfphasing_bluesky.modalities.grazing.particle_prior import OFFSET
from nfphasing_bluesky.modalities.misfit import (
    MOST_OF_IT,
    ends_at,
    excuse,
    excusing_error,
    joined,
    squares,
)

AT_AN_END = 0.01
FEW_ROWS, FEW_COLUMNS = 6, 4
"""Rows of bins next to the horizon, and columns next to the plane of incidence."""


def next_step(
    batch: Any,
    best: Draws,
    predicted: Tensor,
    sigma_floor: float,
    classes: Sequence[ClassSpec],
    holds: str,
    ended: Sequence[str],
) -> list[str]:
    """What to check of each of B frames that no draw explains, in a few words.

    Args:
        batch: the frames, or pairs of cuts.
        best: the likeliest draw of each.
        predicted: (B, Q) its pattern.
        sigma_floor: relative error that is in the batch's sigma.
        classes: of the modality.
        holds: what to say where nothing else is to be said: what the model holds.
        ended: which bounds of what is known each of the draws ends at, in words.
    """
    error = excusing_error(batch, predicted).tolist()
    share = squares(batch, predicted)
    share = share / share.sum(1, keepdim=True).clamp_min(1e-300)
    place = _place_of_cuts if isinstance(batch, CutsBatch) else _place_of_bins
    out = []
    for b in range(len(batch)):
        words = [_offset(best, b, classes), place(batch, share[b]), excuse(error[b], sigma_floor)]
        out.append(joined([*words, ended[b]]) or holds)
    return out


def _offset(best: Draws, b: int, classes: Sequence[ClassSpec]) -> str:
    free = classes[int(best.label[b])].free
    if OFFSET.name not in free:
        return ""
    place = float(best.theta[b, free.index(OFFSET.name)])
    if AT_AN_END < place < 1 - AT_AN_END:
        return ""
    return (
        f"the fit wants an incidence angle more than {OFFSET.upper:g} degree off: check it, and the horizon"
    )


def _place_of_cuts(batch: CutsBatch, share: Tensor) -> str:
    part = float(share[:IN_PLANE].sum())
    if part > MOST_OF_IT + 0.2:
        return f"{part:.0%} of the misfit is in the in-plane cut: check q_y, its band and what lies under it"
    if part < 0.2:
        return (
            f"{1 - part:.0%} of the misfit is in the out-of-plane cut: check incidence angle, horizon and "
            "the direct or reflected beam"
        )
    return ""


def _place_of_bins(batch: Any, share: Tensor) -> str:
    of = share.view(*batch.shape)
    for part, what in (
        (of[:, :FEW_COLUMNS], "next to the plane of incidence: mask specular beam and its streak"),
        (of[:FEW_ROWS], "next to the horizon: check incidence angle, beam and sample edge"),
    ):
        if float(part.sum()) > MOST_OF_IT:
            return f"{float(part.sum()):.0%} of the misfit lies {what}"
    return ""


def ends_of_known(known: Tensor, names: Sequence[str], values: Mapping[str, Tensor]) -> str:
    """Which bounds (2, P) of what is known the values of a draw end at, in words; empty for none."""
    named = []
    for name, low, high in zip(names, *known.tolist(), strict=True):
        span = high - low
        if name not in values or not 0 < span < math.inf:
            continue
        value = float(values[name])
        if min(abs(value - low), abs(high - value)) < AT_AN_END * span:
            named.append(f"{name} at {value:.3g}")
    return ends_at(named)
