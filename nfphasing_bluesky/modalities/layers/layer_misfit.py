"""What to check next where no stack of layers explains a curve, from what the likeliest leaves over."""

import math

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.layers.critical_edge import edge_agreement, furthest_edge
from nfphasing_bluesky.modalities.layers.layer_prior import (
    MOST_LAYERS,
    NAMES,
    PER_LAYER,
    QUANTITIES,
    columns,
    widest,
)
from nfphasing_bluesky.modalities.layers.reflectivity_curves import ReflectivityBatch
from nfphasing_bluesky.modalities.misfit import (
    MOST_OF_IT,
    ends_at,
    excuse,
    excusing_error,
    joined,
    squares,
)

AT_AN_END = 0.005
"""Of the way between two bounds."""
BEYOND_THE_EDGE = 1.5
FEW_POINTS = 0.4
DARK = 3.0
"""Times the lowest prediction, below which a curve is nearly all background."""
THICKER = 1.15
FLATTER = 0.6
FRINGE_POINTS = 40
OTHERWISE = (
    f"check the unit of q, and whether the sample has more than {MOST_LAYERS} layers, or graded ones: "
    "the model has not"
)


def next_step(batch: ReflectivityBatch, best: Draws, predicted: Tensor, sigma_floor: float) -> list[str]:
    """What to check of each of B curves that no draw explains, in a few words.

    Args:
        batch: the curves.
        best: the likeliest draw of each.
        predicted: (B, Q) its curve.
        sigma_floor: relative error that is in the batch's sigma.
    """
    error = excusing_error(batch, predicted).tolist()
    share = squares(batch, predicted)
    share = share / share.sum(1, keepdim=True).clamp_min(1e-300)
    misplaced = (edge_agreement(batch) == 0).tolist()
    out = []
    for b in range(len(batch)):
        at = torch.tensor([b], device=batch.points.device)
        row, curve = batch.at(at), predicted[b]
        words = [
            _fringes(row, curve),
            _place(row, curve, share[b]),
            _offset(best, b),
            excuse(error[b], sigma_floor),
            _bounds(row, best, b),
            "" if misplaced[b] else _layers(row),
        ]
        out.append(joined(words) or ("" if misplaced[b] else OTHERWISE))
    return out


def _offset(best: Draws, b: int) -> str:
    layers = int(best.label[b])
    place = columns(layers).index(NAMES.index("q_offset_inv_angstrom"))
    if not _ended(float(best.theta[b, place])):
        return ""
    return "the q offset of the fit is as large as it may be: check the zero of the angles"


def _ended(place: float) -> bool:
    return not AT_AN_END < place < 1 - AT_AN_END


def _place(row: ReflectivityBatch, curve: Tensor, share: Tensor) -> str:
    """Where most of the misfit lies, if at one end of the curve."""
    usable = ~row.mask[0]
    q, curve, share = row.points[0][usable].double(), curve[usable].double(), share[usable]
    fallen = curve < 0.5 * curve.cummax(0).values
    edge = q[int(fallen.to(torch.uint8).argmax())] if bool(fallen.any()) else q[0]
    for low, what in (
        (True, "check footprint, beam and the zero of the angles, or leave out what lies below"),
        (False, "check the background, or leave out what lies beyond"),
    ):
        end = q <= BEYOND_THE_EDGE * edge if low else curve < DARK * curve.amin()
        part = float(share[end].sum())
        if part > MOST_OF_IT and float(end.double().mean()) < FEW_POINTS:
            where = f"below q={float(q[end].amax()):.2g}" if low else f"beyond q={float(q[end].amin()):.2g}"
            return f"{part:.0%} of the misfit lies {where} 1/angstrom: {what}"
    return ""


def _fringes(row: ReflectivityBatch, curve: Tensor) -> str:
    """What their period and depth say that a stack within the bounds can't have."""
    usable = ~row.mask[0] & (row.intensity[0] > 2 * row.sigma[0])
    usable &= row.points[0] > BEYOND_THE_EDGE * 0.5 * float(furthest_edge(row)[0])
    if int(usable.sum()) < FRINGE_POINTS:
        return ""
    q = row.points[0][usable].double()
    measured = _oscillation(q, row.intensity[0][usable].double())
    predicted = _oscillation(q, curve[usable].double().clamp_min(1e-30))
    step = float(q.diff().median())
    thickness = torch.arange(2 * math.pi / float(q[-1] - q[0]), 0.8 * math.pi / step, 2.0).double()
    wave = torch.exp(1j * thickness[:, None] * q)
    strength = (wave @ measured.to(wave)).abs()
    place = int(strength.argmax())
    most = _thickest(row)
    if float(strength[place]) < 4 * float(strength.median()):
        return ""
    if float(thickness[place]) > THICKER * most:
        found = float(thickness[place])
        return (
            f"fringes tell of about {found:.0f} angstrom, more than the {most:.0f} that the bounds hold: "
            "allow more or thicker layers"
        )
    flatter = float(strength[place]) < FLATTER * float((wave[place] @ predicted.to(wave)).abs())
    if flatter and not bool((row.dq > 0).any()):
        return "fringes are flatter than any film's: no resolution (dq) came with the curve; give it"
    return ""


def _oscillation(q: Tensor, value: Tensor) -> Tensor:
    """(Q,) what is left of the logarithm of R q^4 beside a smooth trend."""
    place = 2 * (q - q[0]) / (q[-1] - q[0]) - 1
    trend = torch.stack([place**k for k in range(4)], 1)
    level = (value * q**4).log()
    return level - trend @ torch.linalg.lstsq(trend, level[:, None]).solution[:, 0]


def _most_layers(row: ReflectivityBatch) -> int:
    return int(row.layers[0].nonzero().amax())


def _thickest(row: ReflectivityBatch) -> float:
    """Thickness of the thickest stack within the bounds, angstrom."""
    upper = row.upper[0, : PER_LAYER * _most_layers(row) : PER_LAYER]
    return float(upper.exp().sum())


def _bounds(row: ReflectivityBatch, best: Draws, b: int) -> str:
    """Bounds that a frame came with at which the fit ends."""
    low, high = (edge.to(row.lower) for edge in widest())
    own = columns(int(best.label[b]))
    named = []
    for column, place in zip(own, best.theta[b].tolist(), strict=False):
        edge, limit = (row.lower, low) if place < 0.5 else (row.upper, high)
        narrower = float((edge[0, column] - limit[column]).abs()) > 1e-6
        if narrower and _ended(place):
            value = float(edge[0, column])
            value = math.exp(value) if QUANTITIES[column].log else value
            named.append(f"{NAMES[column]} at {value:.3g}")
    return ends_at(named)


def _layers(row: ReflectivityBatch) -> str:
    most = _most_layers(row)
    if most == MOST_LAYERS:
        return ""
    allowed = f"{most} layer{'s' * (most > 1)} at most" if most else "a bare surface alone"
    return f"the bounds allow {allowed}: allow more layers"
