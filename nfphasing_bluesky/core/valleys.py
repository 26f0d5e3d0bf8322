"""Valleys in the density of points on a line."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.geometry import FloatArray

EVIDENCE = 13.0
SHALLOW = 0.5


@dataclass(frozen=True)
class Valley:
    """A place on the line, and by how many nats one peak fits the points there worse than two."""

    position: float
    evidence: float


def deepest_valley(points: FloatArray, min_points: int) -> Valley | None:
    """The most significant valley of (M,) points on a line; None where one peak explains them.

    A valley is an interval that holds v points, a peak one on either side of it that holds c >= min_points.
    With one peak only, the valley is at least as dense as the lower of the two, and v and c share their
    points as the widths do; the evidence is the log of the probability of what is seen (Chernoff's bound),
    less the log of the number of places where such a peak could have been.
    """
    line = np.sort(points)
    if line.size < 2 * min_points or line[-1] <= line[0]:
        return None
    left = _peaks(line, min_points)
    right = _peaks(-line[::-1], min_points)[:, ::-1]
    counts = _counts(line.size, min_points)
    best = Valley(0.0, EVIDENCE)
    for inside in _inside(line.size):
        width = line[inside + 1 :] - line[: -inside - 1]
        lower = _evidence(left[:, : -inside - 1], counts, width, inside, line.size)
        upper = _evidence(right[:, inside + 1 :], counts, width, inside, line.size)
        evidence = np.minimum(lower, upper)
        where = int(np.argmax(evidence))
        if evidence[where] > best.evidence:
            best = Valley(_widest_gap(line[where : where + inside + 2]), float(evidence[where]))
    return best if best.evidence > EVIDENCE else None


def _counts(size: int, min_points: int) -> NDArray[np.integer]:
    """Numbers of points of the peaks that are tried, geometric."""
    steps = max(2, int(np.ceil(np.log(size / 2 / min_points) / np.log(1.4))) + 1)
    return np.unique(np.geomspace(min_points, max(size // 2, min_points), steps).astype(int))


def _inside(size: int) -> list[int]:
    """Numbers of points of the valleys that are tried."""
    return [0, *(v for v in (1, 2, 4, 8, 16, 32, 64, 128, 256) if v < size // 4)]


def _peaks(line: FloatArray, min_points: int) -> FloatArray:
    """(C, M) width of the narrowest interval of c points among points 0..m; infinite where there is none."""
    counts = _counts(line.size, min_points)
    widths = np.full((counts.size, line.size), np.inf)
    for row, count in zip(widths, counts, strict=True):
        # c points span c - 1 gaps
        spans = (line[count - 1 :] - line[: line.size - count + 1]) * count / (count - 1)
        row[count - 1 :] = np.maximum(np.minimum.accumulate(spans), 1e-9 * (line[-1] - line[0]))
    return widths


def _evidence(
    peaks: FloatArray, counts: NDArray[np.integer], width: FloatArray, inside: int, size: int
) -> FloatArray:
    """(M,) nats against a valley as dense as the peak, for the best of the peaks (C, M)."""
    count = counts[:, None].astype(np.float64)
    share = count / (count + inside)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = peaks / (peaks + width)  # of the points of both that fall on the peak, at equal density
        nats = share * np.log(share / expected)
        if inside:
            nats = nats + (1 - share) * np.log((1 - share) / (1 - expected))
        nats = nats * (count + inside) - np.log(size / count)
        deep = inside / width < SHALLOW * count / peaks
    return np.where(deep & np.isfinite(nats), nats, -np.inf).max(axis=0)


def _widest_gap(line: FloatArray) -> float:
    gaps = np.diff(line)
    where = int(np.argmax(gaps))
    return float(line[where : where + 2].mean())
