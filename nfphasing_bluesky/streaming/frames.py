"""Which frames a raw document carries, told from the documents alone: nothing is read or filled."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nfphasing_bluesky.core import DataKeyError, StreamSettings
from nfphasing_bluesky.documents.keys import choose_data_key, has_arrays

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
    start: dict[str, Any]
    carriers: dict[str, str | None] = field(default_factory=dict)
    """Descriptor -> the data key whose stream datums carry its frames, None where its events do."""
    resources: dict[str, str] = field(default_factory=dict)


class FrameIndex:
    """Follows runs and says which of their documents carry frames of the chosen stream and data key.

    A frame counts where its intensity arrives: in a `stream_datum`, `event` or `event_page`. Where no data
    key would do, every event counts: it is going to be a failed frame. Derived runs carry none.
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
        if not doc.get(DERIVED_KEY):
            self._runs[doc["uid"]] = _Run(doc)

    def _descriptor(self, doc: dict[str, Any]) -> None:
        run = self._runs.get(doc["run_start"])
        if run is None or doc.get("name", "") != self._stream:
            return
        if self._data_key is None and not has_arrays(doc):
            return
        keys = doc["data_keys"]
        try:
            carrier = choose_data_key(run.start, doc, self._data_key)
        except DataKeyError:
            carrier = next(iter(keys)) if all("external" in key for key in keys.values()) else ""
        streamed = str(keys.get(carrier, {}).get("external", "")).startswith("STREAM")
        run.carriers[doc["uid"]] = carrier if streamed else None
        self._run_of[doc["uid"]] = doc["run_start"]

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
        first, last = doc["indices"]["start"], doc["indices"]["stop"]
        numbered = doc["seq_nums"]["stop"] - doc["seq_nums"]["start"] == last - first
        offset = doc["seq_nums"]["start"] - first if numbered else 1
        return FrameSpan(raw_uid, tuple(range(first + offset, last + offset)))

    def _event(self, doc: dict[str, Any]) -> FrameSpan | None:
        raw_uid = self._carries(doc["descriptor"])
        return None if raw_uid is None else FrameSpan(raw_uid, (int(doc["seq_num"]),))

    def _event_page(self, doc: dict[str, Any]) -> FrameSpan | None:
        raw_uid = self._carries(doc["descriptor"])
        return None if raw_uid is None else FrameSpan(raw_uid, tuple(int(n) for n in doc["seq_num"]))

    def _carries(self, descriptor: str) -> str | None:
        raw_uid = self._run_of.get(descriptor, "")
        run = self._runs.get(raw_uid)
        return raw_uid if run is not None and run.carriers[descriptor] is None else None

    def _stop(self, doc: dict[str, Any]) -> None:
        run = self._runs.pop(doc["run_start"], None)
        for uid in run.carriers if run else ():
            self._run_of.pop(uid, None)
