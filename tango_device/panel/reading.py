"""What the panel reads of the device, in a thread of its own: a device that hangs cannot freeze the panel."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tango

from nfphasing_bluesky.views.text import pretty_unit

logger = logging.getLogger(__name__)

PERIOD_S = 0.25
_ANSWER_MS = 1500
_ORDER_MS = 10_000
"""The device gives its worker two seconds, and then says what is wrong: longer than that."""
_SCALARS = (
    "verdict", "reason", "frame_id", "seq_num", "pattern_seq_num", "latency", "reduced_chi2", "ood_score",
    "model", "frames_received", "frames_reconstructed", "frames_dropped", "frames_failed",
    "frames_not_shown",
    "density_unit", "density_quantity", "axis_unit", "raw_uid", "object_frames", "object_components",
    "object_axis_unit",
)  # fmt: skip
_ARRAYS = (
    "density_mean", "density_std", "axis", "axis_y", "axis_x", "q",
    "measured", "predicted", "predicted_lower", "predicted_upper",
    "object_phase", "object_std", "object_axis_y", "object_axis_x",
)  # fmt: skip


@dataclass(frozen=True)
class Words:
    """How Tango calls an attribute: its label and unit."""

    label: str
    unit: str


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The device at one moment.

    Args:
        problem: why it cannot be read; empty when it can.
        state, status: of the device.
        values: scalars and arrays by name; what is invalid is left out.
        words: label and unit of each attribute.
        parameters: names of the model's parameters, each with `<name>_std` beside it.
        fresh: whether the arrays are newer than those of the snapshot before.
    """

    problem: str = ""
    state: str = "UNKNOWN"
    status: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Words] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    fresh: bool = False


class Reader:
    """Reads the device again and again: its scalars each time, its arrays when there is a new frame.

    Args:
        device: Tango name of the device.
        show: is given each snapshot, in the reader's thread.
    """

    def __init__(self, device: str, show: Callable[[Snapshot], None]) -> None:
        self._device, self._show = device, show
        self._proxy: tango.DeviceProxy | None = None
        self._arrays: dict[str, Any] = {}
        self._drawn: tuple[Any, ...] = ()
        self._words: dict[str, Words] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nfphasing-panel-reader", daemon=True)

    def start(self) -> "Reader":
        """Begin to read."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._thread.join(5)

    def order(self, command: str, argument: str | None = None) -> str:
        """Have a command of the device carried out; returns its answer, or why there is none."""
        try:
            proxy = _connected(self._device, _ORDER_MS)
            return str(
                proxy.command_inout(command) if argument is None else proxy.command_inout(command, argument)
            )
        except tango.DevFailed as error:
            return _words(error)

    def read(self) -> Snapshot:
        """Read once."""
        try:
            return self._read(self._reading())
        except tango.DevFailed as error:
            self._drawn = ()
            return Snapshot(problem=f"{self._device} does not answer: {_words(error)}")

    def _run(self) -> None:
        with tango.EnsureOmniThread():
            while not self._stopping.wait(PERIOD_S):
                try:
                    self._show(self.read())
                except Exception:
                    logger.exception("the panel could not read %s; it goes on", self._device)

    def _reading(self) -> tango.DeviceProxy:
        if self._proxy is None:
            self._proxy = _connected(self._device, _ANSWER_MS)
        return self._proxy

    def _read(self, proxy: tango.DeviceProxy) -> Snapshot:
        names = set(proxy.get_attribute_list())
        if names != self._words.keys():
            infos = proxy.get_attribute_config(sorted(names))
            self._words = {info.name: Words(info.label, _unit(info.unit)) for info in infos}
            self._drawn = ()
        parameters = tuple(name for name in self._words if f"{name}_std" in names and name not in _ARRAYS)
        bars = [f"{name}_std" for name in parameters]
        values = _valid(proxy, [name for name in (*_SCALARS, *parameters, *bars) if name in names])
        drawn = tuple(values.get(name) for name in ("model", "frame_id", "pattern_seq_num", "object_frames"))
        fresh = drawn != self._drawn
        if fresh:
            self._arrays = _valid(proxy, [name for name in _ARRAYS if name in names])
            self._drawn = drawn
        state, status = str(proxy.state()), proxy.status()
        return Snapshot("", state, status, {**values, **self._arrays}, self._words, parameters, fresh)


def _connected(device: str, answer_ms: int) -> tango.DeviceProxy:
    proxy = tango.DeviceProxy(device)
    proxy.set_timeout_millis(answer_ms)
    proxy.set_source(tango.DevSource.DEV)
    return proxy


def _valid(proxy: tango.DeviceProxy, names: list[str]) -> dict[str, Any]:
    """Values of attributes by name, without those that are invalid or failed."""
    found = {}
    for answer in proxy.read_attributes(names):
        if not answer.has_failed and answer.quality != tango.AttrQuality.ATTR_INVALID:
            value = answer.value
            found[answer.name] = np.asarray(value) if isinstance(value, np.ndarray) else value
    return found


def _unit(text: str) -> str:
    return "" if text in ("dimensionless", "No unit") else pretty_unit(text)


def _words(error: tango.DevFailed) -> str:
    return " ".join(str(error.args[0].desc).split()) if error.args else str(error)
