"""The NfPhasing device: a thin face over a worker process."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tango import AttrQuality, AutoTangoAllowThreads, DevFailed, DeviceProxy, DevState, Except, Util
from tango.server import Device, attribute, command, device_property

from nfphasing_bluesky import __version__
from nfphasing_bluesky.clients.properties import DEFAULTS
from nfphasing_bluesky.clients.registration import reason
from nfphasing_bluesky.core import (
    Policy,
    ReconstructionSettings,
    SettingsError,
    StreamSettings,
    TransportError,
)
from nfphasing_bluesky.streaming.curve import client_keys
from nfphasing_bluesky.streaming.protocol import Verb
from nfphasing_bluesky.streaming.settings import WorkerSettings
from tango_device.attributes import (
    FRAME_FIELDS,
    LINK_FIELDS,
    SOURCE_FIELDS,
    STATUS_FIELDS,
    LinkField,
    SourceField,
    StatusField,
)
from tango_device.fields import FrameField
from tango_device.link import Ends, WorkerLink
from tango_device.logs import DeviceLog
from tango_device.showing import Reading, Showing
from tango_device.source import SourceSettings, source_settings
from tango_device.taking import NO_SOURCE, Taker, Taking

logger = logging.getLogger(__name__)


def _property(name: str, dtype: Any = str) -> device_property:
    default, doc = DEFAULTS[name]
    return device_property(dtype=dtype, default_value=default, doc=doc)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _frame_reader(name: str) -> Callable[..., Any]:
    def read(self: "NfPhasing", _: object = None) -> Reading:
        return self.reading(name)

    return read


def _status_reader(field: StatusField) -> Callable[..., Any]:
    def read(self: "NfPhasing", _: object = None) -> Reading:
        return self.status_reading(field)

    return read


def _source_reader(field: SourceField) -> Callable[..., Any]:
    def read(self: "NfPhasing", _: object = None) -> Any:
        return field.value(self._now())

    return read


def _link_reader(field: LinkField) -> Callable[..., Any]:
    def read(self: "NfPhasing", _: object = None) -> Any:
        return field.dtype() if self._showing is None else field.value(self._showing.link)

    return read


class NfPhasing(Device):
    """Posterior electron densities of X-ray scattering frames, live.

    The reconstruction runs in a worker process (`nfphasing serve`); this device attaches to it over 0MQ,
    shows what it says and outlives it. Attributes of the density and of the parameters appear with the
    model. Scalars are pushed with every frame, arrays at most `image_rate_hz` times a second: curves as they
    are, images as their DevEncoded twins `<name>_encoded`, so that a subscriber that is stuck cannot hold up
    the server. The images themselves are read, when `frame_id` changes.
    """

    _rate_hz = 2.0
    _ready = False
    _known = False

    worker = _property("worker")
    model_name = _property("model_name")
    torch_device = _property("torch_device")
    n_samples = _property("n_samples")
    documents_endpoint = _property("documents_endpoint")
    proxy_endpoint = _property("proxy_endpoint")
    results_endpoint = _property("results_endpoint")
    control_endpoint = _property("control_endpoint")
    curve_secret = _property("curve_secret")
    curve_server = _property("curve_server")
    catalog = _property("catalog")
    data_key = _property("data_key")
    stream = _property("stream")
    queue_policy = _property("queue_policy")
    probe = _property("probe")
    positions = _property("positions")
    positions_sign = _property("positions_sign")
    source_attribute = _property("source_attribute")
    source_number = _property("source_number")
    source_command = _property("source_command")
    source_period_ms = _property("source_period_ms")
    source_first = _property("source_first")
    source_metadata = _property("source_metadata")

    for _field in FRAME_FIELDS:
        locals()[_field.name] = attribute(fget=_frame_reader(_field.name), **_field.declaration())
    for _item in STATUS_FIELDS:
        locals()[_item.name] = attribute(fget=_status_reader(_item), **_item.declaration())
    for _part in SOURCE_FIELDS:
        locals()[_part.name] = attribute(fget=_source_reader(_part), **_part.declaration())
    for _one in LINK_FIELDS:
        locals()[_one.name] = attribute(fget=_link_reader(_one), **_one.declaration())
    del _field, _item, _part, _one

    def init_device(self) -> None:
        """Attach to the worker, or start it."""
        self._read_properties()
        self.add_version_info("nfphasing-bluesky", __version__)
        self._showing: Showing | None = None
        self._taker: Taker | None = None
        self._log = DeviceLog(self)
        for name in self._pushed_names():
            self.set_change_event(name, True, False)
        self.set_state(DevState.INIT)
        self.set_status("Looking for the worker.")
        try:
            ends, source = self._ends(), self._source()
            link = WorkerLink(ends, self._settings() if self._wants_child() else None)
        except (ValueError, TransportError) as error:
            self._misconfigured(error)
            return
        if source is not None:
            self._taker = Taker(source, ends, link.answering, self.data_key, self.stream)
        self._showing = Showing(self, link, self.model_name, lambda: self._rate_hz, self._now)

    def _read_properties(self) -> None:
        """Read the properties; in an Init while the database is away they stay as they were."""
        try:
            super().init_device()
        except DevFailed as error:
            if not self._known:
                raise
            logger.error("the properties could not be read and stay as they were: %s", reason(error))
        self._known = True

    def delete_device(self) -> None:
        """Detach; end a worker that was started here."""
        showing, self._showing = self._showing, None
        taker, self._taker = self._taker, None
        if taker is not None:
            with AutoTangoAllowThreads(self):
                taker.close()
        if showing is not None:
            # Init holds the monitor of the device, and the thread that is to end may be waiting for it
            with AutoTangoAllowThreads(self):
                showing.close()
            self.show_fields({}, showing.dynamic)
        with AutoTangoAllowThreads(self):
            self._log.close()
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
        doc="Most pushes a second of arrays: curves as they are, images as <name>_encoded; 0 pushes none. "
        "Whatever it is, arrays can be read when frame_id changes.",
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
        """Reconstruct the runs that start from now on; with a frame source, begin one of its next frames."""
        said = self._order(Verb.START)
        if self._taker is not None:
            try:
                self._taker.begin()
            except TransportError as error:
                Except.throw_exception("NfPhasing_Source", str(error), "NfPhasing.Start")
        return said

    @command(dtype_out=str, doc_out="What the worker does now.")
    def Stop(self) -> str:  # noqa: N802
        """End the run of the frame source. Without one: stop reconstructing, frames count as dropped."""
        if self._taker is not None and self._taker.now.open:
            self._taker.end()
            return "The run ends with the frames that are there."
        return self._order(Verb.STOP)

    @command(
        dtype_in=str,
        doc_in="Name of a shipped model (see `nfphasing models`) or a model folder on the worker's machine.",
        dtype_out=str,
        doc_out="What the worker does now: it loads; State tells when it is done.",
    )
    def LoadModel(self, model: str) -> str:  # noqa: N802
        """Load a model, for the runs that start then; a child that falls comes back with it, until Init."""
        return self._order(Verb.LOAD_MODEL, model=model)

    @command(dtype_out=str, doc_out="What the worker does now.")
    def Reset(self) -> str:  # noqa: N802
        """Set the counters to zero, forget past errors, and try again to load a model that failed."""
        return self._order(Verb.RESET)

    def ready(self) -> bool:
        """Open the socket that events leave by; False while the server is still starting.

        Tango opens it for the first subscriber. It also counts a device that nobody subscribed to as
        subscribed to when the machine was booted, for ten minutes: an attribute that is added meanwhile is
        told through a socket that is not there, and the server dies (cppTango 10.3.3, its issue 631).
        """
        if not self._ready and not Util.instance().is_svr_starting():
            admin = DeviceProxy(f"dserver/{Util.instance().get_ds_name()}")
            admin.ZmqEventSubscriptionChange([self.get_name(), "State", "subscribe", "change", "6"])
            self._ready = True
        return self._ready

    def push(self, name: str, *reading: Any) -> None:
        """Push a change event of an attribute."""
        self.push_change_event(name, *reading)

    def show_fields(self, fields: Mapping[str, FrameField], gone: Mapping[str, FrameField]) -> None:
        """Add attributes and remove others; what a person wrote about one in the database stays there."""
        for name in gone:
            self.remove_attribute(name, clean_db=False)
        for name, field in fields.items():
            self.add_attribute(attribute(name=name, fget=_frame_reader(name), **field.declaration()))
            if not field.image:
                self.set_change_event(name, True, False)

    def show_state(self, state: DevState) -> None:
        """Set and push State."""
        self.set_state(state)
        self.push_change_event("State")

    def show_status(self, status: str) -> None:
        """Set and push Status."""
        self.set_status(status)
        self.push_change_event("Status")

    def reading(self, name: str) -> Reading:
        """Return value, time and quality of an attribute of the last frame; invalid before the first."""
        if self._showing is None or name not in self._showing.fields:
            Except.throw_exception("NfPhasing_Worker", f"{name}: {self.get_status()}", "NfPhasing.reading")
            raise AssertionError
        return self._showing.reading(self._showing.fields[name])

    def status_reading(self, field: StatusField) -> Reading:
        """Return value, time and quality of an attribute of the worker; invalid before its first word."""
        if self._showing is None:
            return field.dtype(), time.time(), AttrQuality.ATTR_INVALID
        return self._showing.status_reading(field)

    def _now(self) -> Taking:
        return NO_SOURCE if self._taker is None else self._taker.now

    def _source(self) -> SourceSettings | None:
        if not self.source_attribute:
            return None
        return source_settings(
            self.source_attribute,
            self.source_number,
            self.source_command,
            self.source_period_ms,
            self.source_first,
            self.source_metadata,
        )

    def _order(self, verb: Verb, **arguments: object) -> str:
        showing = self._showing
        if showing is None:
            Except.throw_exception("NfPhasing_Misconfigured", self.get_status(), f"NfPhasing.{verb}")
            raise AssertionError
        try:
            # a worker that hangs takes its time to be found out, and nobody else is to wait for that
            with AutoTangoAllowThreads(self):
                status = showing.link.ask(verb, **arguments)
        except TransportError as error:
            Except.throw_exception("NfPhasing_Worker", str(error), f"NfPhasing.{verb}")
            raise
        return f"{status.state}: {status.reason}" if status.reason else str(status.state)

    def _ends(self) -> Ends:
        named = bool(self.curve_secret), bool(self.curve_server)
        if any(named) and (not all(named) or self.worker != "attach"):
            raise SettingsError(
                "curve_secret and curve_server go together, and with a worker on another machine "
                "(property worker: attach)"
            )
        keys = client_keys(Path(self.curve_secret), Path(self.curve_server)) if all(named) else None
        return Ends(self.documents_endpoint, self.results_endpoint, self.control_endpoint, keys)

    def _settings(self) -> WorkerSettings:
        return WorkerSettings(
            model=self.model_name or None,
            device=self.torch_device,
            documents=self.documents_endpoint,
            proxy=self.proxy_endpoint or None,
            results=self.results_endpoint,
            control=self.control_endpoint,
            catalog=self.catalog or None,
            reconstruction=ReconstructionSettings(n_samples=int(self.n_samples)),
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

    def _pushed_names(self) -> Iterator[str]:
        yield from ("State", "Status")
        for field in (*FRAME_FIELDS, *STATUS_FIELDS, *SOURCE_FIELDS, *LINK_FIELDS):
            yield field.name
