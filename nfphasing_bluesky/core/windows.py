"""Rectangles of an object's pixels."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from nfphasing_bluesky.core.errors import GeometryError

_MOST_PIXELS = 2**27


class Window(NamedTuple):
    """A rectangle of an object: row and column of its pixel [0, 0], and its numbers of rows and columns."""

    row: int
    column: int
    rows: int
    columns: int


def common(one: Window, other: Window) -> Window:
    """Rectangle that two have in common; rows or columns are 0 or less without any."""
    row, column = max(one.row, other.row), max(one.column, other.column)
    return Window(
        row,
        column,
        min(one.row + one.rows, other.row + other.rows) - row,
        min(one.column + one.columns, other.column + other.columns) - column,
    )


def overlap(box: Window, window: Window) -> tuple[slice, slice]:
    """Where in an array over `box` the part of `window` lies that it has."""
    both = common(box, window)
    row, column = both.row - box.row, both.column - box.column
    return slice(row, row + max(both.rows, 0)), slice(column, column + max(both.columns, 0))


def around(windows: Iterable[Window]) -> Window:
    """Smallest rectangle that holds all of them; GeometryError where it has too many pixels."""
    corners = np.array([(w.row, w.column, w.row + w.rows, w.column + w.columns) for w in windows])
    row, column = (int(n) for n in corners[:, :2].min(0))
    last_row, last_column = (int(n) for n in corners[:, 2:].max(0))
    if (last_row - row) * (last_column - column) > _MOST_PIXELS:
        raise GeometryError(
            f"the patches span {last_row - row} x {last_column - column} pixels, expected at most "
            f"{_MOST_PIXELS} in all; check the unit of the positions and the pixel size"
        )
    return Window(row, column, last_row - row, last_column - column)
