"""Frames straight from an image attribute of another Tango device, each with its number."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tango

from nfphasing_bluesky.clients.data_array import decode, frame_number
from nfphasing_bluesky.clients.registration import reason
from nfphasing_bluesky.core import SettingsError, TransportError

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
"""How often a source that pushes events is looked at all the same, and one that is away is tried again."""
_WAITING_AT_MOST = 64
_TRIES = 20

OnFrame = Callable[[int, np.ndarray | str, float], None]


@dataclass(frozen=True)
class SourceSettings:
    """Where frames come from.

    Args:
        attribute: `domain/family/member/attribute`, an IMAGE or SPECTRUM of numbers, or DevEncoded as LImA's.
        number: attribute of the same device with the number of the image that it shows; empty takes that in
            the header of a VIDEO_IMAGE, else each event of the image counts as one frame.
        command: gives an image by its number, as LImA's readImage; empty reads the attribute.
        period_s: how often a source without events is looked at.
        first: number of an acquisition's first frame.
        metadata: for the start documents.
    """

    attribute: str
    number: str = ""
    command: str = ""
    period_s: float = 0.02
    first: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """Tango name of the source."""
        return self.attribute.rpartition("/")[0]

    @property
    def name(self) -> str:
        """Of the image attribute."""
        return self.attribute.rpartition("/")[2]


def source_settings(
    attribute: str, number: str, command: str, period_ms: str, first: str, metadata: str
) -> SourceSettings:
    """Read the device's properties.

    Raises:
        SettingsError: one is not what it should be.
    """
    if attribute.removeprefix("tango://").count("/") < 3:
        raise SettingsError(f"source_attribute {attribute!r}, expected domain/family/member/attribute")
    if command and not number:
        raise SettingsError(f"source_command {command!r} needs source_number, as LImA's last_image_ready")
    try:
        period_s, begin = float(period_ms) / 1000, int(first)
        said = json.loads(metadata or "{}")
    except ValueError as error:
        raise SettingsError(
            f"source_period_ms {period_ms!r}, source_first {first!r}, source_metadata {metadata!r}: {error}; "
            "expected a number, a whole number and a JSON object"
        ) from error
    if not isinstance(said, dict) or not 0.001 <= period_s <= 60:
        raise SettingsError(
            f"source_metadata {metadata!r}, source_period_ms {period_ms!r}, expected a JSON object and "
            "1 to 60000"
        )
    return SourceSettings(attribute, number, command, period_s, begin, said)


class TangoFrames:
    """Looks at a source and hands on its frames; call `look` again and again, from one thread.

    Where there is a number, that is subscribed to (or polled) and the image read when it changes: an event of
    a large image would let this process, if it hangs, hold up the detector's server. A frame that can't be
    decoded is handed on as the reason. Numbers that were skipped are for the caller to see.

    Args:
        settings: of the source.
        on_frame: takes number, frame or reason, and time.
        on_restart: hears that the numbers begin again.
    """

    def __init__(self, settings: SourceSettings, on_frame: OnFrame, on_restart: Callable[[], None]) -> None:
        self._settings, self._on_frame, self._on_restart = settings, on_frame, on_restart
        self._proxy: tango.DeviceProxy | None = None
        self._subscription: int | None = None
        self._wake = threading.Event()
        self._events: deque[tuple[int, tango.DeviceAttribute]] = deque()
        self._listening, self._pushed = False, 0
        self._told: int | None = None
        self._restarted = self._seen_first = False
        self.last: int | None = None
        """Number of the last frame that the source was seen to have; None before it answered."""
        self.problem = "it was not looked at yet"
        """Why the source does not answer; empty when it does."""

    def look(self) -> None:
        """Wait for something new, or for a period, and hand on what there is; never raises for the source."""
        try:
            if self._proxy is None:
                self._connect()
            self._wait()
            if self._settings.number:
                self._follow_number()
            else:
                self._follow_events()
            self.problem = ""
        except tango.DevFailed as error:
            self._lose(reason(error))
        except TransportError as error:
            self._lose(str(error))

    def wake(self) -> None:
        """End the waiting; from any thread."""
        self._wake.set()

    def close(self) -> None:
        """Unsubscribe."""
        if self._proxy is not None and self._subscription is not None:
            with suppress(tango.DevFailed, KeyError):
                self._proxy.unsubscribe_event(self._subscription)
        self._proxy = self._subscription = None

    def _connect(self) -> None:
        proxy = tango.DeviceProxy(self._settings.device)
        proxy.ping()
        watched = self._settings.number or self._settings.name
        self._proxy, self._listening = proxy, False
        with suppress(tango.DevFailed):  # it pushes none
            self._subscription = proxy.subscribe_event(watched, tango.EventType.CHANGE_EVENT, self._hear)
        # the first event is what was there before
        self._listening = True
        if not self._settings.number:
            self._check_numbered(proxy)

    def _check_numbered(self, proxy: tango.DeviceProxy) -> None:
        value = proxy.read_attribute(self._settings.name).value
        number = frame_number(value) if _is_encoded(value) else None
        if self._subscription is None and number is None:
            raise TransportError(
                f"{self._settings.attribute} pushes no events and has no frame number; set the property "
                "source_number to the attribute that counts its frames, and call Init"
            )
        if self.last is None:
            self.last = 0 if number is None else number

    def _lose(self, why: str) -> None:
        if self.problem != why:
            logger.warning("source %s: %s", self._settings.attribute, why)
        self.problem = why
        self.close()
        self._wake.wait(_LOOK_S)
        self._wake.clear()

    def _wait(self) -> None:
        if not self._events:
            self._wake.wait(self._settings.period_s if self._subscription is None else _LOOK_S)
        self._wake.clear()

    def _hear(self, event: tango.EventData) -> None:
        """In Tango's thread: note what was pushed, each image under the number of its event."""
        if event.err or event.attr_value is None:
            missed = event.err and event.errors and event.errors[0].reason == "API_MissedEvents"
            self._pushed += bool(missed)
        elif self._settings.number:
            self._hear_number(event.attr_value.value)
        elif self._listening:
            self._pushed += 1
            if len(self._events) < _WAITING_AT_MOST:
                self._events.append((self._pushed, event.attr_value))
        self._wake.set()

    def _hear_number(self, value: Any) -> None:
        number = -1 if value is None else int(value)
        if self._told is not None and number < self._told:
            # a reading may have told already
            self._restarted, self._seen_first = not self._seen_first, False
        self._told = number

    def _follow_number(self) -> None:
        assert self._proxy is not None  # noqa: S101 (for the type checker)
        number = int(self._proxy.read_attribute(self._settings.number).value)
        if self.last is None:
            self.last, self._restarted = number, False
        elif self._restarted or number < self.last:
            self._seen_first = self._subscription is not None and not self._restarted
            self._begin_again()
        if number == self.last:
            return
        if self._settings.command:
            self._fetch(self._proxy, number)
        else:
            self._read(self._proxy)

    def _begin_again(self) -> None:
        self._restarted, self.last = False, self._settings.first - 1
        self._on_restart()

    def _fetch(self, proxy: tango.DeviceProxy, newest: int) -> None:
        """Get every frame up to the newest; one that is in the source's memory no longer is skipped."""
        for number in range((self.last or 0) + 1, newest + 1):
            self.last = number
            try:
                value = proxy.command_inout(self._settings.command, number)
            except tango.DevFailed as error:
                logger.warning("frame %d of %s: %s", number, self._settings.attribute, reason(error))
                continue
            self._hand_on(number, value, time.time())
            if self._restarted:
                return

    def _read(self, proxy: tango.DeviceProxy) -> None:
        """Read image and number until the number is the same before and after: then it is the image's."""
        name, count = self._settings.name, self._settings.number
        for _ in range(_TRIES):
            before, image = proxy.read_attributes([count, name])
            if before.has_failed or image.has_failed:
                raise tango.DevFailed(*(before if before.has_failed else image).get_err_stack())
            after = int(proxy.read_attribute(count).value)
            if int(before.value) == after:
                break
        else:
            return  # it is faster than it can be read: what was skipped shows in the numbers
        if after < (self.last or 0):
            return  # it began again in between; the next look sees that
        self.last = after
        self._hand_on(after, image.value, image.time.totime())

    def _follow_events(self) -> None:
        assert self._proxy is not None  # noqa: S101
        if self._subscription is None:
            self._take(0, self._proxy.read_attribute(self._settings.name))
        elif not self._events:
            self._proxy.ping()
        while self._events:
            self._take(*self._events.popleft())

    def _take(self, count: int, read: tango.DeviceAttribute) -> None:
        value, last = read.value, self.last or 0
        number = frame_number(value) if _is_encoded(value) else None
        if number is None:
            number = count
        elif number < last:
            self._begin_again()
        if number == self.last or number < 0:
            return
        self.last = number
        self._hand_on(number, value, read.time.totime())

    def _hand_on(self, number: int, value: Any, at: float) -> None:
        try:
            frame: np.ndarray | str = decode(value) if _is_encoded(value) else np.asarray(value)
        except TransportError as error:
            frame = str(error)
        self._on_frame(number, frame, at)


def _is_encoded(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], (bytes, bytearray))
