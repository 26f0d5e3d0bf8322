"""Regions of a small-angle pattern that are filled with zeros, and are no lines: a beam stop, a dead chip."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LEAST_COUNTS = 300.0
"""Counts in a region that has its dimmest neighbour's everywhere: a minimum of a pattern, zero where it is
deepest, has a ninth of them two pixels across, and more where it is wider; chance leaves exp(-33) of that."""

BRIGHT = 1 / 3
"""Of the largest count that all neighbours of a thin region have: no minimum is a pixel wide there."""

LEAST_AROUND = 5.0
"""Counts of all neighbours of a wide region: where a dim pattern is zero by chance, some next to it are 1."""

_LEAST_BRIGHT, _LEAST_NEIGHBOURS = 50.0, 5
_NAMED = 4
_ALL_SIDES = np.ones((3, 3), bool)


class _Regions(NamedTuple):
    """Connected zeros: (H, W) number of each; by number: pixels, counts around, how many these are."""

    number: NDArray[np.intp]
    size: NDArray[np.intp]
    lowest: NDArray[np.floating]
    neighbours: NDArray[np.intp]


def dark_regions(counts: NDArray, mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.bool_], str]:
    """Find connected zeros whose neighbours count so much that they can be no part of a pattern.

    A pattern gets dimmer towards its minima, so that zeros of its own have dim neighbours: the dimmest one
    decides. Up to half of the frame may be dark.

    Args:
        counts: (H, W).
        mask: (H, W) True = not used.

    Returns:
        (H, W) True in dark regions, and which these are in words; empty for none.
    """
    known = np.isfinite(counts) & (counts >= 0)
    known = known if mask is None else known & ~mask
    found = _regions(np.where(known, counts, np.nan))
    wide = np.zeros(found.size.size, bool)
    wide[np.unique(found.number[ndimage.binary_opening(found.number > 0, np.ones((2, 2)))])] = True
    top = float(np.max(counts, where=known, initial=0))
    around = np.where(np.isfinite(found.lowest), found.lowest, 0.0)
    improbable = (around >= LEAST_AROUND) & (around * found.size > LEAST_COUNTS)
    dark = np.where(wide, improbable, around >= max(BRIGHT * top, _LEAST_BRIGHT))
    dark &= (found.neighbours >= _LEAST_NEIGHBOURS) & (found.size <= counts.size / 2)
    dark[0] = False
    return dark[found.number], _words(found, np.flatnonzero(dark))


def _regions(counts: NDArray[np.floating]) -> _Regions:
    """Connected zeros of counts, NaN where they are not known."""
    number, n = ndimage.label(counts == 0, _ALL_SIDES)
    lowest, neighbours = np.full(n + 1, np.inf), np.zeros(n + 1, np.intp)
    height, width = counts.shape
    inside, around = np.pad(number, 1), np.pad(counts, 1, constant_values=np.nan)
    for row, column in np.ndindex(3, 3):
        part = slice(row, row + height), slice(column, column + width)
        beside = (number > 0) & (inside[part] == 0) & np.isfinite(around[part])
        np.minimum.at(lowest, number[beside], around[part][beside])
        neighbours += np.bincount(number[beside], minlength=n + 1)
    return _Regions(number, np.bincount(number.ravel(), minlength=n + 1), lowest, neighbours)


def _words(found: _Regions, dark: NDArray[np.intp]) -> str:
    boxes = ndimage.find_objects(found.number)
    words = []
    for number in dark[:_NAMED]:
        rows, columns = ((part.start, part.stop - 1) for part in boxes[number - 1])
        words.append(
            f"{found.size[number]} pixels in rows {rows[0]} to {rows[1]}, "
            f"columns {columns[0]} to {columns[1]}"
        )
    if dark.size > _NAMED:
        words.append(f"{dark.size - _NAMED} more regions")
    return ", ".join(words)
