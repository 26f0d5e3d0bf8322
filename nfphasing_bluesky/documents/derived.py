"""Posteriors of one raw run in, a derived Bluesky run out, linked to the raw one."""

import logging
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, cast

import event_model

from nfphasing_bluesky.core import (
    DocumentError,
    Failure,
    ModelInfo,
    Posterior,
    ReconstructionSettings,
    StitchedObject,
    Window,
    settings_sha256,
)
from nfphasing_bluesky.documents.density_stream import DensityStream
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.documents.ledger import Ledger, ledger_keys
from nfphasing_bluesky.documents.object_stream import ObjectStream, makes_object
from nfphasing_bluesky.documents.remedy import remedy, source_of
from nfphasing_bluesky.documents.seen import in_words
from nfphasing_bluesky.documents.sinks import ArrayStore, DocumentSink

log = logging.getLogger(__name__)

BLOCK = 64
SPEC = {"name": "NFPhasingRun", "version": "1.0"}
_COPIED = ("scan_id", "data_session", "tiled_access_tags")

ExitStatus = Literal["success", "abort", "fail"]


class DerivedRun:
    """Writes the derived run of one raw run to a sink.

    The start document goes out with the first results, when data key and units are known; a run that is
    closed without any gets one all the same. Every result becomes one event, a Failure too.

    Args:
        raw_start: start document of the raw run.
        info: the model.
        settings: of the reconstruction; their digest goes into the start document.
        sink: takes the documents.
        arrays: opens the array file.
        stream, data_key: of the raw run; a result's own origin has the last word.
        store_samples: keep the draws too.
        object_every_s: least time between two states of a stitched object, s.
        successor_of: uid of the derived run whose missing frames this one makes up.
    """

    def __init__(
        self,
        raw_start: Document,
        info: ModelInfo,
        settings: ReconstructionSettings,
        sink: DocumentSink,
        arrays: ArrayStore,
        *,
        stream: str = "primary",
        data_key: str | None = None,
        store_samples: bool = False,
        object_every_s: float = 2.0,
        successor_of: str = "",
    ) -> None:
        self._raw = raw_start
        self._info = info
        self._settings = settings
        self._sink = sink
        self._store = arrays
        self._stream, self._data_key = stream, data_key or ""
        self._n_samples = settings.n_samples if store_samples else 0
        self._run: event_model.ComposeRunBundle | None = None
        self._density: DensityStream | None = None
        self._object: ObjectStream | None = None
        self._object_every_s, self._successor_of = object_every_s, successor_of
        self.window: Window | None = None
        """Rectangle of the object that the scan covers; to be set before the first results, where known."""
        self.notes: dict[str, str] = {}
        """What was found out about the scan, by name; to be set before the first results, where known."""
        self.remarks: Sequence[str] = ()
        """What the raw run's documents say in vain; to be set before the first results."""
        self.ledger = Ledger()
        self.closed = False

    @property
    def uid(self) -> str:
        """Uid of the derived run; empty until its start document has gone out."""
        return "" if self._run is None else str(self._run.start_doc["uid"])

    def add(self, results: Sequence[Posterior | Failure]) -> None:
        """Append results, in order, in blocks of at most 64.

        Raises:
            DocumentError: the run is closed.
        """
        if self.closed:
            raise DocumentError(
                f"derived run {self.uid} is closed; results that come later have nowhere to go"
            )
        for first in range(0, len(results), BLOCK):
            self._add_block(list(results[first : first + BLOCK]))

    def close(
        self,
        exit_status: str = "success",
        reason: str = "",
        *,
        received: int | None = None,
        dropped: int = 0,
        lost: Sequence[range] = (),
    ) -> Ledger:
        """Write the ledger and the stop document.

        Args:
            exit_status: of the raw run.
            reason: of the raw run.
            received: frames that arrived, counted where they did; None for the sum of what became of them.
            dropped: frames that the queue's policy let go.
            lost: sequence numbers of frames that never arrived.

        Returns:
            The ledger. Frames unaccounted for, and lost ones, turn a success into a fail that says so.
        """
        if self.closed:
            return self.ledger
        self.closed = True
        ledger = self.ledger
        ledger.dropped += dropped
        done = ledger.reconstructed + ledger.failed + ledger.dropped
        ledger.received = done if received is None else received
        ledger.lost = sum(map(len, lost))
        if ledger.unaccounted or lost:
            problem = self._problem(lost)
            log.error("derived run of %s: %s", self._raw["uid"], problem)
            reason = f"{reason}; {problem}" if reason else problem
            exit_status = "fail" if exit_status == "success" else exit_status
        run = self._started()
        if self._density is not None:
            self._density.close()
        if self._object is not None:
            self._object.close()
        self._write_ledger(run)
        self._sink("stop", run.compose_stop(exit_status=cast(ExitStatus, exit_status), reason=reason))
        return ledger

    def _problem(self, lost: Sequence[range]) -> str:
        ledger, words = self.ledger, []
        if ledger.unaccounted:
            words.append(f"{ledger.unaccounted} of {ledger.received} frames are unaccounted for")
        if lost:
            words.append(f"{ledger.lost} frames never arrived ({in_words(lost)})")
        return f"{', '.join(words)}; {remedy(self._raw)}"

    def _add_block(self, results: list[Posterior | Failure]) -> None:
        if self._density is None:
            self._density = self._begin(results)
        self._add_to_object(results)
        for result in self._density.add(results):
            if isinstance(result, Failure):
                self.ledger.failed += 1
            else:
                self.ledger.reconstructed += 1
                self.ledger.latencies_s.append(result.latency_s)

    def _add_to_object(self, results: Sequence[Posterior | Failure]) -> None:
        if self._object is None and any(makes_object(result) for result in results):
            self._object = ObjectStream(
                self._started(), self._info, self._store, self._sink, self.window, self._object_every_s
            )
        if self._object is not None:
            self._object.add(results)

    @property
    def stitched(self) -> StitchedObject | None:
        """The stitched object as it was last looked at, at a limited rate; None without one."""
        return None if self._object is None else self._object.latest

    def _begin(self, results: Sequence[Posterior | Failure]) -> DensityStream:
        """Fix the columns: units and axes are those of the first posterior, or the model's own."""
        origin = results[0].origin
        self._stream, self._data_key = origin.stream or self._stream, origin.data_key or self._data_key
        density = next((r.density for r in results if isinstance(r, Posterior)), self._info.density)
        return DensityStream(self._started(), self._info, density, self._store, self._sink, self._n_samples)

    def _started(self) -> event_model.ComposeRunBundle:
        if self._run is None:
            self._run = event_model.compose_run(metadata=self._start_metadata())
            self._sink("start", cast(Document, self._run.start_doc))
        return self._run

    def _start_metadata(self) -> dict[str, Any]:
        copied = {key: self._raw[key] for key in _COPIED if self._raw.get(key) is not None}
        source = source_of(self._raw)
        return {
            "plan_name": "nfphasing",
            "raw_uid": self._raw["uid"],
            "original_run_uid": self._raw["uid"],
            **copied,
            "nfphasing": {
                "version": _version(),
                "modality": self._info.modality,
                "model": self._info.name,
                "model_version": self._info.version,
                "model_sha256": self._info.sha256,
                "settings_sha256": settings_sha256(self._settings),
                "settings": self._settings.model_dump(mode="json"),
                "n_samples": self._settings.n_samples,
                "seed": self._settings.seed,
                "stream": self._stream,
                "data_key": self._data_key,
                **({"scan": dict(self.notes)} if self.notes else {}),
                **({"remarks": list(self.remarks)} if self.remarks else {}),
                **({"successor_of": self._successor_of} if self._successor_of else {}),
                **({"source": source} if source else {}),
            },
            "tiled_specs": [dict(SPEC)],
        }

    def _write_ledger(self, run: event_model.ComposeRunBundle) -> None:
        stream = run.compose_descriptor(name="ledger", data_keys=ledger_keys(f"nfphasing:{self._info.name}"))
        self._sink("descriptor", cast(Document, stream.descriptor_doc))
        data = self.ledger.data()
        event = stream.compose_event(data=data, timestamps=dict.fromkeys(data, time.time()))
        self._sink("event", cast(Document, event))


@cache
def _version() -> str:
    """Of the installed package; read once, as reading it takes a millisecond a run."""
    return version("nfphasing-bluesky")
