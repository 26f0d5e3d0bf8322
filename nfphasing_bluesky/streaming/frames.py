"""Which frames a raw document carries, told from the documents alone: nothing is read or filled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nfphasing_bluesky.core import StreamSettings

DERIVED_KEY = "original_run_uid"


@dataclass(frozen=True)
class FrameSpan:
    """Frames `seq_nums` of one stream of one raw run."""

    raw_uid: str
    seq_nums: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.seq_nums)


@dataclass
class _Run:
    descriptors: set[str]
    external: dict[str, set[str]]
    resources: set[str]


class FrameIndex:
    """Follows runs and says which of their documents carry frames of the chosen stream and data key.

    A data key that lies in a stream resource arrives by `stream_datum`, any other by `event` or
    `event_page`. Derived runs carry none.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self._stream = settings.stream
        self._data_key = settings.data_key
        self._runs: dict[str, _Run] = {}
        self._run_of: dict[str, str] = {}
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

    def _start(self, doc: dict[str, Any]) -> None:
        if DERIVED_KEY not in doc:
            self._runs[doc["uid"]] = _Run(set(), {}, set())

    def _descriptor(self, doc: dict[str, Any]) -> None:
        run = self._runs.get(doc["run_start"])
        if run is None or doc.get("name", "primary") != self._stream:
            return
        run.descriptors.add(doc["uid"])
        keys = {key for key, value in doc["data_keys"].items() if value.get("external") == "STREAM:"}
        run.external[doc["uid"]] = keys if self._data_key is None else keys & {self._data_key}
        self._run_of[doc["uid"]] = doc["run_start"]

    def _stream_resource(self, doc: dict[str, Any]) -> None:
        uid = doc.get("run_start", "")
        run = self._runs.get(uid)
        if run is None or (self._data_key is not None and doc["data_key"] != self._data_key):
            return
        run.resources.add(doc["uid"])
        self._run_of[doc["uid"]] = uid

    def _stream_datum(self, doc: dict[str, Any]) -> FrameSpan | None:
        run = self._runs.get(self._run_of.get(doc["stream_resource"], ""))
        if run is None or not run.external.get(doc["descriptor"]):
            return None
        span = doc.get("seq_nums") or {"start": 0, "stop": 0}
        if span["stop"] <= span["start"]:
            span = {key: doc["indices"][key] + 1 for key in ("start", "stop")}
        raw_uid = self._run_of[doc["stream_resource"]]
        return FrameSpan(raw_uid, tuple(range(int(span["start"]), int(span["stop"]))))

    def _event(self, doc: dict[str, Any]) -> FrameSpan | None:
        raw_uid = self._carries(doc["descriptor"])
        return None if raw_uid is None else FrameSpan(raw_uid, (int(doc["seq_num"]),))

    def _event_page(self, doc: dict[str, Any]) -> FrameSpan | None:
        raw_uid = self._carries(doc["descriptor"])
        return None if raw_uid is None else FrameSpan(raw_uid, tuple(int(n) for n in doc["seq_num"]))

    def _carries(self, descriptor: str) -> str | None:
        raw_uid = self._run_of.get(descriptor)
        run = self._runs.get(raw_uid or "")
        return None if run is None or run.external.get(descriptor) else raw_uid

    def _stop(self, doc: dict[str, Any]) -> None:
        run = self._runs.pop(doc["run_start"], None)
        for uid in run.descriptors | run.resources if run else ():
            self._run_of.pop(uid, None)
