"""Modes of a set of draws: where a posterior has several answers, each with its weight and mean.

The draws are divided in two again and again. A division needs a direction (one of the leading principal
components, or a whitened combination of them found by its kurtosis) along which a valley is significantly
less dense than a peak on either side of it, and needs the valley to be there also when followed through the
space around it, so that a ring or a banana stays one mode. Nothing has to be known of the number of modes.

Where it is known which answer each draw was made from, the answers that the draws tell apart are the modes:
see `answers`. That finds smaller modes, nearer to each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.answers import joined
from nfphasing_bluesky.core.errors import SettingsError
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.core.symmetry import Symmetry
from nfphasing_bluesky.core.valleys import deepest_valley

Array = NDArray[Any]
Alignment = Callable[[Array], Array]
COMPONENTS = 12
NEIGHBOURS = 8
CONNECTED = 2.0
MIN_DRAWS = 8


@dataclass(frozen=True, eq=False)
class Mode:
    """One answer among the draws.

    Args:
        weight: fraction of the draws.
        mean, std: pointwise mean and standard deviation of its aligned draws, the density's shape; the mean
            is complex where the draws are.
        members: (M,) indices of its draws.
    """

    weight: float
    mean: Array
    std: FloatArray
    members: NDArray[np.integer]


def find_modes(
    draws: Array, align: Alignment | None = None, answers: NDArray[np.integer] | None = None
) -> tuple[Mode, ...]:
    """Modes of (S, *shape) real or complex draws, the heaviest first.

    Without `answers`, modes nearer than about 6 of their own standard deviations count as one, and a mode of
    fewer than about 12 draws is too small to be told from a fluctuation. Seeing one of weight w among S draws
    of D uncorrelated noisy pixels takes a distance of at least sqrt(1/w) (D/S)^(1/4) standard deviations of a
    pixel.

    Args:
        draws: (S, *shape).
        align: takes all draws and returns them without their trivial differences, such as `Symmetry`; None
            leaves them as they are.
        answers: (S,) which answer each draw was made from, any integers; None or empty where that is not
            known. Draws of one answer are moved together by a `Symmetry` that moves, and stay together.

    Raises:
        SettingsError: no draws, draws that are not finite, or an `align` that leaves some out.
    """
    draws = np.asarray(draws)
    if draws.ndim < 1 or draws.shape[0] == 0:
        raise SettingsError(f"draws of shape {draws.shape} hold none; expected (S, *shape), S >= 1")
    if not np.isfinite(draws).all():
        raise SettingsError("draws hold NaN or infinity; leave these draws out before looking for modes")
    if answers is not None and len(answers):
        return _modes_of_answers(draws, align, answers)
    aligned = draws if align is None else align(draws)
    if aligned.shape[0] != draws.shape[0]:
        raise SettingsError(
            f"align returned {aligned.shape[0]} draws for {draws.shape[0]}; return every draw"
        )
    groups = _divide(_gram(aligned), np.arange(len(draws)))
    weights = [members.size / len(draws) for members in groups]
    modes = [_mode(aligned[members], w, members) for members, w in zip(groups, weights, strict=True)]
    return tuple(sorted(modes, key=lambda mode: -mode.weight))


def _modes_of_answers(
    draws: Array, align: Alignment | None, answers: NDArray[np.integer]
) -> tuple[Mode, ...]:
    """Modes of draws whose answers are known: what is one is shown where most of its draws are."""
    if len(answers) != len(draws):
        raise SettingsError(f"{len(answers)} answers for {len(draws)} draws; expected one each, or none")

    def aligned(members: NDArray[np.intp]) -> Array:
        if isinstance(align, Symmetry):
            return align.together(draws[members], answers[members])
        return draws[members] if align is None else align(draws[members])

    groups = joined(aligned(np.arange(len(draws))), answers)
    modes = [_mode(aligned(members), members.size / len(draws), members) for members in groups]
    return tuple(sorted(modes, key=lambda mode: -mode.weight))


def _mode(draws: Array, weight: float, members: NDArray[np.intp]) -> Mode:
    return Mode(weight, draws.mean(axis=0), draws.std(axis=0), members)


def _gram(draws: Array) -> FloatArray:
    """(S, S) inner products of the draws about their mean: all that distances and components need."""
    flat = draws.reshape(draws.shape[0], -1)
    if np.iscomplexobj(flat):
        flat = np.concatenate([flat.real, flat.imag], axis=1)
    rounding = 4 * np.finfo(np.result_type(flat.dtype, np.float32)).eps * np.abs(flat).max(initial=0)
    flat = flat.astype(np.float64)
    flat -= flat.mean(axis=0)
    flat[np.abs(flat) <= rounding] = 0
    return flat @ flat.T


def _divide(gram: FloatArray, members: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Groups of `members` between which there are valleys."""
    if members.size < 2 * MIN_DRAWS:
        return [members]
    scores = _components(gram[np.ix_(members, members)])
    for lines in (list(scores.T), _extreme_lines(scores)):
        valleys = [(deepest_valley(line, MIN_DRAWS), line) for line in lines]
        found = [(valley, line) for valley, line in valleys if valley is not None]
        for valley, line in sorted(found, key=lambda pair: -pair[0].evidence):
            right = line > valley.position
            if not _connected(line, scores, right):
                return [*_divide(gram, members[~right]), *_divide(gram, members[right])]
    return [members]


