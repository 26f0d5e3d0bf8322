"""The panel: u beside its standard deviation, the frame beside its prediction, trust, parameters, orders."""

import threading
from importlib.resources import files
from typing import Any

import numpy as np
import pyqtgraph as pg
from taurus.external.qt import Qt
from taurus.qt.qtgui.container import TaurusWidget

from tango_device.panel.plots import CurvePlot, ImagePlot, Shown, shown
from tango_device.panel.reading import Reader, Snapshot

_LIGHTS = {"VALID": "#2e9e4f", "WARNING": "#e69f00", "ALARM": "#d62728", "FAILED": "#d62728"}
_COUNTERS = (
    ("frames_received", "received"),
    ("frames_reconstructed", "reconstructed"),
    ("frames_dropped", "dropped"),
    ("frames_failed", "failed"),
)


class Panel(TaurusWidget):
    """Shows one NfPhasing device.

    Args:
        device: its Tango name.
    """

    heard = Qt.pyqtSignal(object)
    answered = Qt.pyqtSignal(str)

    def __init__(self, device: str, parent: Any = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"nfphasing · {device}")
        self.frames_drawn = 0
        self._kind: tuple[bool, bool] | None = None
        self._model = ""
        self._build(device)
        self.heard.connect(self._show)
        self.answered.connect(self._answer.setText)
        self.reader = Reader(device, self.heard.emit).start()

    def closeEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """End the reader with the window."""
        self.reader.close()
        super().closeEvent(event)

    def _build(self, device: str) -> None:
        self.plots = pg.GraphicsLayoutWidget()
        for column in (0, 1):
            # or a long title makes its column the wider one
            self.plots.ci.layout.setColumnPreferredWidth(column, 400)
            self.plots.ci.layout.setColumnStretchFactor(column, 1)
        self.state, self.light, self.reason = Qt.QLabel(), Qt.QLabel(), Qt.QLabel()
        self.status, self.counters, self.frame, self._answer = (Qt.QLabel() for _ in range(4))
        for label in (self.reason, self.status, self._answer, self.frame):
            label.setWordWrap(True)
        self.light.setAlignment(Qt.Qt.AlignCenter)
        self.light.setMinimumHeight(44)
        self.parameters = Qt.QTableWidget(0, 3)
        self.parameters.setHorizontalHeaderLabels(["parameter", "median ± std", "unit"])
        header = self.parameters.horizontalHeader()
        header.setSectionResizeMode(Qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, Qt.QHeaderView.Stretch)
        self.parameters.verticalHeader().setSectionResizeMode(Qt.QHeaderView.ResizeToContents)
        self.parameters.verticalHeader().setVisible(False)
        self.parameters.setEditTriggers(Qt.QAbstractItemView.NoEditTriggers)
        side = Qt.QVBoxLayout()
        title = Qt.QLabel(f"<b>{device}</b>")
        for widget in (title, self.state, self.status, self.light, self.reason, self.frame, self.counters):
            side.addWidget(widget)
        side.addWidget(self.parameters, 1)
        side.addLayout(self._orders())
        side.addWidget(self._answer)
        box = Qt.QWidget()
        box.setLayout(side)
        box.setFixedWidth(380)
        whole = Qt.QHBoxLayout(self)
        whole.addWidget(self.plots, 1)
        whole.addWidget(box)
        self.resize(1280, 800)

    def _orders(self) -> Any:
        self.models = Qt.QComboBox()
        self.models.setEditable(True)
        self.models.addItems(shipped_models())
        self.models.setToolTip("Name of a shipped model, or a model folder on the worker's machine")
        layout = Qt.QGridLayout()
        load = Qt.QPushButton("Load model")
        load.clicked.connect(lambda: self._order("LoadModel", self.models.currentText()))
        layout.addWidget(self.models, 0, 0, 1, 2)
        layout.addWidget(load, 0, 2)
        for column, name in enumerate(("Start", "Stop", "Reset")):
            button = Qt.QPushButton(name)
            button.clicked.connect(lambda _=False, name=name: self._order(name))
            layout.addWidget(button, 1, column)
        return layout

    def _order(self, command: str, argument: str | None = None) -> None:
        """Carry a command out in a thread: it may take a second, and the panel goes on."""
        self._answer.setText(f"{command} ...")

        def work() -> None:
            self.answered.emit(f"{command}: {self.reader.order(command, argument)}")

        threading.Thread(target=work, name="nfphasing-panel-order", daemon=True).start()

    def _show(self, snapshot: Snapshot) -> None:
        self.state.setText(f"State: <b>{'no answer' if snapshot.problem else snapshot.state}</b>")
        # Tango adds a line for each attribute in alarm, which the light says already
        self.status.setText(snapshot.problem or snapshot.status.partition("\nAlarm :")[0])
        values = snapshot.values
        verdict = str(values.get("verdict", "")) if not snapshot.problem else ""
        self.light.setText(f"<b>{verdict or 'no frame'}</b>")
        colour = _LIGHTS.get(verdict, "#9a9a9a")
        self.light.setStyleSheet(f"background: {colour}; color: white; font-size: 18px; border-radius: 6px;")
        self.reason.setText(str(values.get("reason", "")))
        if snapshot.problem:
            return
        self.frame.setText(_frame_line(values))
        self.counters.setText(_counters(values))
        self._show_parameters(snapshot)
        if str(values.get("model", "")) != self._model:
            self._model = str(values.get("model", ""))
            self.models.setCurrentText(self._model)
        what = shown(values, snapshot.words) if snapshot.fresh else None
        if what is not None:
            self._draw(snapshot, what)
            self.frames_drawn += 1

    def _show_parameters(self, snapshot: Snapshot) -> None:
        self.parameters.setRowCount(len(snapshot.parameters))
        for row, name in enumerate(snapshot.parameters):
            words = snapshot.words[name]
            cells = (words.label, _with_error(snapshot.values, name), words.unit)
            for column, text in enumerate(cells):
                self.parameters.setItem(row, column, Qt.QTableWidgetItem(text))

    def _draw(self, snapshot: Snapshot, what: Shown) -> None:
        values = snapshot.values
        measured = values.get("measured")
        kind = (what.mean.ndim == 2, measured is not None and measured.ndim == 2)
        if kind != self._kind:
            self._kind = kind
            self._lay_out(*kind)
        if what.mean.ndim == 2:
            self.mean.setTitle(what.title)
            self.mean.show_image(what.mean, what.axes, what.axis_unit, what.label, upwards=what.upwards)
            self.std.show_image(what.std, what.axes, what.axis_unit, what.std_label, upwards=what.upwards)
        else:
            x = what.axes[0] if what.axes else np.arange(len(what.mean))
            words = snapshot.words["axis"]
            self.mean.show_curve(x, what.mean, what.mean - 2 * what.std, what.mean + 2 * what.std)
            self.std.show_curve(x, what.std)
            for plot, label in ((self.mean, what.label), (self.std, what.std_label)):
                plot.setLabel(
                    "bottom", f"{words.label} ({what.axis_unit})" if what.axis_unit else words.label
                )
                plot.setLabel("left", label)
        if measured is not None and "predicted" in values:
            self._draw_frame(values, what.upwards)

    def _draw_frame(self, values: Any, upwards: bool) -> None:
        measured, predicted = values["measured"], values["predicted"]
        if measured.ndim == 2:
            seen, said = (np.sign(image) * np.log10(1 + np.abs(image)) for image in (measured, predicted))
            for plot, image in ((self.measured, seen), (self.predicted, said)):
                plot.show_image(image, None, "", "log10(1 + I)", like=seen, upwards=upwards)
            return
        q = values["q"] if len(values.get("q", ())) == len(measured) else np.arange(len(measured))
        self.measured.show_curve(q, predicted, values.get("predicted_lower"), values.get("predicted_upper"))
        self.measured.show_points(q, measured)
        self.measured.setLabel("bottom", "q (Å⁻¹)" if q is values.get("q") else "point")
        self.measured.setLabel("left", "intensity")

    def _lay_out(self, image: bool, frames: bool) -> None:
        self.plots.clear()
        titles = ("posterior mean", "standard deviation")
        if image:
            self.mean, self.std = (ImagePlot(t, c) for t, c in zip(titles, ("viridis", "magma"), strict=True))
        else:
            self.mean, self.std = CurvePlot(f"{titles[0]}, 2 std"), CurvePlot(titles[1])
        self.plots.addItem(self.mean, 0, 0)
        self.plots.addItem(self.std, 0, 1)
        if frames:
            self.measured, self.predicted = (
                ImagePlot("measured", "inferno"),
                ImagePlot("predicted", "inferno"),
            )
            self.plots.addItem(self.measured, 1, 0)
            self.plots.addItem(self.predicted, 1, 1)
        else:
            self.measured = CurvePlot("measured (points), predicted (line, 95 %)", log=True)
            self.plots.addItem(self.measured, 1, 0, 1, 2)


