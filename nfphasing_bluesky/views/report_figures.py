"""The figures of a report: the measured frames, u along the scan with its band, parameters, trust."""

from collections.abc import Iterator

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nfphasing_bluesky.core import PROJECTED, Axis, DensityInfo, Verdict
from nfphasing_bluesky.views.colours import LIGHTS
from nfphasing_bluesky.views.figures import axis_label
from nfphasing_bluesky.views.images import as_drawn, colour_limits, draw_image, image_extent
from nfphasing_bluesky.views.report_data import Measured, Report
from nfphasing_bluesky.views.text import pretty_unit

_SHOWN = 6
_WIDTH_INCH, _DPI = 11.0, 110
_COURSES_IN_A_ROW = 3


def report_figures(report: Report) -> Iterator[tuple[str, Figure]]:
    """Yield each figure with its caption."""
    density = report.density
    if report.measured is not None and len(report.measured.values):
        upwards = density is not None and density.attrs["quantity"] == PROJECTED
        yield "What was measured", measured_figure(report.measured, upwards)
    if density is not None and density.sizes["time"]:
        curve = density["density_mean"].ndim == 2
        yield "u along the scan", curve_figure(density) if curve else image_figure(density)
        if report.units:
            yield "Parameters along the scan: median ± one standard deviation", course_figure(report, density)
        yield "Trust along the scan", trust_figure(density)
    if report.stitched is not None and report.stitched.sizes["time"]:
        yield "The stitched object", object_figure(report.stitched)


def measured_figure(measured: Measured, upwards: bool = False) -> Figure:
    """Draw all curves, or the first, middle and last image: row 0 on top, or below."""
    values = measured.values
    if values.ndim == 3:
        figure, axes = _grid(1, min(3, len(values)), 3.6)
        for place, index in zip(axes.flat, _spread(len(values), 3), strict=False):
            image = np.log10(1 + np.maximum(values[index], 0))
            draw_image(place, image, f"frame {index + 1}", "log10(1 + I)", colour_limits(image), "inferno")
            if upwards:
                place.invert_yaxis()
            place.set(xlabel="column (px)", ylabel="row (px)")
        return figure
    figure, axes = _grid(1, 1, 3.8)
    place = axes.flat[0]
    colours = _colours(len(values))
    for index, curve in enumerate(values):
        x = np.arange(curve.size) if measured.q is None else measured.q[min(index, len(measured.q) - 1)]
        place.plot(x, np.where(curve > 0, curve, np.nan), lw=0.8, color=colours[index])
    place.set_yscale("log")
    unit = pretty_unit(measured.q_unit) or "Å⁻¹"
    place.set(xlabel=f"q ({unit})" if measured.q is not None else "point", ylabel=measured.data_key)
    hidden = int((values <= 0).sum())
    gone = f"; {hidden} points are not positive and not drawn" if hidden else ""
    place.set_title(f"dark: first frame, bright: last{gone}", fontsize=9)
    return figure


def curve_figure(density: xarray.Dataset) -> Figure:
    """Draw mean and standard deviation as maps over frame and coordinate, and some curves with 2 std."""
    mean, std = density["density_mean"], density["density_std"]
    name = str(mean.dims[1])
    x, unit = _coordinate(density, name)
    quantity = axis_label(str(density.attrs["quantity"]), str(mean.attrs.get("units", "")))
    figure, axes = _grid(1, 3, 3.8)
    frames = density["raw_seq_num"].values
    for place, field, title, colours in (
        (axes.flat[0], mean, "posterior mean", "viridis"),
        (axes.flat[1], std, "standard deviation", "magma"),
    ):
        values = np.ma.masked_invalid(field.values)
        low, high = colour_limits(field.values) if np.isfinite(field.values).any() else (0.0, 1.0)
        drawn = place.pcolormesh(x, frames, values, vmin=low, vmax=high, cmap=colours, shading="nearest")
        figure.colorbar(drawn, ax=place, label=quantity)
        place.set(xlabel=axis_label(name, unit), ylabel="frame", title=title)
    place, shades = axes.flat[2], _colours(mean.shape[0])
    for index in _shown(mean.values, _SHOWN):
        place.plot(x, mean.values[index], color=shades[index], lw=1.2, label=f"frame {frames[index]}")
        edges = (mean.values[index] + sign * 2 * std.values[index] for sign in (-1, 1))
        place.fill_between(x, *edges, color=shades[index], alpha=0.2, lw=0)
    place.set(xlabel=axis_label(name, unit), ylabel=quantity, title="with 2 standard deviations")
    place.legend(fontsize=7)
    return figure


def image_figure(density: xarray.Dataset) -> Figure:
    """Draw mean above standard deviation of some frames."""
    mean, std = density["density_mean"], density["density_std"]
    label = axis_label(str(density.attrs["quantity"]), str(mean.attrs.get("units", "")))
    chosen = _shown(mean.values, 4)
    means, stds = (_layer(field.values[chosen]) for field in (mean, std))
    figure, axes = _grid(2, len(chosen), 5.2)
    numbers, (names, extent, (means, stds)) = (
        density["raw_seq_num"].values[chosen],
        _drawn(density, means, stds),
    )
    for row, (images, colours) in enumerate(((means, "viridis"), (stds, "magma"))):
        limits = colour_limits(images) if np.isfinite(images).any() else (0.0, 1.0)
        for column, image in enumerate(images):
            what = "mean" if row == 0 else "std"
            title = f"frame {numbers[column]}, {what}"
            draw_image(axes[row, column], image, title, label, limits, colours, extent)
            axes[row, column].set(xlabel=names[0], ylabel=names[1])
    return figure


