"""Parameters, classes and checks in words, below the density of a figure."""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

from nfphasing_bluesky.core import ModelInfo, Posterior
from nfphasing_bluesky.views.colours import DATA, MUTED
from nfphasing_bluesky.views.text import class_line, parameter_lines, trust_line

_ROW_INCH = 0.2
_FOOTER_WIDTH, _MANY = 80, 14
_ONE_COLUMN = 9
_HALF, _SMALLEST = 0.54, 6.0
_GAP_INCH, _MARGIN_INCH, _HINTED = 0.15, 0.55, 1.08


def _footer(posterior: Posterior) -> list[str]:
    """Return the lines of classes and checks, none too long for the figure."""
    lines = (class_line(posterior), trust_line(posterior.trust))
    return [part for line in lines if line for part in textwrap.wrap(line, _FOOTER_WIDTH)]


def _text_rows(posterior: Posterior, info: ModelInfo) -> tuple[int, int]:
    """Return how many rows of parameters there are, in one or two columns, and of classes and checks."""
    count = len(parameter_lines(posterior, info))
    return (count if count <= _ONE_COLUMN else -(-count // 2)), len(_footer(posterior))


def text_height_inch(posterior: Posterior, info: ModelInfo) -> float:
    """Return the height that the text below the density needs."""
    rows, footers = _text_rows(posterior, info)
    return min(3.0, max(1.1, _ROW_INCH * (rows + footers + 2)))


def write_parameters(axes: Axes, posterior: Posterior, info: ModelInfo) -> None:
    """Write parameters in up to two columns, as small as they need to be, then classes and checks."""
    axes.set_axis_off()
    lines = parameter_lines(posterior, info)
    rows, footers = _text_rows(posterior, info)
    pitch = 1.0 / max(text_height_inch(posterior, info) / _ROW_INCH, rows + footers + 1.5)
    size = 10.0 if len(lines) <= 5 else 9.0 if len(lines) <= _MANY else 8.0
    second, size = _fitted(lines[:rows], lines[rows:], _width_inch(axes), size)

    def write(text: str, column: int, row: float, **style: Any) -> None:
        axes.text(
            second * column,
            1.0 - row * pitch,
            text,
            va="top",
            transform=axes.transAxes,
            in_layout=False,
            **style,
        )

    write("median and 68 % interval", 0, 0.2, fontsize=8, color=MUTED)
    for number, line in enumerate(lines):
        write(line, number // max(1, rows), 1 + number % max(1, rows), fontsize=size)
    for number, line in enumerate(_footer(posterior)):
        write(line, 0, rows + 1.4 + number, fontsize=9, color=DATA)


def _fitted(
    first: Sequence[str], second: Sequence[str], room_inch: float, size: float
) -> tuple[float, float]:
    """Return where the second column begins, over the width, and the font size with which both fit."""
    one, other = (max((_length_inch(line, size) for line in part), default=0.0) for part in (first, second))
    if one + _GAP_INCH <= _HALF * room_inch and other <= (1 - _HALF) * room_inch:
        return _HALF, size
    share = min(1.0, (room_inch - _GAP_INCH) / max(one + other, 1e-9))
    return (one * share + _GAP_INCH) / room_inch, max(_SMALLEST, size * share)


def _length_inch(line: str, size: float) -> float:
    """Return how long a line is on the screen, where small letters are rounded to whole pixels."""
    return _HINTED * float(TextPath((0, 0), line, size=size).get_extents().width) / 72


def _width_inch(axes: Axes) -> float:
    """Return about how wide the axes are, before the figure is laid out."""
    figure, spec = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None and spec is not None  # noqa: S101  every axes of ours is a part of a grid
    whole = figure.subplotpars.right - figure.subplotpars.left
    return float(spec.get_position(figure).width / whole * figure.get_figwidth()) - _MARGIN_INCH
