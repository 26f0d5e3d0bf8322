"""Figures of one reconstruction: what was measured, how well it is explained, and u with its band."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    CurveGeometry,
    Frame,
    FrameError,
    ModelInfo,
    Posterior,
    StorageError,
)
from nfphasing_bluesky.views.colours import DATA, DENSITY, FIT, GREY, LIGHTS, MUTED
from nfphasing_bluesky.views.parameters import text_height_inch, write_parameters
from nfphasing_bluesky.views.text import pretty_unit

_DPI = 100
_COLUMN_INCH = 5.6
_SHOWN_DRAWS = 12
_LOG_Q_SPAN = 50.0
_MOST_REFLECTED = 2.0
_REASON_WIDTH, _REASON_LINES = 150, 2
_TITLE_INCH, _LINE_INCH, _GAP_INCH = 0.22, 0.17, 0.05


def figure_1d(frame: Frame, posterior: Posterior, info: ModelInfo) -> Figure:
    """Draw a curve with its posterior-predictive band and residuals, and u with its bands.

    Left: the measured points with their errors, the mean and 95 % band of the posterior prediction, and
    (I - fit)/sigma below. Right: mean, 68 % and 95 % bands of u and some draws, parameters below.

    Args:
        frame: (Q,) curve.
        posterior: with a one-dimensional density.
        info: the model.

    Returns:
        A figure of 1200 x 675 pixels with a canvas of its own; pyplot is not involved.

    Raises:
        FrameError: the frame is no curve, or the density is not one-dimensional.
    """
    if not isinstance(frame.geometry, CurveGeometry) or len(posterior.density.axes) != 1:
        raise FrameError(
            f"{frame.origin.label}: figure_1d draws a curve and a density over one axis, got a frame "
            f"{frame.intensity.shape} and a density {posterior.density.shape}"
        )
    figure = Figure(figsize=(12, 6.75), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    draw_1d(figure, frame, posterior, info)
    return figure


def draw_1d(figure: Figure, frame: Frame, posterior: Posterior, info: ModelInfo) -> None:
    """Draw `figure_1d` into a figure that exists, after clearing it."""
    figure.clear()
    halves = figure.add_gridspec(1, 2, wspace=0.04)
    left = halves[0].subgridspec(2, 1, height_ratios=(3.2, 1), hspace=0.02)
    text = text_height_inch(posterior, info)
    right = halves[1].subgridspec(2, 1, height_ratios=(_COLUMN_INCH - text, text), hspace=0.02)
    data_axes = figure.add_subplot(left[0])
    residual_axes = figure.add_subplot(left[1], sharex=data_axes)
    draw_data(data_axes, frame, posterior)
    draw_residuals(residual_axes, frame, posterior)
    draw_density(figure.add_subplot(right[0]), posterior)
    write_parameters(figure.add_subplot(right[1]), posterior, info)
    write_title(figure, posterior, info)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure at its own size; the suffix chooses the format, PNG by default.

    Raises:
        StorageError: the file cannot be written.
    """
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=_DPI)
    except OSError as error:
        raise StorageError(
            f"{path}: the figure cannot be written ({error}); check space and permissions"
        ) from error
    return path


