"""The panel's plots: images with row 0 on top, or y upwards; curves with their error bands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray

from nfphasing_bluesky.core import PROJECTED
from nfphasing_bluesky.views.text import handy_unit, pretty_unit
from tango_device.panel.reading import Words

Array = NDArray[Any]
INK, BAND = "#1f4e79", (31, 78, 121, 60)


def dark_on_white() -> None:
    """Draw black on white, as the figures of the reports."""
    pg.setConfigOptions(background="w", foreground="k", antialias=True)


class ImagePlot(pg.PlotItem):
    """An image (rows, columns) in physical units with a colour bar. Row 0 is on top, column 0 on the left.

    What is behind a small-angle pattern, and the pattern, is shown with y and rows growing upwards.
    """

    def __init__(self, title: str, colours: str) -> None:
        super().__init__(title=title)
        self.image = pg.ImageItem(axisOrder="row-major")
        self.addItem(self.image)
        self.invertY(True)
        self.setAspectLocked(True)
        _plain_numbers(self)
        self.bar = pg.ColorBarItem(colorMap=pg.colormap.get(colours), interactive=False)
        self.bar.setImageItem(self.image, insert_in=self)
        self.bar.axis.enableAutoSIPrefix(False)

    def show_image(
        self,
        image: Array,
        axes: tuple[Array, ...] | None,
        unit: str,
        what: str,
        like: Array | None = None,
        *,
        upwards: bool = False,
    ) -> None:
        """Draw an image (H, W) with rows and columns at `axes` (y, x), on the scale of `like` or its own."""
        self.invertY(not upwards)
        self.image.setImage(image, autoLevels=False)
        y, x = axes or (np.arange(image.shape[0]), np.arange(image.shape[1]))
        left, width = _edges(x)
        top, height = _edges(y)
        self.image.setRect(left, top, width, height)
        self.bar.setLevels(_limits(image if like is None else like))
        self.bar.setLabel("left", what)
        self.setLabel("left", f"y ({unit})" if unit else "row")
        self.setLabel("bottom", f"x ({unit})" if unit else "column")


class CurvePlot(pg.PlotItem):
    """A curve with its band, and points."""

    def __init__(self, title: str, log: bool = False) -> None:
        super().__init__(title=title)
        self._title, self._log = title, log
        self.setLogMode(y=log)
        _plain_numbers(self)
        # a curve without any pen has no path to fill
        self._lower, self._upper = (self.plot(pen=pg.mkPen(0, 0, 0, 0)) for _ in range(2))
        self.addItem(pg.FillBetweenItem(self._lower, self._upper, brush=BAND), ignoreBounds=True)
        self._line = self.plot(pen=pg.mkPen(INK, width=2))
        self._points = self.plot(pen=None, symbol="o", symbolSize=3, symbolBrush="k", symbolPen=None)

    def show_curve(
        self, x: Array, line: Array, lower: Array | None = None, upper: Array | None = None
    ) -> None:
        """Draw a line over x with the band between two others, or without one."""
        self._line.setData(x, self._drawable(line))
        for item, edge in ((self._lower, lower), (self._upper, upper)):
            item.setData(*(([], []) if edge is None else (x, self._drawable(edge))))

    def show_points(self, x: Array, y: Array) -> None:
        """Draw points; of those that a logarithmic axis cannot show the title gives the number."""
        there = np.isfinite(y)
        good = there & ((y > 0) | (not self._log))
        self._points.setData(x[good], y[good])
        hidden = int(there.sum() - good.sum())
        note = f"; {hidden} of {int(there.sum())} points are not positive and not drawn" if hidden else ""
        self.setTitle(self._title + note)
        if self._log and good.any():
            self._reach(y[good])

    def _reach(self, y: Array) -> None:
        """Show the points and the line; a band that goes down to zero would squeeze them."""
        _, line = self._line.getOriginalDataset()
        seen = np.concatenate([y, line[line > 0] if line is not None else y])
        self.setYRange(float(np.log10(seen.min())), float(np.log10(seen.max())), padding=0.04)

    def _drawable(self, y: Array) -> Array:
        if not self._log or not np.any(y > 0):
            return y
        return np.maximum(y, 0.5 * np.min(y[y > 0]))


@dataclass(frozen=True, eq=False)
class Shown:
    """What is drawn of a device: u of the last frame, or the object that a scan is stitched to.

    Args:
        mean, std: (N,) or (H, W).
        axes: coordinates of the points, or of rows and columns; None where they are not known.
        axis_unit: of the coordinates.
        label, std_label: quantity and unit of both.
        title: what the mean is of.
        upwards: y grows upwards in pictures of it, and rows in those of its frame.
    """

    mean: Array
    std: Array
    axes: tuple[Array, ...] | None
    axis_unit: str
    label: str
    std_label: str
    title: str = "posterior mean"
    upwards: bool = False


def shown(values: Mapping[str, Any], words: Mapping[str, Words]) -> Shown | None:
    """Choose what is drawn; None before the first frame."""
    if {"object_phase", "object_std", "object_axis_y", "object_axis_x"} <= values.keys():
        axes, unit = _handy((values["object_axis_y"], values["object_axis_x"]), values, "object_axis_unit")
        labels = "phase of the object (rad)", "standard deviation / modulus"
        return Shown(values["object_phase"], values["object_std"], axes, unit, *labels, _object_title(values))
    if not {"density_mean", "density_std"} <= values.keys():
        return None
    mean = values["density_mean"]
    # what a density is, and in which units, depends on what is known of the frame; a patch shows its phase
    of_frame = "" if "absorption_mean" in words else values.get("density_quantity")
    quantity = of_frame or words["density_mean"].label.removesuffix(" mean")
    unit = pretty_unit(str(values.get("density_unit") or "")) or words["density_mean"].unit
    names = ("axis",) if mean.ndim == 1 else ("axis_y", "axis_x")
    coordinates: tuple[Array, ...] | None = None
    axis_unit = ""
    if all(name in values for name in names) and mean.shape == tuple(len(values[n]) for n in names):
        coordinates, axis_unit = _handy(tuple(values[name] for name in names), values, "axis_unit")
    parts = (str(quantity), "standard deviation")
    label, std_label = (f"{what} ({unit})" if unit else what for what in parts)
    upwards = mean.ndim == 2 and quantity == PROJECTED
    return Shown(mean, values["density_std"], coordinates, axis_unit, label, std_label, upwards=upwards)


def _object_title(values: Mapping[str, Any]) -> str:
    """How much of a scan is in the object so far, and whether it hangs together."""
    frames, parts = int(values.get("object_frames", 0)), int(values.get("object_components", 1))
    apart = f", {parts} parts that don't overlap" if parts > 1 else ""
    return f"object, stitched of {frames} frame{'' if frames == 1 else 's'}{apart}"


def _handy(axes: tuple[Array, ...], values: Mapping[str, Any], unit: str) -> tuple[tuple[Array, ...], str]:
    """Coordinates in a unit with handy numbers, which `values` names under `unit`."""
    factor, name = handy_unit(float(np.ptp(axes[-1])), str(values.get(unit, "")))
    return tuple(axis / factor for axis in axes), pretty_unit(name)


def _plain_numbers(plot: pg.PlotItem) -> None:
    """Write ticks as they are: a factor in the label beside the unit reads like part of the unit."""
    for side in ("left", "bottom"):
        plot.getAxis(side).enableAutoSIPrefix(False)


def _edges(centres: Array) -> tuple[float, float]:
    """Outer edge of the first pixel and the length to that of the last."""
    step = float(centres[1] - centres[0]) if len(centres) > 1 else 1.0
    return float(centres[0]) - step / 2, step * len(centres)


def _limits(image: Array) -> tuple[float, float]:
    good = image[np.isfinite(image)]
    if not good.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(good, [0.5, 99.5]))
    return (low, high) if high > low else (low, low + 1.0)
