"""Figure of a stitched object: phase, amplitude and standard deviation of what was seen."""

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nfphasing_bluesky.core import Axis, FrameError, StitchedObject, Trust
from nfphasing_bluesky.views.colours import LIGHTS
from nfphasing_bluesky.views.images import colour_limits, draw_image, image_extent

_DPI = 100
_REASON_WIDTH = 150
_WELL_KNOWN = 2.0
"""The colour scales are those of the pixels whose standard deviation is at most so many times the median."""


def figure_object(found: StitchedObject, title: str, trust: Trust) -> Figure:
    """Draw an object: phase, amplitude and standard deviation, row 0 at the top, what was not seen in grey.

    Only the rectangle around what was seen is drawn. Colours are scaled to the pixels that are known well.

    Args:
        found: with at least one frame.
        title: what it is of, and with which model.
        trust: of the scan.

    Returns:
        A figure with a canvas of its own; pyplot is not involved.

    Raises:
        FrameError: nothing was seen.
    """
    if not found.seen.any():
        raise FrameError(f"{title}: nothing was seen of the object, so that there is nothing to draw")
    rows, columns = _span(found.seen), _span(found.seen.T)
    axes = (_cut(found.axes[0], rows), _cut(found.axes[1], columns))
    phase, _ = found.parts[:, rows, columns]
    amplitude, std = np.abs(found.mean[rows, columns]), found.std[rows, columns]
    figure = Figure(figsize=(15, 5.2), dpi=_DPI, layout="compressed")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    known = np.isfinite(std) & (std <= _WELL_KNOWN * np.nanmedian(std))
    extent, unit = image_extent(axes)
    low, high = _limits(phase, known)
    if high - low > np.pi:
        low, high = -np.pi, np.pi
    colours = "twilight" if high - low > np.pi else "viridis"
    draw_image(panels[0], phase, "phase", "phase (rad)", (low, high), colours, extent)
    draw_image(
        panels[1],
        amplitude,
        "amplitude",
        "modulus of the transmission",
        _limits(amplitude, known),
        "gray",
        extent,
    )
    top = _limits(std, known)[1]
    draw_image(
        panels[2],
        std,
        "standard deviation",
        "of the transmission over its modulus",
        (0.0, top),
        "magma",
        extent,
    )
    for panel in panels:
        panel.set_xlabel(f"x ({unit})")
        panel.set_ylabel(f"y ({unit})")
    _hatch(panels[2], found.doubted[rows, columns], extent)
    left_out = f", {found.left_out} left out" if found.left_out else ""
    figure.suptitle(f"{title}   ·   {found.frames} frames{left_out}\n", x=0.01, ha="left", fontsize=12)
    colour = LIGHTS[trust.verdict]
    reason = textwrap.shorten(trust.reason, _REASON_WIDTH, placeholder=" …")
    figure.text(0.01, 0.93, reason, ha="left", va="top", fontsize=9.5, color=colour)
    light = f"● {trust.verdict}"
    figure.text(0.99, 0.985, light, ha="right", va="top", fontsize=15, weight="bold", color=colour)
    return figure


def _hatch(panel: Axes, doubted: NDArray[np.bool_], extent: tuple[float, float, float, float]) -> None:
    """Hatch what rests on frames that are not to be trusted."""
    if not doubted.any():
        return
    left, right, bottom, top = extent
    (rows, columns), centres = doubted.shape, [np.arange(n) + 0.5 for n in doubted.shape]
    x, y = left + (right - left) * centres[1] / columns, top + (bottom - top) * centres[0] / rows
    marked = panel.contourf(x, y, doubted, levels=[0.5, 1.5], colors="none", hatches=["///"])
    marked.set(edgecolor=(1, 1, 1, 0.4), linewidth=0.0)
    panel.set_xlabel(f"{panel.get_xlabel()}   ·   hatched: rests on ALARM frames")


def _limits(image: NDArray, known: NDArray[np.bool_]) -> tuple[float, float]:
    return colour_limits(np.where(known, image, np.nan))


def _span(seen: NDArray[np.bool_]) -> slice:
    """From the first row with a True to the last, and at least two where there is room."""
    places = np.flatnonzero(seen.any(1))
    first, stop = int(places[0]), int(places[-1]) + 1
    return slice(max(0, min(first, stop - 2)), stop)


def _cut(axis: Axis, span: slice) -> Axis:
    return Axis(axis.name, axis.values[span], axis.units)
