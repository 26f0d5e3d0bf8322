"""The NfPhasing device: a thin face over a worker process."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tango import AttrQuality, DevFailed, DevState, EnsureOmniThread, Except
from tango.server import Device, attribute, command, device_property

from nfphasing_bluesky import __version__
from nfphasing_bluesky.core import ModelInfo, Policy, StreamSettings, TransportError
from nfphasing_bluesky.streaming.protocol import FrameResult, ObjectResult, Verb, WorkerState, WorkerStatus
from nfphasing_bluesky.streaming.settings import WorkerSettings
from tango_device.attributes import FRAME_FIELDS, STATUS_FIELDS, StatusField, model_fields
from tango_device.fields import FrameField
from tango_device.link import WorkerLink
from tango_device.properties import DEFAULTS
from tango_device.state import assess, quality_of

logger = logging.getLogger(__name__)

_TICK_S = 0.1


def _property(name: str, dtype: Any = str) -> device_property:
    default, doc = DEFAULTS[name]
    return device_property(dtype=dtype, default_value=default, doc=doc)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _same(one: ModelInfo, other: ModelInfo | None) -> bool:
    return other is not None and (one.name, one.sha256) == (other.name, other.sha256)


def _frame_reader(field: FrameField) -> Callable[..., Any]:
    def read(self: "NfPhasing", _: object = None) -> tuple[Any, float, AttrQuality]:
        return self.reading(field)

    return read


def _status_reader(field: StatusField) -> Callable[..., Any]:
    def read(self: "NfPhasing", _: object = None) -> tuple[Any, float, AttrQuality]:
        return self.status_reading(field)

    return read


class NfPhasing(Device):
    """Posterior electron densities of X-ray scattering frames, live.

    The reconstruction runs in a worker process (`nfphasing serve`); this device attaches to it over 0MQ,
    shows what it says and outlives it. Attributes of the density and of the parameters appear with the
    model. Scalars are pushed with every frame; arrays at most `image_rate_hz` times a second, because a
    subscriber that is stuck can hold up a server that pushes arrays.
    """

    worker = _property("worker")
    model_name = _property("model_name")
    torch_device = _property("torch_device")
    documents_endpoint = _property("documents_endpoint")
    proxy_endpoint = _property("proxy_endpoint")
    results_endpoint = _property("results_endpoint")
    control_endpoint = _property("control_endpoint")
    catalog = _property("catalog")
    data_key = _property("data_key")
    stream = _property("stream")
    queue_policy = _property("queue_policy")
    probe = _property("probe")
    positions = _property("positions")
    positions_sign = _property("positions_sign")

    for _field in FRAME_FIELDS:
        locals()[_field.name] = attribute(fget=_frame_reader(_field), **_field.declaration())
    for _item in STATUS_FIELDS:
        locals()[_item.name] = attribute(fget=_status_reader(_item), **_item.declaration())
    del _field, _item

    def init_device(self) -> None:
        """Attach to the worker, or start it."""
        super().init_device()
        self.add_version_info("nfphasing-bluesky", __version__)
        self._frame: FrameResult | None = None
        self._arrival = 0.0
        self._object: ObjectResult | None = None
        self._object_arrival, self._object_owed, self._object_due = 0.0, False, 0.0
        self._status_heard: WorkerStatus | None = None
        self._model: ModelInfo | None = None
        self._dynamic: tuple[FrameField, ...] = ()
        self._told: dict[str, Any] = {}
        self._rate_hz, self._arrays_due = 2.0, 0.0
        self._attached = self._asked_for_model = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._link: WorkerLink | None = None
        for name in self._pushed_names():
            self.set_change_event(name, True, False)
        self.set_state(DevState.INIT)
        self.set_status("Looking for the worker.")
        try:
            self._link = WorkerLink(self._settings(), child=self._wants_child())
        except ValueError as error:
            self._misconfigured(error)
        except TransportError as error:
            self._misconfigured(error)
        else:
            self._thread = threading.Thread(target=self._push_all, name="nfphasing-push", daemon=True)
            self._thread.start()

    def delete_device(self) -> None:
        """Detach; end a worker that was started here."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5)
        if self._link is not None:
            self._link.close()
        self._remove_dynamic()
        super().delete_device()

    @attribute(
        dtype=float,
        label="Array rate",
        unit="Hz",
        format="%.3g",
        min_value=0.0,
        max_value=50.0,
        memorized=True,
        hw_memorized=True,
        doc="Most pushes a second of the density arrays; 0 pushes none, and clients read them when frame_id "
        "changes. Images (two-dimensional densities) are best left at 0 where clients may hang.",
    )
    def image_rate_hz(self) -> float:
        """Return the most pushes of arrays a second."""
        return self._rate_hz

    @image_rate_hz.write  # type: ignore[no-redef]
    def image_rate_hz(self, value: float) -> None:
        """Set the most pushes of arrays a second."""
        self._rate_hz = float(value)

    @command(dtype_out=str, doc_out="What the worker does now.")
    def Start(self) -> str:  # noqa: N802 (Tango convention)
        """Reconstruct the runs that start from now on."""
        return self._order(Verb.START)

    @command(dtype_out=str, doc_out="What the worker does now.")
    def Stop(self) -> str:  # noqa: N802
        """Stop reconstructing: open derived runs are ended, frames count as dropped."""
        return self._order(Verb.STOP)

    @command(
        dtype_in=str,
        doc_in="Name of a shipped model (see `nfphasing models`) or a model folder on the worker's machine.",
        dtype_out=str,
        doc_out="What the worker does now: it loads; State tells when it is done.",
    )
    def LoadModel(self, model: str) -> str:  # noqa: N802
        """Load a model; it serves the runs that start after it is loaded."""
        return self._order(Verb.LOAD_MODEL, model=model)

    @command(dtype_out=str, doc_out="What the worker does now.")
    def Reset(self) -> str:  # noqa: N802
        """Set the counters to zero, forget past errors, and try again to load a model that failed."""
        return self._order(Verb.RESET)

    def reading(self, field: FrameField) -> tuple[Any, float, AttrQuality]:
        """Return value, time and quality of an attribute of the last frame; invalid before the first.

        Those of the stitched object are of its last state, and ALARM when no frame of it is to be trusted.
        """
        if field.of_object:
            known = self._object
            if known is None:
                return field.nothing, time.time(), AttrQuality.ATTR_INVALID
            quality = AttrQuality.ATTR_ALARM if known.doubtful else AttrQuality.ATTR_VALID
            return field.value(known), self._object_arrival, quality
        frame = self._frame
        if frame is None:
            return field.nothing, time.time(), AttrQuality.ATTR_INVALID
        quality = quality_of(frame) if field.judged else AttrQuality.ATTR_VALID
        return field.value(frame), self._arrival, quality

    def status_reading(self, field: StatusField) -> tuple[Any, float, AttrQuality]:
        """Return value, time and quality of an attribute of the worker; invalid before its first word."""
        status = self._status_heard
        if status is None:
            return field.dtype(), time.time(), AttrQuality.ATTR_INVALID
        return field.value(status), status.time, AttrQuality.ATTR_VALID

    def _order(self, verb: Verb, **arguments: object) -> str:
        if self._link is None:
            Except.throw_exception("NfPhasing_Misconfigured", self.get_status(), f"NfPhasing.{verb}")
            raise AssertionError
        try:
            status = self._link.ask(verb, **arguments)
        except TransportError as error:
            Except.throw_exception("NfPhasing_Worker", str(error), f"NfPhasing.{verb}")
            raise
        return f"{status.state}: {status.reason}" if status.reason else str(status.state)

    def _settings(self) -> WorkerSettings:
        return WorkerSettings(
            model=self.model_name or None,
            device=self.torch_device,
            documents=self.documents_endpoint,
            proxy=self.proxy_endpoint or None,
            results=self.results_endpoint,
            control=self.control_endpoint,
            catalog=self.catalog or None,
            stream=StreamSettings(
                data_key=self.data_key or None,
                stream=self.stream,
                policy=Policy(self.queue_policy),
                probe=self.probe or None,
                positions=tuple(_words(self.positions)) or None,
                positions_sign=tuple(int(word) for word in _words(self.positions_sign)) or None,
            ),
        )

    def _wants_child(self) -> bool:
        if self.worker not in ("attach", "child"):
            raise ValueError(f"property worker is {self.worker!r}, expected 'attach' or 'child'")
        return bool(self.worker == "child")

    def _misconfigured(self, error: Exception) -> None:
        self.set_state(DevState.FAULT)
        self.set_status(f"A property cannot be used: {error}. Correct it in the database and call Init.")

    def _push_all(self) -> None:
        """Push everything, in this one thread; wakes with each frame and every tenth of a second."""
        with EnsureOmniThread():
            while not self._stopping.is_set():
                try:
                    self._step()
                except DevFailed:
                    logger.exception("Tango refused a push; the device goes on")
                except Exception:
                    logger.exception("the device could not show what the worker says; it goes on")

    def _step(self) -> None:
        link = self._link
        if link is None:
            return
        frame = link.next_frame(_TICK_S)
        health = link.health()
        status = health.status
        self._attached = self._attached or health.reachable
        if status is not None:
            self._status_heard = status
            self._attach(status)
            self._push_status(status)
        if frame is not None:
            self._frame, self._arrival = frame, time.time()
            self._push_frame(frame)
        self._push_object(link.stitched)
        self._push_state(*assess(health, self._frame, self._attached))

    def _attach(self, status: WorkerStatus) -> None:
        """Follow the worker's model; load the one of the property into a worker that has none."""
        if status.model is not None and not _same(status.model, self._model):
            self._remove_dynamic()
            self._model, self._frame, self._object = status.model, None, None
            self._add_dynamic(model_fields(status.model))
        wanted = self.model_name and status.model is None and status.state is WorkerState.STANDBY
        if wanted and not self._asked_for_model and self._link is not None:
            self._asked_for_model = True
            self._link.ask(Verb.LOAD_MODEL, model=self.model_name)

    def _add_dynamic(self, fields: tuple[FrameField, ...]) -> None:
        for field in fields:
            made = attribute(name=field.name, fget=_frame_reader(field), **field.declaration())
            self.add_attribute(made)
            self.set_change_event(field.name, True, False)
        self._dynamic = fields

    def _remove_dynamic(self) -> None:
        fields, self._dynamic = self._dynamic, ()
        for field in fields:
            self.remove_attribute(field.name)

    def _push_state(self, state: DevState, status: str) -> None:
        if self._told.get("Status") != status:
            self._told["Status"] = status
            self.set_status(status)
            self.push_change_event("Status")
        if self._told.get("State") != state:
            self._told["State"] = state
            self.set_state(state)
            self.push_change_event("State")

    def _push_status(self, status: WorkerStatus) -> None:
        for field in STATUS_FIELDS:
            value = field.value(status)
            if self._told.get(field.name) != value:
                self._told[field.name] = value
                self.push_change_event(field.name, value)

    def _push_frame(self, frame: FrameResult) -> None:
        arrays = self._rate_hz > 0 and self._arrival >= self._arrays_due
        if arrays:
            self._arrays_due = self._arrival + 1.0 / self._rate_hz
        for field in (*self._dynamic, *FRAME_FIELDS):
            if field.of_object or (field.axes and not arrays):
                continue
            self.push_change_event(field.name, *self.reading(field))

    def _push_object(self, known: ObjectResult | None) -> None:
        """Push a new state of the stitched object: its numbers at once, its images when they are due."""
        fields = [field for field in self._dynamic if field.of_object]
        if known is None or not fields:
            return
        if known is not self._object:
            self._object, self._object_arrival, self._object_owed = known, time.time(), True
            for field in fields:
                if not field.axes:
                    self.push_change_event(field.name, *self.reading(field))
        if self._object_owed and self._rate_hz > 0 and time.time() >= self._object_due:
            self._object_owed, self._object_due = False, time.time() + 1.0 / self._rate_hz
            for field in fields:
                if field.axes:
                    self.push_change_event(field.name, *self.reading(field))

    def _pushed_names(self) -> Iterator[str]:
        yield from ("State", "Status")
        for field in (*FRAME_FIELDS, *STATUS_FIELDS):
            yield field.name
