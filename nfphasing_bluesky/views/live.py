"""A plot that follows a scan: the latest density with its band, and the course of the parameters."""

import logging
import os
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from nfphasing_bluesky.core import ModelInfo, Posterior, Verdict
from nfphasing_bluesky.views.colours import LIGHTS
from nfphasing_bluesky.views.figures import axis_label
from nfphasing_bluesky.views.images import draw_mean_and_std
from nfphasing_bluesky.views.live_state import LiveDensity, LivePoint, LiveState, Snapshot

log = logging.getLogger(__name__)

_TRENDS = 3


class LiveReconstruction:
    """Shows reconstructions while they arrive, a few times a second at most; what lies between is skipped.

    Subscribe it to derived documents (`view(name, doc)`), or hand it posteriors (`view.show`). Both only
    take note, in microseconds, and never raise: what goes wrong is logged and counted in `errors`.

    With a figure of an interactive backend (`plt.figure()`), drawing happens in the backend's own event
    loop, by a timer; create the view in the thread of that loop. With any other figure, or none, a thread
    of its own draws.

    Args:
        figure: figure to draw into; None for one of its own, without pyplot.
        interval_s: shortest time between two drawings, s.
        path: PNG file to keep up to date as well, or None.
        on_draw: called with the figure after each drawing, such as the update of a notebook's display.
        history: frames kept for the course of the parameters.
    """

    def __init__(
        self,
        figure: Figure | None = None,
        *,
        interval_s: float = 0.4,
        path: str | Path | None = None,
        on_draw: Callable[[Figure], None] | None = None,
        history: int = 1000,
    ) -> None:
        self.figure = figure if figure is not None else Figure(figsize=(12, 6), layout="constrained")
        if figure is None:
            FigureCanvasAgg(self.figure)
        self.drawn = 0
        self.errors = 0
        self._path = None if path is None else Path(path)
        self._on_draw = on_draw
        self._interval_s = interval_s
        self._state = LiveState(history=history)
        self._lock = threading.Lock()
        self._drawing = threading.Lock()
        self._news = threading.Event()
        self._closing = threading.Event()
        self._timer: Any = None
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._begin()

    @property
    def received(self) -> int:
        """Frames of the current run that arrived, drawn or not."""
        return self._state.received

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document of a derived run."""
        self._take(self._state.take_document, name, doc)

    def show(self, posterior: Posterior, info: ModelInfo) -> None:
        """Take one posterior."""
        self._take(self._state.take_posterior, posterior, info)

    def update(self) -> bool:
        """Draw now what has arrived since the last drawing; return whether there was anything."""
        if not self._news.is_set():
            return False
        self._news.clear()
        with self._drawing:
            try:
                self._draw()
            except Exception:
                self._complain("the live view could not be drawn")
        return True

    def close(self) -> None:
        """Draw what is left and stop following. The figure stays."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._timer is not None:
            self._timer.stop()
        if self._thread is not None:
            self._wake()
            self._thread.join(timeout=10.0)
        self.update()

    def _begin(self) -> None:
        """Start the timer of an interactive backend, or a thread."""
        canvas = self.figure.canvas
        if getattr(canvas, "required_interactive_framework", None):
            self._timer = canvas.new_timer(interval=int(1000 * self._interval_s))
            self._timer.add_callback(self._tick)
            self._timer.start()
            return
        self._thread = threading.Thread(target=self._follow, name="nfphasing-live-view", daemon=True)
        self._thread.start()

    def _tick(self) -> bool:
        """Draw, and ask the timer to go on."""
        self.update()
        return not self._closing.is_set()

    def _follow(self) -> None:
        """Draw whenever there is news, with pauses between."""
        while not self._closing.is_set():
            self._woken.wait()
            self._woken.clear()
            self.update()
            self._closing.wait(self._interval_s)

    def _wake(self) -> None:
        """Wake the drawing thread, if there is one."""
        if self._thread is not None:
            self._woken.set()

    def _take(self, take: Callable[..., None], *what: object) -> None:
        """Feed the state; whatever goes wrong stays here."""
        try:
            with self._lock:
                take(*what)
            self._news.set()
            self._wake()
        except Exception:
            self._complain("the live view could not take a result")

    def _complain(self, what: str) -> None:
        """Log the first of the errors as one, the others quietly."""
        self.errors += 1
        log.log(logging.ERROR if self.errors == 1 else logging.DEBUG, what, exc_info=True)

    def _draw(self) -> None:
        """Draw the state as it is."""
        with self._lock:
            snapshot = self._state.snapshot()
        draw_live(self.figure, snapshot)
        if self._timer is not None:
            self.figure.canvas.draw_idle()
        if self._path is not None:
            _save_whole(self.figure, self._path)
        elif self._timer is None:
            self.figure.canvas.draw()
        if self._on_draw is not None:
            self._on_draw(self.figure)
        self.drawn += 1


