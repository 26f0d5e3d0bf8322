"""What the device knows of its worker, and the one thread that pushes it."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tango import AttrQuality, DevFailed, DevState, EnsureOmniThread

from nfphasing_bluesky.clients.registration import reason
from nfphasing_bluesky.core import ModelInfo
from nfphasing_bluesky.streaming.protocol import FrameResult, Verb, WorkerState, WorkerStatus
from tango_device.attributes import (
    FRAME_FIELDS,
    LINK_FIELDS,
    SOURCE_FIELDS,
    STATUS_FIELDS,
    LinkField,
    SourceField,
    StatusField,
    model_fields,
)
from tango_device.fields import FrameField, Source, pushable
from tango_device.link import WorkerLink
from tango_device.state import assess, quality_of, with_source, without_attributes
from tango_device.taking import NO_SOURCE, Taking

logger = logging.getLogger(__name__)

_TICK_S = 0.1
_RETRY_S = 1.0

Reading = tuple[Any, float, AttrQuality]


class Face(Protocol):
    """What is needed of the Tango device."""

    def ready(self) -> bool:
        """Say whether attributes may be added and events pushed."""

    def push(self, name: str, *reading: Any) -> None:
        """Push a change event of an attribute."""

    def show_fields(self, fields: Mapping[str, FrameField], gone: Mapping[str, FrameField]) -> None:
        """Add these attributes and remove those."""

    def show_state(self, state: DevState) -> None:
        """Set and push State."""

    def show_status(self, status: str) -> None:
        """Set and push Status."""


class _Latest:
    """The latest thing of one source, when it came, and whether its arrays are still to be pushed."""

    def __init__(self) -> None:
        self.value: Any = None
        self.arrival = self.due = 0.0
        self.owed = False

    def take(self, value: Any) -> None:
        self.value, self.arrival, self.owed = value, time.time(), True


class Showing:
    """Follows a worker from one Init of the device to the next.

    Args:
        face: the device.
        link: to the worker; closed here.
        model_name: what a worker without a model is told to load; empty for nothing.
        rate_hz: gives the most pushes of arrays a second.
        source: says what the frame source does.
    """

    def __init__(
        self,
        face: Face,
        link: WorkerLink,
        model_name: str,
        rate_hz: Callable[[], float],
        source: Callable[[], Taking] = lambda: NO_SOURCE,
    ) -> None:
        self.link = link
        self.fields: dict[str, FrameField] = {field.name: field for field in FRAME_FIELDS}
        self._face, self._model_name, self._rate_hz, self._source = face, model_name, rate_hz, source
        self._latest = {source: _Latest() for source in Source}
        self._status: WorkerStatus | None = None
        self._model: ModelInfo | None = None
        self._dynamic: dict[str, FrameField] = {}
        self._told: dict[str, Any] = {}
        self._attached = False
        self._refused, self._retry_at = "", 0.0
        self._asked_to_load: int | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nfphasing-push", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and the link; the caller must not hold the device's monitor, which a push takes."""
        self._stopping.set()
        self._thread.join(5)
        self.link.close()

    @property
    def dynamic(self) -> Mapping[str, FrameField]:
        """The attributes of the worker's model."""
        return self._dynamic

    def reading(self, field: FrameField) -> Reading:
        """Return value, time and quality of an attribute; invalid before its source said anything.

        Those of the stitched object are ALARM when most of it rests on frames that are not to be trusted. A
        run that was begun with another model than the present one ends with it: what its frames say is no
        value of this one's.
        """
        latest = self._latest[field.source]
        known, arrival = latest.value, latest.arrival
        if known is None:
            return field.nothing, time.time(), AttrQuality.ATTR_INVALID
        if field.source is Source.FRAME and field.name in self._dynamic and not _of_model(known, self._model):
            return field.nothing, arrival, AttrQuality.ATTR_INVALID
        quality = AttrQuality.ATTR_VALID
        if field.source is Source.OBJECT and known.doubtful:
            quality = AttrQuality.ATTR_ALARM
        elif field.judged:
            quality = quality_of(known)
        return field.value(known), arrival, quality

    def status_reading(self, field: StatusField) -> Reading:
        """Return value, time and quality of an attribute of the worker; invalid before its first word."""
        status = self._status
        if status is None:
            return field.dtype(), time.time(), AttrQuality.ATTR_INVALID
        return field.value(status), status.time, AttrQuality.ATTR_VALID

    def _run(self) -> None:
        """Push everything, in this one thread; wakes with each frame and every tenth of a second."""
        with EnsureOmniThread():
            while not self._stopping.is_set():
                try:
                    if self._face.ready():
                        self._step()
                    else:
                        self._stopping.wait(_TICK_S)
                except DevFailed:
                    logger.exception("Tango refused a push; the device goes on")
                    self._stopping.wait(_TICK_S)
                except Exception:
                    logger.exception("the device could not show what the worker says; it goes on")

    def _step(self) -> None:
        frame = self.link.next_frame(_TICK_S)
        health = self.link.health()
        self._attached = self._attached or health.reachable
        if health.status is not None:
            self._status = health.status
            self._follow(health.status)
            self._push_changed(STATUS_FIELDS, health.status)
        if frame is not None:
            self._latest[Source.FRAME].take(frame)
            self._push_scalars(Source.FRAME)
        for source, heard in ((Source.PATTERN, self.link.pattern), (Source.OBJECT, self.link.stitched)):
            if heard is not None and heard is not self._latest[source].value:
                self._latest[source].take(heard)
                self._push_scalars(source)
        for source in Source:
            self._push_arrays(source)
        last: FrameResult | None = self._latest[Source.FRAME].value
        taking = self._source()
        self._push_changed(SOURCE_FIELDS, taking)
        self._push_changed(LINK_FIELDS, self.link)
        said = with_source(*assess(health, last, self._attached), taking)
        self._show_state(*without_attributes(*said, self._refused))

    def _follow(self, status: WorkerStatus) -> None:
        """Follow the worker's model; load the one of the property into a worker that has none."""
        if status.model is not None and (self._refused or not _same(status.model, self._model)):
            self._try_to_show(status.model)
        if status.model is not None or status.state is WorkerState.FAULT:
            # who has none afterwards is another process, or was reset to try again
            self._asked_to_load = None
        wanted = self._model_name and status.model is None and status.state is WorkerState.STANDBY
        if wanted and self._asked_to_load != status.pid:
            self.link.ask(Verb.LOAD_MODEL, model=self._model_name)
            self._asked_to_load = status.pid

    def _try_to_show(self, model: ModelInfo) -> None:
        """Show the attributes of a model; where Tango refuses, because its database is away, again later."""
        if time.monotonic() < self._retry_at:
            return
        try:
            self._show_fields(model_fields(model))
        except DevFailed as error:
            if not self._refused:
                logger.exception("the attributes of the model %s cannot be made yet", model.name)
            self._refused, self._retry_at = reason(error), time.monotonic() + _RETRY_S
            return
        self._refused, self._model = "", model
        self._forget()

    def _forget(self) -> None:
        """What an earlier model said is no value of this one's attributes."""
        self.link.forget()
        self._latest = {source: _Latest() for source in Source}

    def _show_fields(self, fields: tuple[FrameField, ...]) -> None:
        """Exchange the attributes; one that stays as it is keeps its subscribers."""
        before, after = self._dynamic, {field.name: field for field in fields}
        stay = {
            name
            for name in before.keys() & after.keys()
            if before[name].declaration() == after[name].declaration()
        }
        for name in before.keys() - stay:
            self._face.show_fields({}, {name: before[name]})
            self._dynamic = {k: field for k, field in self._dynamic.items() if k != name}
        for name, field in after.items():
            if name not in stay:
                self._face.show_fields({name: field}, {})
            self._dynamic = {**self._dynamic, name: field}
            self.fields = {**{field.name: field for field in FRAME_FIELDS}, **self._dynamic}
        self._dynamic = after
        self.fields = {**{field.name: field for field in FRAME_FIELDS}, **after}

    def _push_changed(self, fields: Sequence[StatusField | SourceField | LinkField], said: Any) -> None:
        for field in fields:
            value = field.value(said)
            if self._told.get(field.name) != value:
                self._told[field.name] = value
                self._face.push(field.name, value)

    def _push_scalars(self, source: Source) -> None:
        for field in self.fields.values():
            if field.source is source and not field.axes and not self._stopping.is_set():
                self._face.push(field.name, *self.reading(field))

    def _push_arrays(self, source: Source) -> None:
        """Push the arrays of the latest frame when they are due; images as their encoded twins."""
        latest, rate = self._latest[source], self._rate_hz()
        if not latest.owed or rate <= 0 or time.monotonic() < latest.due:
            return
        latest.owed, latest.due = False, time.monotonic() + 1.0 / rate
        for field in self.fields.values():
            if field.source is source and field.axes and not field.image and not self._stopping.is_set():
                reading = self.reading(field)
                if pushable(reading[0], field):
                    self._face.push(field.name, *reading)

    def _show_state(self, state: DevState, status: str) -> None:
        """Show State and Status, each when it changes."""
        if self._told.get("Status") != status and not self._stopping.is_set():
            self._told["Status"] = status
            self._face.show_status(status)
        if self._told.get("State") != state and not self._stopping.is_set():
            _log_fault(self._told.get("State"), state, status)
            self._told["State"] = state
            self._face.show_state(state)


def _log_fault(before: DevState | None, state: DevState, status: str) -> None:
    """Log when the worker fails and when it is back; its other states come and go with the frames."""
    if state == DevState.FAULT:
        logger.error("State is FAULT: %s", status)
    elif before == DevState.FAULT:
        logger.info("State is %s again: %s", state, status)


def _same(one: ModelInfo, other: ModelInfo | None) -> bool:
    return other is not None and (one.name, one.sha256) == (other.name, other.sha256)


def _of_model(frame: FrameResult, model: ModelInfo | None) -> bool:
    """Return whether a model with these parameters reconstructed a frame; a failed one says nothing."""
    return (
        model is None or not frame.parameters or frame.parameters.keys() == {p.name for p in model.parameters}
    )
