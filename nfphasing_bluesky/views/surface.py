"""The figure of a reconstruction from a frame in grazing incidence: the frame, its prediction, and u."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nfphasing_bluesky.core import Frame, FrameError, GrazingGeometry, ModelInfo, Posterior
from nfphasing_bluesky.views.figures import draw_density, write_title
from nfphasing_bluesky.views.images import colour_limits, draw_image
from nfphasing_bluesky.views.parameters import text_height_inch, write_parameters

_DPI, _IMAGES_INCH = 100, 3.6
_RATIO = 0.5
"""Largest logarithm of measured over predicted that has a colour of its own."""


def is_surface(frame: Frame) -> bool:
    """Return whether a frame is that of a detector behind a surface."""
    return isinstance(frame.geometry, GrazingGeometry)


def figure_surface(frame: Frame, posterior: Posterior, info: ModelInfo) -> Figure:
    """Draw a frame, its posterior prediction and their ratio where it was looked at, and u with its bands.

    Args:
        frame: (H, W) in grazing incidence.
        posterior: with a one-dimensional density; its prediction is NaN where nothing was looked at.
        info: the model.

    Returns:
        A figure of 1200 pixels in width with a canvas of its own.

    Raises:
        FrameError: the frame has another geometry.
    """
    geometry = frame.geometry
    if not isinstance(geometry, GrazingGeometry):
        raise FrameError(
            f"{frame.origin.label}: figure_surface draws a frame in grazing incidence, got a frame "
            f"{frame.intensity.shape} with {type(geometry).__name__}"
        )
    text = text_height_inch(posterior, info)
    figure = Figure(figsize=(12, 2 * _IMAGES_INCH + 1.2), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.add_gridspec(2, 1, height_ratios=(_IMAGES_INCH, max(_IMAGES_INCH, text)))
    above, below = rows[0].subgridspec(1, 3), rows[1].subgridspec(1, 2)
    _draw_images([figure.add_subplot(above[i]) for i in range(3)], frame, geometry, posterior)
    draw_density(figure.add_subplot(below[0]), posterior)
    write_parameters(figure.add_subplot(below[1]), posterior, info)
    write_title(figure, posterior, info)
    return figure


def _draw_images(axes: list[Axes], frame: Frame, geometry: GrazingGeometry, posterior: Posterior) -> None:
    rows_up = slice(None, None, -1) if geometry.rows_up else slice(None)
    predicted = posterior.prediction.mean[rows_up]
    usable, counts = frame.usable[rows_up], frame.intensity[rows_up]
    seen = np.isfinite(predicted)
    part = tuple(slice(int(v.min()), int(v.max()) + 1) for v in np.nonzero(seen))
    extent = _extent(geometry, frame.intensity.shape[0], part)
    with np.errstate(divide="ignore", invalid="ignore"):
        measured = np.log10(np.where(usable & (counts > 0), counts, np.nan)[part])
        fit = np.log10(predicted[part])
    limits = colour_limits(np.where(np.isfinite(fit), measured, np.nan))
    ratio = np.where(np.isfinite(fit), measured - fit, np.nan)
    draw_image(axes[0], measured, "measured", "log$_{10}$ counts", limits, "viridis", extent)
    draw_image(axes[1], fit, "posterior prediction", "log$_{10}$ counts", limits, "viridis", extent)
    draw_image(axes[2], ratio, "measured / predicted", "log$_{10}$", (-_RATIO, _RATIO), "RdBu_r", extent)
    for one in axes:
        one.set_aspect("auto")
        one.set_xlabel("q$_y$ (Å⁻¹)")
        one.set_ylabel("exit angle (degrees)")


def _extent(
    geometry: GrazingGeometry, height: int, part: tuple[slice, ...]
) -> tuple[float, float, float, float]:
    """Edges left, right, bottom, top of a part of a frame whose row 0 is on top, straight over the beam."""
    row, column = geometry.beam_px
    row = height - row if geometry.rows_up else row
    tall, wide = (size / geometry.distance_m for size in geometry.pixel_size_m)
    k = 2e-10 * math.pi / geometry.wavelength_m
    tilt = geometry.normal_rad - geometry.incidence_rad
    left, right = (k * (edge - column) * wide for edge in (part[1].start, part[1].stop))
    bottom, top = (
        math.degrees(math.atan((row - edge) * tall) + tilt) for edge in (part[0].stop, part[0].start)
    )
    return left, right, bottom, top