def object_figure(stitched: xarray.Dataset) -> Figure:
    """Draw phase and standard deviation of the object as it was at the end."""
    phase, std = stitched["object_mean"].values[-1, 0], stitched["object_std"].values[-1]
    axes_of = tuple(Axis(name, *_coordinate(stitched, name)) for name in ("y", "x"))
    extent, unit = image_extent(axes_of)
    figure, axes = _grid(1, 2, 4.6)
    draw_image(axes.flat[0], phase, "phase", "rad", colour_limits(phase), "viridis", extent)
    draw_image(axes.flat[1], std, "standard deviation", "", (0.0, colour_limits(std)[1]), "magma", extent)
    for place in axes.flat:
        place.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})")
    return figure


def course_figure(report: Report, density: xarray.Dataset) -> Figure:
    """Draw each parameter over the frames with its error bars, coloured by the verdict."""
    names = [name for name in report.units if np.isfinite(density[name].values).any()] or list(report.units)
    rows = -(-len(names) // _COURSES_IN_A_ROW)
    figure, axes = _grid(rows, min(len(names), _COURSES_IN_A_ROW), 2.6 * rows)
    for place, name in zip(axes.flat, names, strict=False):
        _points(place, density, density[name].values, density[f"{name}_std"].values)
        unit = pretty_unit(report.units[name])
        place.set_ylabel(f"{name}\n({unit})" if unit else name, fontsize=8)
    for place in axes.flat[len(names) :]:
        place.set_visible(False)
    return figure


def trust_figure(density: xarray.Dataset) -> Figure:
    """Draw the checks over the frames, coloured by the verdict; one that a model does not have is said so."""
    figure, axes = _grid(1, 3, 2.8)
    checks = (
        ("reduced_chi2", "reduced chi²"),
        ("ess_fraction", "effective sample size / draws"),
        ("ood_score", "distance to training (limit 1)"),
    )
    for place, (name, label) in zip(axes.flat, checks, strict=True):
        values = density[name].values.astype(float)
        if np.isfinite(values).any():
            _points(place, density, values, None)
            place.set_ylabel(label, fontsize=9)
        else:
            place.set_axis_off()
            place.text(0.5, 0.5, f"{label}:\nnot known", ha="center", transform=place.transAxes)
    axes.flat[0].axhline(1, color="#9e9e9e", lw=0.8)
    return figure


def _points(
    place: Axes, density: xarray.Dataset, values: NDArray[np.floating], bars: NDArray[np.floating] | None
) -> None:
    frames, verdicts = density["raw_seq_num"].values, density["verdict"].values
    for verdict in Verdict:
        mine = verdicts == str(verdict)
        if mine.any():
            place.errorbar(
                frames[mine],
                values[mine],
                None if bars is None else bars[mine],
                fmt="o",
                ms=3,
                elinewidth=0.8,
                color=LIGHTS[verdict],
            )
    place.set_xlabel("frame", fontsize=8)
    place.xaxis.set_major_locator(MaxNLocator(integer=True))


def _grid(rows: int, columns: int, height_inch: float) -> tuple[Figure, NDArray]:
    figure = Figure(figsize=(_WIDTH_INCH, height_inch), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _spread(count: int, most: int) -> list[int]:
    """Indices from the first to the last, at most so many."""
    return sorted({round(float(i)) for i in np.linspace(0, count - 1, min(count, most))})


def _shown(values: NDArray, most: int) -> list[int]:
    """Indices of frames that were reconstructed, from the first to the last; the first of all if none was."""
    there = np.flatnonzero(np.isfinite(values).reshape(len(values), -1).any(axis=1))
    return [int(there[i]) for i in _spread(len(there), most)] if there.size else [0]


def _colours(count: int) -> NDArray:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.9, max(count, 1)))


def _layer(images: NDArray) -> NDArray:
    """(N, H, W); of phase and absorption the phase."""
    return images if images.ndim == 3 else images[:, 0]


def _drawn(
    density: xarray.Dataset, *images: NDArray
) -> tuple[tuple[str, str], tuple[float, float, float, float] | None, list[NDArray]]:
    """Labels of columns and rows of a frame's images, their edges where known, and the images as drawn."""
    rows, columns = (str(name) for name in density["density_mean"].dims[-2:])
    if not {rows, columns} <= set(density.coords):
        return ("column (px)", "row (px)"), None, list(images)
    axes = tuple(Axis(name, *_coordinate(density, name)) for name in (rows, columns))
    turned, shown = as_drawn(DensityInfo(str(density.attrs["quantity"]), "", axes), *images)
    extent, unit = image_extent(turned.axes)
    return (f"x ({pretty_unit(unit)})", f"y ({pretty_unit(unit)})"), extent, shown


def _coordinate(dataset: xarray.Dataset, name: str) -> tuple[NDArray[np.floating], str]:
    if name in dataset.coords:
        return np.asarray(dataset[name].values, np.float64), str(dataset[name].attrs.get("units", ""))
    return np.arange(float(dataset.sizes[name])), "px"