def draw_live(figure: Figure, snapshot: Snapshot) -> None:
    """Draw density and courses into a figure, after clearing it."""
    figure.clear()
    points = snapshot.points
    if not points:
        return
    names = [
        name for name in snapshot.units if any(np.isfinite(point.parameters[name][0]) for point in points)
    ][:_TRENDS]
    halves = figure.add_gridspec(1, 2, wspace=0.04)
    _draw_latest(figure, halves[0], snapshot.load_density())
    stack = halves[1].subgridspec(max(1, len(names)), 1, hspace=0.04)
    for row, name in enumerate(names):
        axes = figure.add_subplot(stack[row])
        _draw_course(axes, name, snapshot.units[name], points)
        if row < len(names) - 1:
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("frame")
    last = points[-1]
    colour = LIGHTS[last.verdict]
    title = f"{snapshot.title}   ·   {snapshot.received} frames\n"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    remark = textwrap.shorten(f"frame {last.number}   {last.reason}", 150, placeholder=" …")
    figure.text(0.01, 0.945, remark, va="top", fontsize=9.5, color=colour)
    light = f"● {last.verdict}"
    figure.text(0.99, 0.99, light, ha="right", va="top", fontsize=15, weight="bold", color=colour)


def _draw_latest(figure: Figure, place: SubplotSpec, density: LiveDensity | None) -> None:
    """Draw u of the latest frame, a curve or an image, or say that there is none."""
    if density is None or not np.isfinite(density.mean).any():
        axes = figure.add_subplot(place)
        axes.text(0.5, 0.5, "no density for this frame", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
    elif len(density.info.axes) == 2:
        pair = place.subgridspec(2, 1, hspace=0.04)
        images = [figure.add_subplot(pair[row]) for row in range(2)]
        draw_mean_and_std(images[0], images[1], density.info, density.mean, density.std)
    else:
        _draw_curve(figure.add_subplot(place), density)


def _draw_curve(axes: Axes, density: LiveDensity) -> None:
    """Draw mean and bands of u."""
    (axis,) = density.info.axes
    for width, alpha, label in ((1.96, 0.15, "mean ± 1.96 std"), (1.0, 0.3, "mean ± std")):
        low, high = density.mean - width * density.std, density.mean + width * density.std
        axes.fill_between(axis.values, low, high, color="#1f5fa8", alpha=alpha, lw=0, label=label)
    axes.plot(axis.values, density.mean, color="black", lw=1.5, label="mean")
    axes.axhline(0, color="#9e9e9e", lw=0.7, zorder=0)
    axes.set_xlim(axis.values[0], axis.values[-1])
    axes.set_xlabel(axis_label(axis.name, axis.units))
    axes.set_ylabel(axis_label(density.info.quantity, density.info.units))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.legend(frameon=False, fontsize=9, loc="best")


def _draw_course(axes: Axes, name: str, unit: str, points: Sequence[LivePoint]) -> None:
    """Draw one parameter over the frames, each in the colour of its verdict."""
    for verdict in Verdict:
        chosen = [point for point in points if point.verdict is verdict]
        if not chosen:
            continue
        values, errors = np.array([point.parameters[name] for point in chosen]).T
        numbers = [point.number for point in chosen]
        axes.errorbar(numbers, values, errors, fmt="o", ms=3, elinewidth=0.8, color=LIGHTS[verdict])
    axes.set_ylabel(axis_label(name.removesuffix(f"_{unit}"), unit))


def _save_whole(figure: Figure, path: Path) -> None:
    """Write the PNG beside its name first, so that a viewer never opens half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    figure.savefig(partial, format="png", dpi=100)
    os.replace(partial, path)
