"""The figure of a reconstruction from two cuts in grazing incidence: both with their prediction, and u."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame, FrameError, GrazingCutsGeometry, ModelInfo, Posterior
from nfphasing_bluesky.views.colours import DATA, FIT, GREY
from nfphasing_bluesky.views.figures import draw_density, write_title
from nfphasing_bluesky.views.parameters import text_height_inch, write_parameters

_COLUMN_INCH, _DPI = 5.6, 100


def is_cuts(frame: Frame) -> bool:
    """Return whether a frame is two cuts."""
    return isinstance(frame.geometry, GrazingCutsGeometry)


def figure_cuts(frame: Frame, posterior: Posterior, info: ModelInfo) -> Figure:
    """Draw both cuts with their posterior-predictive bands and residuals, and u with its bands.

    Args:
        frame: two cuts.
        posterior: with a one-dimensional density.
        info: the model.

    Returns:
        A figure of 1200 x 675 pixels with a canvas of its own.

    Raises:
        FrameError: the frame is no pair of cuts.
    """
    geometry = frame.geometry
    if not isinstance(geometry, GrazingCutsGeometry):
        raise FrameError(
            f"{frame.origin.label}: figure_cuts draws two cuts, got a frame {frame.intensity.shape} with "
            f"{type(geometry).__name__}"
        )
    figure = Figure(figsize=(12, 6.75), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    halves = figure.add_gridspec(1, 2, wspace=0.04)
    left = halves[0].subgridspec(4, 1, height_ratios=(3, 1, 3, 1))
    text = text_height_inch(posterior, info)
    right = halves[1].subgridspec(2, 1, height_ratios=(_COLUMN_INCH - text, text), hspace=0.02)
    low, high = np.degrees(geometry.exit_band_rad)
    across = geometry.q_y_band_inv_angstrom
    cuts = (
        (geometry.q_y_inv_angstrom, f"exit angle {low:.3g} to {high:.3g} degrees", "|q$_y$| (Å⁻¹)"),
        (
            np.degrees(geometry.exit_rad),
            f"|q$_y$| {across[0]:.3g} to {across[1]:.3g} Å⁻¹",
            "exit angle (degrees)",
        ),
    )
    parts = slice(None, geometry.in_plane), slice(geometry.in_plane, None)
    for row, ((place, title, name), part) in enumerate(zip(cuts, parts, strict=True)):
        axes = figure.add_subplot(left[2 * row])
        below = figure.add_subplot(left[2 * row + 1], sharex=axes)
        _draw_cut(axes, below, frame, posterior, place, part)
        axes.set_title(title, fontsize=9)
        below.set_xlabel(name)
        if row == 0:
            axes.legend(frameon=False, fontsize=8)
    draw_density(figure.add_subplot(right[0]), posterior)
    write_parameters(figure.add_subplot(right[1]), posterior, info)
    write_title(figure, posterior, info)
    return figure


def _draw_cut(
    axes: Axes, below: Axes, frame: Frame, posterior: Posterior, place: NDArray[np.floating], part: slice
) -> None:
    """Draw one cut, measured and predicted, and its residuals."""
    usable, value = frame.usable[part], frame.intensity[part]
    sigma = np.ones_like(value) if frame.sigma is None else frame.sigma[part]
    band = posterior.prediction
    mean, lower, upper = (v[part] for v in (band.mean, band.lower, band.upper))
    axes.errorbar(
        place[usable],
        value[usable],
        sigma[usable],
        fmt="o",
        ms=2.2,
        elinewidth=0.6,
        color=DATA,
        ecolor="#b0bec5",
        label="measured ± σ",
        zorder=1,
    )
    axes.fill_between(place, lower, upper, color=FIT, alpha=0.3, lw=0, zorder=2, label="95 % of predictions")
    axes.plot(place, mean, color=FIT, lw=1.3, zorder=3, label="posterior prediction")
    axes.set_yscale("log")
    lit = value[usable & (value > 0)]
    if lit.size:
        axes.set_ylim(0.5 * float(lit.min()), 2 * float(max(lit.max(), mean.max())))
    axes.set_ylabel("counts a pixel")
    axes.tick_params(labelbottom=False)
    ratio = value[usable] / np.maximum(mean[usable], 1e-30)
    below.axhline(1, color=FIT, lw=1.0)
    below.axhspan(0.9, 1.1, color=GREY, alpha=0.18, lw=0)
    below.plot(place[usable], ratio, "o", ms=2.0, color=DATA)
    spread = float(np.quantile(np.abs(ratio - 1), 0.98)) if ratio.size else 0.0
    reach = min(1.0, max(0.25, 1.2 * spread))
    below.set_ylim(1 - reach, 1 + reach)
    below.set_ylabel("ratio")
