"""Opens the panel on a device, and writes what it looks like: `python panel_probe.py DEVICE FRAME FOLDER`.

`panel.png` is the whole window; `seen.npz` holds the colour at the centre of each pixel of u and of its
standard deviation, as they stand on the screen, and the words beside them. With a fourth argument, a model,
its buttons are pressed: that model is loaded, then Stop, Start and Reset; `seen.npz` says what came of each.
"""

import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore", "libpyside", RuntimeWarning)

from taurus.external.qt import Qt  # noqa: E402
from taurus.qt.qtgui.application import TaurusApplication  # noqa: E402

from nfphasing_bluesky.core import PROJECTED  # noqa: E402
from tango_device.panel.plots import BAND, dark_on_white, shown  # noqa: E402
from tango_device.panel.window import Panel  # noqa: E402


def colours(panel, plot):
    """(H, W, 3) colours on the screen where each pixel of an image lies."""
    screen = panel.plots.grab().toImage()
    height, width = plot.image.image.shape
    seen = np.zeros((height, width, 3), int)
    for row in range(height):
        for column in range(width):
            scene = plot.image.mapToScene(Qt.QPointF(column + 0.5, row + 0.5))
            colour = screen.pixelColor(panel.plots.mapFromScene(scene))
            seen[row, column] = colour.red(), colour.green(), colour.blue()
    return seen


def banded(panel):
    """How many pixels of the screen have the colour of an error band on white."""
    screen = panel.plots.grab().toImage().convertToFormat(Qt.QImage.Format_RGB888)
    rows = np.frombuffer(screen.constBits(), np.uint8).reshape(screen.height(), screen.bytesPerLine())
    pixels = rows[:, : 3 * screen.width()].reshape(screen.height(), -1, 3).astype(int)
    share = BAND[3] / 255
    wanted = [255 + share * (part - 255) for part in BAND[:3]]
    return int((np.abs(pixels - wanted) < 3).all(axis=-1).sum())


def curves(plot):
    """What is drawn of a curve, in the coordinates of the plot: of the intensity the log10."""
    points = plot._points.scatter.data
    return {
        "points": np.stack([points["x"], points["y"]]),
        "line": np.stack(plot._line.curve.getData()),
        "lower": np.stack(plot._lower.curve.getData()),
        "upper": np.stack(plot._upper.curve.getData()),
        "labels": [plot.getAxis(side).labelText for side in ("bottom", "left")],
    }


def corners(panel, plot):
    """Where the first pixel and the last lie in the window: column, row of the screen."""
    height, width = plot.image.image.shape
    places = [plot.image.mapToScene(Qt.QPointF(*p)) for p in ((0.5, 0.5), (width - 0.5, height - 0.5))]
    return [[panel.plots.mapFromScene(p).x(), panel.plots.mapFromScene(p).y()] for p in places]


def as_pattern(application, panel):
    """Corners of what is drawn, were the device's image the object behind a small-angle pattern."""
    seen = panel.reader.read()
    values = {**seen.values, "density_quantity": PROJECTED}
    image = {name: value for name, value in values.items() if not name.startswith("object_")}
    words = {name: value for name, value in seen.words.items() if name != "absorption_mean"}
    panel._draw(replace(seen, values=values), shown(image, words))
    settle(application)
    plots = (getattr(panel, name, None) for name in ("mean", "std", "measured", "predicted"))
    return [corners(panel, plot) for plot in plots if hasattr(plot, "image") and plot.image.image.size > 1]


def settle(application):
    for _ in range(20):
        application.processEvents()
        time.sleep(0.02)


def wait_for(application, condition):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not condition():
        application.processEvents()
        time.sleep(0.02)


def pressed(application, panel, name, then):
    """Press a button, wait for its answer and until the panel shows `then`; what it says and shows."""
    (button,) = (one for one in panel.findChildren(Qt.QPushButton) if one.text() == name)
    before = panel._answer.text()
    button.click()
    wait_for(application, lambda: panel._answer.text() != before and not panel._answer.text().endswith("..."))
    wait_for(application, then)
    return [panel._answer.text(), panel.state.text()]


def give_orders(application, panel, model):
    """Load a model, then Stop, Start and Reset, with the mouse."""
    panel.models.setEditText(model)
    state = panel.state.text
    return [
        pressed(application, panel, "Load model", lambda: panel._model == model),
        pressed(application, panel, "Stop", lambda: "STANDBY" in state()),
        pressed(application, panel, "Start", lambda: ">ON<" in state()),
        pressed(application, panel, "Reset", lambda: "received 0 " in panel.counters.text()),
        [panel.counters.text(), panel.models.currentText()],
    ]


def main(device, frame, folder, model=None):
    application = TaurusApplication(["probe"], cmd_line_parser=None)
    dark_on_white()
    panel = Panel(device)
    panel.show()
    wait_for(application, lambda: f"frame {frame} " in panel.frame.text())
    settle(application)
    panel.grab().save(str(folder / "panel.png"))
    light = panel.light.grab().toImage().pixelColor(12, 12)
    cells = [
        [panel.parameters.item(row, column).text() for column in range(3)]
        for row in range(panel.parameters.rowCount())
    ]
    images = {}
    if hasattr(panel.mean, "image"):
        images = {"mean": colours(panel, panel.mean), "std": colours(panel, panel.std)}
        images |= {"corners": corners(panel, panel.mean), "levels": panel.mean.bar.levels()}
        images["axis"] = panel.mean.getAxis("bottom").labelText
        images["bars"] = [plot.bar.getAxis("left").labelText for plot in (panel.mean, panel.std)]
        images["title"] = panel.mean.titleLabel.text
        for name in ("measured", "predicted"):
            if hasattr(getattr(panel, name, None), "image"):
                images[f"{name}_colours"] = colours(panel, getattr(panel, name))
                images[f"{name}_levels"] = getattr(panel, name).bar.levels()
                images[f"{name}_title"] = getattr(panel, name).titleLabel.text
        images["as_pattern"] = as_pattern(application, panel)
    else:
        images = {"banded": banded(panel), **curves(panel.measured)}
    words = {name: getattr(panel, name).text() for name in ("state", "light", "reason", "counters", "frame")}
    orders = [] if model is None else give_orders(application, panel, model)
    images["lit"] = [light.red(), light.green(), light.blue()]
    np.savez(folder / "seen.npz", orders=orders, cells=cells, models=panel.models.count(), **images, **words)
    panel.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