def shipped_models() -> list[str]:
    """Names of the models that come with the package; read from its folders, because loading wants torch."""
    folders = (files("nfphasing_bluesky") / "models").iterdir()
    return sorted(folder.name for folder in folders if (folder / "card.json").is_file())


def _counters(values: Any) -> str:
    counted = [f"{word} {values.get(name, '-')}" for name, word in _COUNTERS]
    if values.get("frames_not_shown"):
        counted.append(f"not shown {values['frames_not_shown']}")
    return "   ".join(counted)


def _frame_line(values: Any) -> str:
    if "frame_id" not in values:
        return "no frame yet"
    chi2, ood, latency = (values.get(n, float("nan")) for n in ("reduced_chi2", "ood_score", "latency"))
    return (
        f"frame {values.get('seq_num', '-')} of run {str(values.get('raw_uid', ''))[:8]}, "
        f"{values.get('model', '')}<br>"
        f"reduced chi² {chi2:.3g}, out of distribution {ood:.2g}, latency {_duration(latency)}"
    )


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if not seconds >= 1 else f"{seconds:.1f} s"


def _with_error(values: Any, name: str) -> str:
    if name not in values or not np.isfinite(values[name]):
        return "-"
    std = values.get(f"{name}_std", float("nan"))
    if not np.isfinite(std) or std <= 0:
        return f"{values[name]:.6g}"
    digits = max(0, min(8, 1 - int(np.floor(np.log10(std)))))
    return f"{values[name]:.{digits}f} ± {std:.{digits}f}"