def draw_data(axes: Axes, frame: Frame, posterior: Posterior) -> None:
    """Draw measured points, and the prediction with its band.

    The intensity axis is logarithmic; where points scatter below zero it becomes linear at the noise
    level, because a curve without its negative points looks like one above the fit.
    """
    q, usable = _q(frame), frame.usable
    linear_below = _scale_intensity(axes, frame, posterior)
    if linear_below:
        axes.axhline(0, color=GREY, lw=0.7, zorder=0)
        axes.axhline(linear_below, color=GREY, lw=0.7, ls=":", zorder=0)
        note = "linear below the dotted line"
        axes.text(0.02, 0.02, note, transform=axes.transAxes, fontsize=8, color=MUTED)
    axes.errorbar(
        q[usable],
        frame.intensity[usable],
        None if frame.sigma is None else frame.sigma[usable],
        fmt="o",
        ms=2.2,
        elinewidth=0.6,
        color=DATA,
        ecolor="#b0bec5",
        label="measured" if frame.sigma is None else "measured ± σ",
        zorder=1,
    )
    left_out = ~usable & np.isfinite(frame.intensity)
    if left_out.any():
        label = f"{np.count_nonzero(left_out)} left out"
        axes.plot(q[left_out], frame.intensity[left_out], "x", ms=3.5, color=GREY, label=label, zorder=4)
    prediction = posterior.prediction
    axes.fill_between(
        q,
        prediction.lower,
        prediction.upper,
        color=FIT,
        alpha=0.3,
        lw=0,
        zorder=2,
        label="95 % of predictions",
    )
    axes.plot(q, prediction.mean, color=FIT, lw=1.4, zorder=3, label="posterior prediction")
    reflected = _is_reflectivity(posterior)
    # fringes of layers are even in q
    if q[0] > 0 and q[-1] / q[0] > _LOG_Q_SPAN and not reflected:
        axes.set_xscale("log")
    axes.set_ylabel(_intensity_label(frame, reflected))
    axes.legend(frameon=False, fontsize=9, loc="best")
    axes.tick_params(labelbottom=False)


def _intensity_label(frame: Frame, reflected: bool) -> str:
    if not reflected:
        return "I (cm⁻¹)" if _absolute(frame) else "I (arb. units)"
    return "R" if float(np.nanmax(frame.intensity)) < _MOST_REFLECTED else "R (arb. units)"


def _is_reflectivity(posterior: Posterior) -> bool:
    """Return whether a curve is a reflectivity: its density is one over the depth."""
    return posterior.density.axes[0].name == "z"


def draw_residuals(axes: Axes, frame: Frame, posterior: Posterior) -> None:
    """Draw (I - fit)/sigma with lines at two sigma."""
    usable = frame.usable
    sigma = np.ones_like(frame.intensity) if frame.sigma is None else frame.sigma
    residual = (frame.intensity - posterior.prediction.mean)[usable] / sigma[usable]
    axes.axhspan(-2, 2, color=GREY, alpha=0.18, lw=0)
    axes.axhline(0, color=FIT, lw=1.2)
    axes.plot(_q(frame)[usable], residual, "o", ms=2.2, color=DATA)
    largest = float(np.quantile(np.abs(residual), 0.99)) if residual.size else 0.0
    limit = max(4.0, 1.15 * largest)
    beyond = np.count_nonzero(np.abs(residual) > limit)
    axes.set_ylim(-limit, limit)
    if beyond:
        axes.text(0.98, 0.9, f"{beyond} beyond", transform=axes.transAxes, ha="right", va="top", fontsize=8)
    name = "R" if _is_reflectivity(posterior) else "I"
    axes.set_ylabel(f"({name} − fit)/σ" if frame.sigma is not None else f"{name} − fit")
    axes.set_xlabel("q (Å⁻¹)")