def _components(gram: FloatArray) -> FloatArray:
    """(M, C) leading principal components of the draws, unit variance each, by subspace iteration."""
    row = gram.mean(axis=0)
    gram = gram - row - row[:, None] + row.mean()
    size = gram.shape[0]
    count = min(COMPONENTS, size // 4)
    basis = np.random.default_rng(0).normal(size=(size, min(2 * count + 4, size)))
    for _ in range(12):
        basis, _ = np.linalg.qr(gram @ basis)
    values, vectors = np.linalg.eigh(basis.T @ gram @ basis)
    kept = np.flatnonzero(values > 1e-12 * max(values[-1], 1e-300))[::-1][:count]
    return basis @ vectors[:, kept] * np.sqrt(size)


def _extreme_lines(scores: FloatArray) -> list[FloatArray]:
    """(M,) combinations of the components of extreme kurtosis, where there are draws enough to fit them."""
    if scores.shape[1] < 2 or scores.shape[0] < 20 * scores.shape[1]:
        return []
    return [scores @ direction for direction in _extreme_kurtosis(scores)]


def _extreme_kurtosis(scores: FloatArray) -> FloatArray:
    """(C, C) orthogonal directions of extreme kurtosis of whitened scores (symmetric FastICA, cubic)."""
    count = scores.shape[1]
    unmixing = np.eye(count)
    for _ in range(30):
        projected = scores @ unmixing.T
        step = (projected**3).T @ scores / len(scores) - 3 * unmixing
        left, _, right = np.linalg.svd(step)
        unmixing = left @ right
    return unmixing


def _connected(line: FloatArray, scores: FloatArray, right: NDArray[np.bool_]) -> bool:
    """Whether the two sides touch in the plane or space of the line and the two components beside it.

    They do where the easiest step across (at least the distance to the NEIGHBOURS-th neighbour at both ends)
    is not much longer than a usual step on either side. Lengths are in standard deviations within the sides.
    """
    beside = scores - np.outer(line, line @ scores / (line @ line))
    left, values, _ = np.linalg.svd(beside[:, :3], full_matrices=False)
    points = np.column_stack([line, left[:, :2][:, values[:2] > 1e-6 * np.sqrt(len(line))]])
    middle = np.where(right[:, None], points[right].mean(axis=0), points[~right].mean(axis=0))
    points = points / np.maximum((points - middle).std(axis=0), 1e-300)
    square = np.sum(points**2, axis=1)
    distance = np.sqrt(np.maximum(square + square[:, None] - 2 * points @ points.T, 0))
    core = np.empty(right.size)
    for side in (right, ~right):
        neighbours = min(NEIGHBOURS, int(side.sum()) // 3)
        core[side] = np.partition(distance[np.ix_(side, side)], neighbours, axis=1)[:, neighbours]
    across = np.maximum(distance[np.ix_(right, ~right)], np.maximum.outer(core[right], core[~right]))
    usual = max(np.median(core[right]), np.median(core[~right]))
    return bool(across.min() < CONNECTED * usual)
