"""One run's documents in, its Frames out."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import event_model
import numpy as np

from nfphasing_bluesky.core import (
    DataKeyError,
    DetectorGeometry,
    DocumentError,
    Failure,
    Frame,
    NFPhasingError,
    Origin,
    StreamSettings,
    Window,
)
from nfphasing_bluesky.documents.growing import points_of
from nfphasing_bluesky.documents.handlers import ResourceAssets
from nfphasing_bluesky.documents.keys import has_arrays, is_external
from nfphasing_bluesky.documents.layout import Layout, read_layout
from nfphasing_bluesky.documents.scan_frames import Beam, ScanFrames
from nfphasing_bluesky.documents.start_words import unknown_words
from nfphasing_bluesky.documents.streams import StreamAssets, rows_of

log = logging.getLogger(__name__)

Emit = Callable[[Frame | Failure], None]
Integrate = Callable[[Frame], Frame]


@dataclass
class _Pending:
    """What has arrived so far of one event, data key -> a function that gives its value."""

    descriptor: str
    seq_num: int
    time: float
    values: dict[str, Callable[[], Any]] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)


class RunFrames(event_model.SingleRunDocumentRouter):
    """Turns the documents of one run into Frames and Failures, in the order in which they are complete.

    A frame is complete when its data key and its companions have arrived, inline, as a known datum or in a
    stream datum; what is still incomplete when the run stops becomes a Failure. Nothing is raised for a bad
    frame: it becomes a Failure with its reason.

    Args:
        settings: stream and data key.
        emit: takes each Frame or Failure.
        resources, streams: readers of external assets, closed with the run.
        geometry: of two-dimensional frames, over what the documents say.
        integrate: turns a two-dimensional frame into the one to reconstruct (a curve), or None to leave it.
        beam: of ptychographic scans, or None.
    """

    def __init__(
        self,
        settings: StreamSettings,
        emit: Emit,
        resources: ResourceAssets,
        streams: StreamAssets,
        geometry: DetectorGeometry | None = None,
        integrate: Integrate | None = None,
        beam: Beam | None = None,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._emit = emit
        self._resources = resources
        self._streams = streams
        self._geometry = geometry
        self._integrate = integrate
        self._beam = beam
        self._layouts: dict[str, Layout | DataKeyError] = {}
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._refused: set[tuple[str, int]] = set()
        self.problem = ""
        self.streams_seen: list[str] = []
        self.remarks: list[str] = []

    def start(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Remark on what the start document says and nothing reads."""
        super().start(doc)  # type: ignore[arg-type]
        self._remark(unknown_words(doc))

    def descriptor(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Work out how this stream's frames are made."""
        name = doc.get("name", "")
        if name not in self.streams_seen:
            self.streams_seen.append(name)
        if name != self._settings.stream:
            return
        self._resources.descriptor(doc)
        asked = self._settings.data_key
        try:
            start = self.get_start()
            if asked is None and not has_arrays(doc) and points_of(start, self._settings) is None:
                return
            layout = read_layout(start, doc, asked, self._geometry, self._beam, self._settings)
            self._layouts[doc["uid"]] = layout
            self._remark(layout.remarks)
        except DataKeyError as error:
            log.warning("run %s: %s", self.get_start()["uid"], error)
            self.problem = str(error)
            self._layouts[doc["uid"]] = error

    def event_page(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Take the inline values and datum references of a page of events."""
        for event in event_model.unpack_event_page(doc):  # type: ignore[arg-type]
            self._take_event(event)

    def event(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Take the inline values and datum references of one event."""
        self._take_event(doc)

    def resource(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Remember a resource."""
        self._resources.resource(doc)

    def datum(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Remember a datum, and finish events that waited for it."""
        self._resources.datum(doc)
        for pending in list(self._pending.values()):
            if doc["datum_id"] in pending.waiting.values():
                self._resolve_waiting(pending)
                self._finish_if_complete(pending)

    def datum_page(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Remember a page of datums."""
        for datum in event_model.unpack_datum_page(doc):  # type: ignore[arg-type]
            self.datum(datum)

    def stream_resource(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Remember a stream resource."""
        self._streams.add(doc)

    def stream_datum(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Take the rows that a stream datum announces."""
        layout = self._layouts.get(doc["descriptor"])
        if layout is None:
            return
        key = self._streams.data_key(doc["stream_resource"])
        rows, offset = rows_of(doc)
        if isinstance(layout, DataKeyError):
            for index in rows:
                self._refuse(doc["descriptor"], index + offset, time.time(), layout)
            return
        if key not in layout.needed:
            return
        shape = self._descriptors[doc["descriptor"]]["data_keys"][key].get("shape", ())
        for index in rows:
            pending = self._pending_for(doc["descriptor"], index + offset, time.time())
            pending.values[key] = _row(self._streams, doc["stream_resource"], index, shape)
            self._finish_if_complete(pending)

    def stop(self, doc: dict[str, Any]) -> None:  # type: ignore[override]
        """Give up on what is incomplete and close files."""
        self.close()

    def close(self) -> None:
        """Fail every incomplete frame with what it lacks, and close files."""
        for pending in list(self._pending.values()):
            layout = self._layouts[pending.descriptor]
            if isinstance(layout, Layout) and not layout.due(pending.seq_num):
                continue
            lacking = sorted(layout.needed - set(pending.values)) if isinstance(layout, Layout) else []
            self._fail(
                self._origin(pending.seq_num, pending.time, layout),
                f"event {pending.seq_num}: {', '.join(lacking)} had not arrived when the run ended",
            )
        self._pending.clear()
        for layout in self._layouts.values():
            if isinstance(layout, Layout):
                self._emit_all(layout.release())
        self._streams.close()
        self._resources.close()

    def window(self) -> Window | None:
        """Rectangle of the object that a scan will cover, once a frame of it has come; None where unknown."""
        scans = (layout.scan for layout in self._layouts.values() if isinstance(layout, Layout))
        windows = (scan.window() for scan in scans if isinstance(scan, ScanFrames))
        return next((window for window in windows if window is not None), None)

    def notes(self) -> dict[str, str]:
        """What was found out about the scan, by name."""
        scans = (layout.scan for layout in self._layouts.values() if isinstance(layout, Layout))
        return {k: v for scan in scans if isinstance(scan, ScanFrames) for k, v in scan.notes.items()}

    def _remark(self, remarks: Sequence[str]) -> None:
        for remark in remarks:
            if remark not in self.remarks:
                self.remarks.append(remark)
                log.warning("run %s: %s", self.get_start()["uid"], remark)

    def _take_event(self, doc: Any) -> None:
        layout = self._layouts.get(doc["descriptor"])
        if layout is None:
            return
        number, at = _whole(doc["seq_num"]), _seconds(doc["time"])
        if isinstance(layout, DataKeyError):
            self._refuse(doc["descriptor"], number, at, layout)
            return
        brought = layout.needed & set(doc["data"])
        if not brought:
            return
        pending = self._pending_for(doc["descriptor"], number, at)
        pending.time = at
        keys = self._descriptors[doc["descriptor"]]["data_keys"]
        filled = doc.get("filled") or {}
        for key in brought:
            value = doc["data"][key]
            if is_external(keys[key]) and not filled.get(key, False):
                pending.waiting[key] = value
            else:
                pending.values[key] = _constant(value)
        self._resolve_waiting(pending)
        self._finish_if_complete(pending)

    def _refuse(self, descriptor_uid: str, seq_num: int, at: float, why: DataKeyError) -> None:
        """Fail one event of a stream with a wrong data key, once, whichever documents speak of it."""
        if (descriptor_uid, seq_num) not in self._refused:
            self._refused.add((descriptor_uid, seq_num))
            self._fail(self._origin(seq_num, at), str(why))

    def _pending_for(self, descriptor: str, seq_num: int, at: float) -> _Pending:
        return self._pending.setdefault((descriptor, seq_num), _Pending(descriptor, seq_num, at))

    def _resolve_waiting(self, pending: _Pending) -> None:
        for key, datum_id in list(pending.waiting.items()):
            if self._resources.knows(datum_id):
                pending.values[key] = _datum(self._resources, pending.descriptor, key, datum_id)
                del pending.waiting[key]

    def _finish_if_complete(self, pending: _Pending) -> None:
        layout = self._layouts[pending.descriptor]
        if not isinstance(layout, Layout) or not layout.needed <= set(pending.values):
            return
        del self._pending[(pending.descriptor, pending.seq_num)]
        origin = self._origin(pending.seq_num, pending.time, layout)
        try:
            made = layout.frames({key: value() for key, value in pending.values.items()}, origin)
        except Exception as error:
            self._fail(origin, _reason(error, origin))
        else:
            self._emit_all(made)

    def _emit_all(self, made: Sequence[Frame | Failure]) -> None:
        for one in made:
            if isinstance(one, Frame) and self._integrate is not None and one.intensity.ndim == 2:
                try:
                    one = self._integrate(one)
                except Exception as error:
                    one = Failure(one.origin, _reason(error, one.origin))
            self._emit(one)

    def _fail(self, origin: Origin, reason: str) -> None:
        self._emit(Failure(origin, reason))

    def _origin(self, seq_num: int, at: float, layout: Layout | DataKeyError | None = None) -> Origin:
        key = layout.data_key if isinstance(layout, Layout) else self._settings.data_key or ""
        uid = self.get_start()["uid"]
        return Origin(key or "frame", uid, self._settings.stream, key, int(seq_num), float(at))


def _whole(number: Any) -> int:
    """Return a sequence number; raises DocumentError for what is none, before anything waits under it."""
    if isinstance(number, int | np.integer):
        return int(number)
    raise DocumentError(f"an event has seq_num {number!r}, expected a whole number")


def _seconds(at: Any) -> float:
    """Return the time of an event, NaN for what is none: its frame may be good all the same."""
    try:
        return float(at)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _reason(error: Exception, origin: Origin) -> str:
    """What to say of a frame that failed; one that surprises us must not end the run."""
    if isinstance(error, NFPhasingError):
        return str(error)
    log.error("run %s, event %d", origin.raw_uid, origin.seq_num, exc_info=error)
    return f"{type(error).__name__}: {error}"


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _row(streams: StreamAssets, resource: str, index: int, shape: Any) -> Callable[[], np.ndarray]:
    return lambda: streams.read(resource, index, shape)


def _datum(resources: ResourceAssets, descriptor: str, key: str, datum_id: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            return resources.read(descriptor, key, datum_id)
        except KeyError as error:
            raise DocumentError(f"{key}: datum {datum_id} refers to unknown document {error}") from error

    return read
