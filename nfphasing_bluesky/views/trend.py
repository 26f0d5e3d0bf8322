"""The figure of a run over time: one parameter with its band, frame after frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nfphasing_bluesky.views.colours import DATA, FIT, LIGHTS

FloatArray = NDArray[np.floating]
_DPI = 100


@dataclass(frozen=True, eq=False)
class Trend:
    """A parameter of N frames.

    Args:
        label: of the parameter, with its unit.
        seconds: (N,) when each frame was measured.
        median, std: (N,) of the posterior.
        verdicts: of the frames.
    """

    label: str
    seconds: FloatArray
    median: FloatArray
    std: FloatArray
    verdicts: Sequence[str]


def figure_trend(trend: Trend, title: str, truth: tuple[FloatArray, FloatArray] | None = None) -> Figure:
    """Draw medians with bands of one and two standard deviations, each point in the colour of its verdict.

    Args:
        trend: what is drawn.
        title: of the figure.
        truth: (M,) seconds and what was simulated; None where nobody knows.

    Returns:
        A figure of 900 x 560 pixels with a canvas of its own.
    """
    figure = Figure(figsize=(9, 5.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for width, alpha in ((2, 0.15), (1, 0.3)):
        low, high = trend.median - width * trend.std, trend.median + width * trend.std
        label = f"\u00b1 {width} standard deviation{'s' if width > 1 else ''}"
        axes.fill_between(trend.seconds, low, high, color=FIT, alpha=alpha, lw=0, label=label)
    axes.plot(trend.seconds, trend.median, color=FIT, lw=1.3, label="posterior median")
    for verdict, colour in LIGHTS.items():
        here = np.array([v == verdict.value for v in trend.verdicts])
        if here.any():
            axes.plot(trend.seconds[here], trend.median[here], "o", ms=5, color=colour, label=verdict.value)
    if truth is not None:
        axes.plot(*truth, color=DATA, lw=1.5, ls="--", label="simulated")
    axes.set_xlabel("time (s)")
    axes.set_ylabel(trend.label)
    axes.set_title(title, loc="left", fontsize=12)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure
