"""Which frames a raw document carries, told from the documents alone: nothing is read or filled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nfphasing_bluesky.core import DataKeyError, StreamSettings
from nfphasing_bluesky.documents.growing import PointCurve, accumulates, points_of
from nfphasing_bluesky.documents.keys import choose_data_key, has_arrays
from nfphasing_bluesky.documents.streams import rows_of

_MOST_EVENTS = 2**40
"""More than any run has; counts beyond it would not fit where they are written."""

DERIVED_KEY = "original_run_uid"


@dataclass(frozen=True)
class FrameSpan:
    """Frames `seq_nums` of one stream of one raw run.

    Args:
        raw_uid: of the run.
        seq_nums: of the events.
        needed: whether later frames need these documents too, which must not be dropped then.
    """

    raw_uid: str
    seq_nums: tuple[int, ...]
    needed: bool = False

    def __len__(self) -> int:
        return len(self.seq_nums)


@dataclass
class _Run:
    start: dict[str, Any]
    described: bool = False
    carriers: dict[str, str | None] = field(default_factory=dict)
    """Descriptor -> the data key whose stream datums carry its frames, None where its events do."""
    resources: dict[str, str] = field(default_factory=dict)
    first: int = 1
    """Sequence number of the first event that makes a frame."""
    grows: bool = False


class FrameIndex:
    """Follows runs and says which of their documents carry frames of the chosen stream and data key.

    A frame counts where its intensity arrives: in a `stream_datum`, `event` or `event_page`. Where no data
    key would do, every event counts: it is going to be a failed frame. Derived runs carry none.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self._stream = settings.stream
        self._data_key, self._settings = settings.data_key, settings
        self._runs: dict[str, _Run] = {}
        self._run_of: dict[str, str] = {}
        self._ignored: set[str] = set()
        self._methods: dict[str, Callable[[dict[str, Any]], FrameSpan | None]] = {
            "start": self._start,
            "descriptor": self._descriptor,
            "stream_resource": self._stream_resource,
            "stream_datum": self._stream_datum,
            "event": self._event,
            "event_page": self._event_page,
            "stop": self._stop,
        }

    def __call__(self, name: str, doc: dict[str, Any]) -> FrameSpan | None:
        """Take the next document; return the frames in it, or None.

        Raises:
            KeyError, TypeError: for a document that lacks what its schema demands.
        """
        method = self._methods.get(name)
        return None if method is None else method(doc)

    def knows(self, raw_uid: str) -> bool:
        """Return whether a run's start came and its stop did not, whatever kind of run it is."""
        return raw_uid in self._runs or raw_uid in self._ignored

    def first(self, raw_uid: str) -> int:
        """Sequence number of the first event of a run that makes a frame."""
        run = self._runs.get(raw_uid)
        return 1 if run is None else run.first

    def announced(self, stop: dict[str, Any]) -> int:
        """Number of frames that a stop document says its run has; 0 where its events carry none."""
        run = self._runs.get(stop["run_start"])
        if run is None or (run.described and not run.carriers):
            return 0
        counts = stop.get("num_events")
        said = counts.get(self._stream) if isinstance(counts, Mapping) else None
        return min(said, _MOST_EVENTS) if isinstance(said, int) else 0

    def _start(self, doc: dict[str, Any]) -> None:
        if doc.get(DERIVED_KEY):
            self._ignored.add(doc["uid"])
        else:
            self._runs[doc["uid"]] = _Run(doc)

    def _descriptor(self, doc: dict[str, Any]) -> None:
        run = self._runs.get(doc["run_start"])
        if run is None or doc.get("name", "") != self._stream:
            return
        run.described = True
        if self._points(run, doc):
            return
        if self._data_key is None and not has_arrays(doc):
            return
        run.grows = accumulates(run.start, self._settings)
        keys = doc["data_keys"]
        try:
            carrier = choose_data_key(run.start, doc, self._data_key)
        except DataKeyError:
            carrier = next(iter(keys)) if all("external" in key for key in keys.values()) else ""
        streamed = str(keys.get(carrier, {}).get("external", "")).startswith("STREAM")
        run.carriers[doc["uid"]] = carrier if streamed else None
        self._run_of[doc["uid"]] = doc["run_start"]

    def _points(self, run: _Run, doc: dict[str, Any]) -> bool:
        """Return whether the stream's events are points of a curve; note the first that makes a frame."""
        try:
            points = points_of(run.start, self._settings)
            if points is None:
                return False
            PointCurve(run.start, doc, points)
            run.first = points.first
        except DataKeyError:
            # every event is going to be a failed frame
            run.first = 1
        run.grows, run.carriers[doc["uid"]] = True, None
        self._run_of[doc["uid"]] = doc["run_start"]
        return True

    def _stream_resource(self, doc: dict[str, Any]) -> None:
        run = self._runs.get(doc.get("run_start", ""))
        if run is not None:
            run.resources[doc["uid"]] = doc["data_key"]

    def _stream_datum(self, doc: dict[str, Any]) -> FrameSpan | None:
        raw_uid = self._run_of.get(doc["descriptor"], "")
        run = self._runs.get(raw_uid)
        if run is None:
            return None
        carrier = run.carriers[doc["descriptor"]]
        if carrier is None or run.resources.get(doc["stream_resource"]) != carrier:
            return None
        rows, offset = rows_of(doc)
        return FrameSpan(raw_uid, tuple(row + offset for row in rows), run.grows)

    def _event(self, doc: dict[str, Any]) -> FrameSpan | None:
        return self._span(doc["descriptor"], [doc["seq_num"]])

    def _event_page(self, doc: dict[str, Any]) -> FrameSpan | None:
        return self._span(doc["descriptor"], doc["seq_num"])

    def _span(self, descriptor: str, seq_nums: Sequence[int]) -> FrameSpan | None:
        raw_uid = self._run_of.get(descriptor, "")
        run = self._runs.get(raw_uid)
        if run is None or run.carriers[descriptor] is not None:
            return None
        due = tuple(int(n) for n in seq_nums if n >= run.first)
        return FrameSpan(raw_uid, due, run.grows) if due or not run.grows else None

    def _stop(self, doc: dict[str, Any]) -> None:
        self._ignored.discard(doc["run_start"])
        run = self._runs.pop(doc["run_start"], None)
        for uid in run.carriers if run else ():
            self._run_of.pop(uid, None)