def draw_density(axes: Axes, posterior: Posterior) -> None:
    """Draw the mean of u, the 68 % and 95 % bands of its draws, and some of these."""
    density = posterior.density
    (axis,) = density.axes
    levels = [0.025, 0.16, 0.84, 0.975]
    low95, low68, high68, high95 = np.nanquantile(posterior.samples, levels, axis=0, method="weibull")
    axes.fill_between(axis.values, low95, high95, color=DENSITY, alpha=0.15, lw=0, label="95 %")
    axes.fill_between(axis.values, low68, high68, color=DENSITY, alpha=0.3, lw=0, label="68 %")
    step = max(1, len(posterior.samples) // _SHOWN_DRAWS)
    chosen = posterior.samples[::step][:_SHOWN_DRAWS]
    for number, draw in enumerate(chosen):
        label = f"{len(chosen)} of {len(posterior.samples)} draws" if number == 0 else None
        axes.plot(axis.values, draw, color=DENSITY, lw=0.5, alpha=0.45, label=label)
    axes.plot(axis.values, posterior.mean, color="black", lw=1.5, label="mean")
    axes.axhline(0, color=GREY, lw=0.7, zorder=0)
    still = np.maximum(np.abs(low95 - low95[-1]), np.abs(high95 - high95[-1]))
    end = _end(axis.values, still)
    empty = np.maximum(np.abs(low95 - low95[0]), np.abs(high95 - high95[0]))
    axes.set_xlim(_begin(axis.values, empty, end), end)
    axes.set_xlabel(axis_label(axis.name, axis.units))
    axes.set_ylabel(axis_label(density.quantity, density.units))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.legend(frameon=False, fontsize=9, loc="best")


def _end(values: NDArray, size: NDArray) -> float:
    """Return where the axis may end: a third beyond the last place where u still changes."""
    there = np.flatnonzero(size > 0.005 * np.nanmax(size)) if np.nanmax(size) > 0 else np.array([])
    return float(min(values[-1], 1.33 * values[there[-1]])) if there.size else float(values[-1])


def _begin(values: NDArray, size: NDArray, end: float) -> float:
    """Return where the axis may begin: at 0, or somewhat before the first place where u changes."""
    there = np.flatnonzero(size > 0.005 * np.nanmax(size)) if np.nanmax(size) > 0 else np.array([])
    first = float(values[there[0]]) if there.size else 0.0
    return max(float(values[0]), min(0.0, first) - (0.0 if values[0] >= 0 else 0.05 * (end - first)))


def write_title(figure: Figure, posterior: Posterior, info: ModelInfo) -> None:
    """Write what was reconstructed with which model, and the verdict as a coloured light with its reason."""
    trust = posterior.trust
    colour = LIGHTS[trust.verdict]
    lines = textwrap.wrap(trust.reason, _REASON_WIDTH, max_lines=_REASON_LINES, placeholder=" …")
    height, title = figure.get_figheight(), f"{posterior.origin.label}   ·   {info.name}"
    figure.text(0.01, 0.98, title, ha="left", va="top", fontsize=12)
    below = 0.98 - _TITLE_INCH / height
    figure.text(0.01, below, "\n".join(lines), ha="left", va="top", fontsize=9.5, color=colour)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1, below - (_GAP_INCH + len(lines) * _LINE_INCH) / height))
    light = f"● {trust.verdict}"
    figure.text(0.99, 0.99, light, ha="right", va="top", fontsize=15, weight="bold", color=colour)


def _q(frame: Frame) -> NDArray[np.floating]:
    """Return (Q,) q of a curve, 1/angstrom."""
    assert isinstance(frame.geometry, CurveGeometry)  # noqa: S101 - figure_1d has checked it
    return frame.geometry.q_inv_angstrom


def _absolute(frame: Frame) -> bool:
    """Return whether intensities are in 1/cm."""
    return isinstance(frame.geometry, CurveGeometry) and frame.geometry.absolute


def axis_label(name: str, units: str) -> str:
    """Return an axis label with its unit."""
    unit = pretty_unit(units)
    return f"{name} ({unit})" if unit else name


def _scale_intensity(axes: Axes, frame: Frame, posterior: Posterior) -> float:
    """Scale the intensity axis; return the intensity below which it is linear, 0 for nowhere."""
    points = frame.intensity[frame.usable]
    prediction = posterior.prediction.mean
    positive = np.concatenate([points[points > 0], prediction[np.isfinite(prediction) & (prediction > 0)]])
    if positive.size == 0:
        return 0.0
    largest = 2.0 * float(positive.max())
    negative = points[points <= 0]
    if negative.size == 0:
        axes.set_yscale("log")
        axes.set_ylim(0.5 * float(positive.min()), largest)
        return 0.0
    noise = max(float(np.abs(negative).max()), _noise_level(frame)) or float(positive.min())
    decade = 10.0 ** np.ceil(np.log10(noise))  # a power of ten, where the ticks are
    axes.set_yscale("symlog", linthresh=decade, linscale=1.0)
    axes.set_ylim(-1.2 * noise, max(largest, 2 * decade))
    return float(decade)


def _noise_level(frame: Frame) -> float:
    """Return the median error of the points that do not stand out of the noise, 0 where none is known."""
    if frame.sigma is None:
        return 0.0
    noisy = frame.usable & (np.abs(frame.intensity) < 2 * frame.sigma)
    return float(np.median(frame.sigma[noisy])) if noisy.any() else 0.0
