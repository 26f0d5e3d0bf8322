"""Figures of reconstructed images: frame, prediction and residuals above, u with its error bar below."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    PROJECTED,
    Axis,
    DensityInfo,
    Frame,
    FrameError,
    Mode,
    ModelInfo,
    Posterior,
    parts_of,
)
from nfphasing_bluesky.views.figures import axis_label, write_title
from nfphasing_bluesky.views.patterns import draw_pattern, is_pattern
from nfphasing_bluesky.views.text import class_line, handy_unit, parameter_lines, pretty_unit, trust_line

_DPI = 100
_ROW_CHARACTERS = 170
_BEYOND = 0.2
"""Per cent of the pixels at either end that may lie beyond the colour scale."""
_FINE = 400
"""Pixels a side from which a picture has fewer: each then shows the mean of what it stands for."""


def figure_2d(frame: Frame, posterior: Posterior, info: ModelInfo) -> Figure:
    """Draw a frame and the image that was reconstructed from it.

    Above: the frame, the mean of its predictions on the same scale, and (I - fit)/sigma. Below: mean and
    standard deviation of u, and one draw; mean and draw share a scale; phase and absorption have a row each.
    Where there are several answers, the mean over all of them looks like none: the three heaviest stand side
    by side instead, with their weights, and their standard deviations below; an inversion twin is named. Row
    0 is at the top, of a small-angle pattern and its object the row of the largest qy and y. Masked pixels
    are grey.

    Args:
        frame: (H, W).
        posterior: with a two-dimensional density, or phase and absorption.
        info: the model.

    Returns:
        A figure of 1200 x 820 pixels, 1230 with a third row, and a canvas of its own; pyplot is not
        involved.

    Raises:
        FrameError: the frame or the density is not two-dimensional.
    """
    if not has_images(frame, posterior.density):
        raise FrameError(
            f"{frame.origin.label}: figure_2d draws a frame and a density of two axes, got a frame "
            f"{frame.intensity.shape} and a density {posterior.density.shape}"
        )
    height = 12.3 if _rows(posterior) == 3 else 8.2
    figure = Figure(figsize=(12, height), dpi=_DPI, layout="compressed")
    FigureCanvasAgg(figure)
    draw_2d(figure, frame, posterior, info)
    return figure


def draw_2d(figure: Figure, frame: Frame, posterior: Posterior, info: ModelInfo) -> None:
    """Draw `figure_2d` into a figure that exists, after clearing it."""
    figure.clear()
    modes = _answers(posterior)
    several = len(modes) > 1
    axes = figure.subplots(_rows(posterior), 3)
    (draw_pattern if is_pattern(frame) else _draw_frame)(axes[0], frame, posterior)
    if several:
        _draw_answers(axes[1:], posterior.density, modes)
    else:
        for part, info_of_part in enumerate(parts_of(posterior.density)):
            _draw_density(axes[1 + part], posterior, part, info_of_part)
    footer = [line for line in (class_line(posterior), trust_line(posterior.trust)) if line]
    text = "\n".join([*_in_rows(parameter_lines(posterior, info)), "    ".join(footer)])
    figure.supxlabel(text, fontsize=9)
    write_title(figure, posterior, info)


def has_images(frame: Frame, density: DensityInfo) -> bool:
    """Return whether `figure_2d` draws a frame and such a density."""
    return frame.intensity.ndim == 2 and all(len(part.axes) == 2 for part in parts_of(density))


def as_drawn(density: DensityInfo, *images: NDArray) -> tuple[DensityInfo, list[NDArray]]:
    """A density and images (..., H, W) of it with their rows as pictures have them, the first on top.

    That is as they are, but of what is behind a small-angle pattern y grows upwards, as qy does.
    """
    y, x = density.axes
    if density.quantity != PROJECTED or y.values[-1] < y.values[0]:
        return density, list(images)
    turned = replace(density, axes=(replace(y, values=y.values[::-1]), x))
    return turned, [image[..., ::-1, :] for image in images]


def _answers(posterior: Posterior) -> tuple[Mode, ...]:
    """Modes of a model that may give several; none of another."""
    return () if posterior.symmetry is None else posterior.modes()


def _rows(posterior: Posterior) -> int:
    """Of panels."""
    return 3 if len(_answers(posterior)) > 1 else 1 + len(parts_of(posterior.density))


def _in_rows(parts: Iterable[str]) -> list[str]:
    rows: list[str] = []
    for part in parts:
        if rows and len(rows[-1]) + len(part) < _ROW_CHARACTERS:
            rows[-1] += f"    {part}"
        else:
            rows.append(part)
    return rows


def _draw_frame(axes: NDArray, frame: Frame, posterior: Posterior) -> None:
    usable = frame.usable
    measured = np.where(usable, frame.intensity, np.nan)
    limits = colour_limits(measured)
    sigma = np.ones_like(measured) if frame.sigma is None else frame.sigma
    residual = (measured - posterior.prediction.mean) / np.where(usable, sigma, 1.0)
    name = "(I − fit)/σ" if frame.sigma is not None else "I − fit"
    reach = max(4.0, float(np.nanquantile(np.abs(residual), 0.999)))
    draw_image(axes[0], measured, "measured", "I", limits, "gray")
    draw_image(axes[1], posterior.prediction.mean, "posterior prediction", "I", limits, "gray")
    draw_image(axes[2], residual, "residual", name, (-reach, reach), "RdBu_r", mean_of_pixels=False)
    for one in axes:
        one.set_xlabel("column (px)")
        one.set_ylabel("row (px)")


def draw_mean_and_std(
    left: Axes,
    right: Axes,
    density: DensityInfo,
    mean: NDArray,
    std: NDArray,
    limits: tuple[float, float] | None = None,
    what: str = "",
) -> None:
    """Draw mean and standard deviation (H, W) of u with their scales and lengths, rows `as_drawn`.

    `what` ends the titles.
    """
    density, (mean, std) = as_drawn(density, mean, std)
    label, (extent, unit) = axis_label(density.quantity, density.units), image_extent(density.axes)
    draw_image(left, mean, f"posterior mean{what}", label, limits or colour_limits(mean), "viridis", extent)
    draw_image(right, std, f"standard deviation{what}", label, (0.0, colour_limits(std)[1]), "magma", extent)
    _name_axes((left, right), density, unit)


def _draw_density(axes: NDArray, posterior: Posterior, part: int, density: DensityInfo) -> None:
    """Draw mean, standard deviation and a draw of u, or of one part of it, into a row."""
    mean, std, draw = posterior.mean, posterior.std, posterior.samples[0]
    what = ""
    if mean.ndim > len(density.axes):
        mean, std, draw, what = mean[part], std[part], draw[part], f", {density.quantity}"
    limits = colour_limits(np.stack([mean, draw]))
    draw_mean_and_std(axes[0], axes[1], density, mean, std, limits, what)
    density, (draw,) = as_drawn(density, draw)
    extent, unit = image_extent(density.axes)
    label = axis_label(density.quantity, density.units)
    title = f"one of {len(posterior.samples)} draws{what}"
    draw_image(axes[2], draw, title, label, limits, "viridis", extent)
    _name_axes(axes[2:], density, unit)


def _draw_answers(axes: NDArray, density: DensityInfo, modes: Sequence[Mode]) -> None:
    """Draw the heaviest modes side by side: means with their weights above, standard deviations below."""
    shown = modes[: axes.shape[1]]
    limits = colour_limits(np.stack([mode.mean for mode in shown]))
    spread = (0.0, colour_limits(np.stack([mode.std for mode in shown]))[1])
    label = axis_label(density.quantity, density.units)
    for column, mode in enumerate(shown):
        turned, (mean, std) = as_drawn(density, mode.mean, mode.std)
        extent, unit = image_extent(turned.axes)
        number, (above, below) = column + 1, axes[:, column]
        title = f"answer {number} of {len(modes)}, weight {mode.weight:.0%}{_turned(mode, shown[:column])}"
        draw_image(above, mean, title, label, limits, "viridis", extent)
        draw_image(below, std, f"standard deviation of {number}", label, spread, "magma", extent)
        _name_axes((above, below), density, unit)
    for one in axes[:, len(shown) :].flat:
        one.set_axis_off()


def _turned(mode: Mode, others: Sequence[Mode]) -> str:
    """Words for which of the others an answer is, turned by 180 degrees; empty for none."""
    for number, other in enumerate(others, start=1):
        off, spread = mode.mean[::-1, ::-1] - other.mean, np.hypot(mode.std, other.std)
        if np.square(off).mean() < np.square(spread).mean():
            return f"\n(answer {number} turned by 180°)"
    return ""


def _name_axes(axes: Iterable[Axes], density: DensityInfo, unit: str) -> None:
    for one in axes:
        one.set_xlabel(f"{density.axes[1].name} ({pretty_unit(unit)})")
        one.set_ylabel(f"{density.axes[0].name} ({pretty_unit(unit)})")


def draw_image(
    axes: Axes,
    image: NDArray,
    title: str,
    label: str,
    limits: tuple[float, float],
    colours: str,
    extent: tuple[float, float, float, float] | None = None,
    mean_of_pixels: bool = True,
) -> None:
    """Draw an image with row 0 at the top, a colour bar, and grey where it is not finite.

    Of a large one no line is lost; of residuals (`mean_of_pixels` False) some are seen, as large as they are.
    """
    fine = mean_of_pixels and max(image.shape) > _FINE
    axes.set_facecolor("#bdbdbd")
    shown = axes.imshow(
        image,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        origin="upper",
        extent=extent,
        interpolation="antialiased" if fine else "nearest",
        interpolation_stage="data",
    )
    axes.set_title(title, fontsize=10)
    axes.figure.colorbar(shown, ax=axes, label=label, shrink=0.9)


def colour_limits(image: NDArray) -> tuple[float, float]:
    """Return a colour scale that leaves out a few pixels at either end."""
    low, high = np.nanpercentile(image, [_BEYOND, 100 - _BEYOND])
    return (float(low), float(high)) if high > low else (float(low) - 1e-6, float(high) + 1e-6)


def image_extent(axes: tuple[Axis, ...]) -> tuple[tuple[float, float, float, float], str]:
    """Return edges left, right, bottom, top of the outermost pixels, in a unit with handy numbers."""
    rows, columns = axes
    factor, unit = handy_unit(float(np.ptp(columns.values)), columns.units)
    edges = []
    for axis in (columns, rows):
        half = 0.5 * float(axis.values[1] - axis.values[0])
        edges.append(((axis.values[0] - half) / factor, (axis.values[-1] + half) / factor))
    (left, right), (top, bottom) = edges
    return (left, right, bottom, top), unit
