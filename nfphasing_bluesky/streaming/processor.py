"""Raw documents in, derived documents out: the engine behind the callback, the worker and replay."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    DetectorGeometry,
    Failure,
    Frame,
    Policy,
    Posterior,
    StitchedObject,
    StreamSettings,
)
from nfphasing_bluesky.core.about import about
from nfphasing_bluesky.core.neighbours import Neighbours
from nfphasing_bluesky.core.sparing import Sparing
from nfphasing_bluesky.documents.derived import BLOCK, DerivedRun
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.documents.reduction import reduced
from nfphasing_bluesky.documents.remedy import remedy, replay_of
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.documents.seen import Seen
from nfphasing_bluesky.documents.sinks import ArrayStore, DocumentSink
from nfphasing_bluesky.streaming.arrivals import Arrivals
from nfphasing_bluesky.streaming.detector_mask import read_mask
from nfphasing_bluesky.streaming.frames import FrameIndex, FrameSpan
from nfphasing_bluesky.streaming.outcomes import Outcome, ReconstructorLike, outcomes_of
from nfphasing_bluesky.streaming.queue import DROPPED
from nfphasing_bluesky.streaming.silence import Silence
from nfphasing_bluesky.streaming.storing import Later, at_once

logger = logging.getLogger(__name__)

OnOutcome = Callable[[Outcome, float], None]
OnObject = Callable[[str, StitchedObject], None]
OnPattern = Callable[[Frame, Posterior, int], None]
OnMissed = Callable[[str, str], None]
Wanted = Callable[[str, int], bool]


@dataclass(eq=False)
class _Run:
    start: Document
    reconstructor: ReconstructorLike
    derived: DerivedRun
    neighbours: Neighbours
    received: int = 0
    unstored: deque[Outcome] = field(default_factory=deque)
    seen: Seen = field(default_factory=Seen)
    announced: int = 0
    first: int = 1
    arrivals: Arrivals = field(default_factory=Arrivals)
    dropped: Seen = field(default_factory=Seen)
    shown: StitchedObject | None = None


@dataclass(frozen=True, eq=False)
class _Waiting:
    run: _Run
    frame: Frame | Failure
    arrival: float
    since: float


class StreamProcessor:
    """Collects frames into batches, reconstructs them, and writes the derived run of each raw run.

    Single-threaded and synchronous. A run is reconstructed by the reconstructor that was in use when it
    started. Nothing that a document contains raises: it becomes a failed frame with its reason.

    Args:
        settings: stream, data key, batch size, deadline, geometry.
        arrays: where the derived runs' arrays go.
        sinks: take every derived document; one that raises is logged, named in `trouble` and tried again
            with the next document.
        on_outcome: is told what became of each frame and how long it took, s.
        reconstructor: None ignores runs until `use`.
        on_object: is told of the stitched object of a raw run, whenever there is a new state of it.
        on_pattern: is shown each frame with its posterior and how many answers its model keeps.
        on_missed: is told of a raw run that ended with frames missing, and in words why,
            and what makes up for them.
        wanted: which frames, by raw uid and sequence number, to reconstruct; None for all of them.
        successor_of: uid of the derived run whose missing frames are made up.
        later: takes what stores results, in order; at once by default. With a thread there, sinks and
            `on_object` are called in it, and a frame counts as reconstructed once it is stored.
    """

    def __init__(
        self,
        settings: StreamSettings,
        arrays: ArrayStore,
        sinks: Sequence[DocumentSink] = (),
        on_outcome: OnOutcome | None = None,
        reconstructor: ReconstructorLike | None = None,
        on_object: OnObject | None = None,
        on_pattern: OnPattern | None = None,
        on_missed: OnMissed | None = None,
        wanted: Wanted | None = None,
        successor_of: str = "",
        later: Later = at_once,
    ) -> None:
        self.reconstructed = self.failed = self.discarded = self.lost = 0
        self.trouble = ""
        self._settings, self._arrays, self._sinks = settings, arrays, tuple(sinks)
        self._on_outcome, self._reconstructor = on_outcome, reconstructor
        self._on_object, self._on_pattern, self._on_missed = on_object, on_pattern, on_missed
        self._wanted, self._successor_of, self._later = wanted, successor_of, later
        self._begun = self._ended = 0
        self._log = Sparing(logger)
        self._silence = Silence(settings.abandon_after_s)
        self._index = FrameIndex(settings)
        self._runs: dict[str, _Run] = {}
        self._waiting: list[_Waiting] = []
        self._mask = None if settings.mask is None else read_mask(settings.mask)
        self._router = FrameRouter(
            self,
            settings,
            geometry=_geometry(settings),
            integrate=self._integrate,
            beam=None if settings.probe is None else _beam(settings, self._mask),
        )

    @property
    def open_runs(self) -> int:
        """Number of raw runs whose derived run has no stop document yet."""
        return self._begun - self._ended

    def use(self, reconstructor: ReconstructorLike | None) -> None:
        """Reconstruct the runs that start from now on with this; None ignores them."""
        self._reconstructor = reconstructor

    def __call__(self, name: str, doc: Document, arrived: float | None = None) -> None:
        """Take one raw document, or a queue's record of dropped frames.

        Frames of runs that are not followed count as `discarded`. Latencies are counted from `arrived`, when
        the document came on the monotonic clock, by default now.

        Raises:
            KeyError, TypeError: for a document that lacks what its schema demands.
        """
        if name == DROPPED:
            self._note_dropped(doc)
            return
        if name == "stop":
            self._look_back(dict(doc))
        span = self._index(name, dict(doc))
        if span:
            self._receive(span, time.monotonic() if arrived is None else arrived)
        raw_uid = doc["uid"] if name == "start" else self._router.owner(doc)
        if name != "start" or self._reconstructor is not None:
            with about(raw_uid):
                self._router(name, doc)
        if raw_uid in self._runs:
            self._silence.hear(raw_uid, name)
        if len(self._waiting) >= self._settings.batch_size:
            self.flush()

    def abandon(self) -> None:
        """End the runs of which nothing comes any more; see `StreamSettings.abandon_after_s`."""
        for uid, silent_s in self._silence.too_long():
            run = self._runs[uid]
            self._silence.give_up(uid, run.first - 1 + run.received + len(run.dropped), remedy(run.start))
            why = f"nothing has come of it for {silent_s:.0f} s, and it is closed as aborted"
            self._router.close_run(uid, f"abandoned: {why}")
            with about(uid):
                self._miss(uid, f"{why}; should it go on, {remedy(run.start)}")

    def due_in_s(self) -> float:
        """Seconds until the oldest waiting frame must be reconstructed; infinite with none waiting."""
        if not self._waiting:
            return float("inf")
        return max(0.0, self._waiting[0].since + self._settings.deadline_s - time.monotonic())

    def poll(self) -> None:
        """Reconstruct what waits, if its deadline has passed."""
        if self._waiting and self.due_in_s() <= 0:
            self.flush()

    def flush(self) -> None:
        """Reconstruct what waits, now."""
        waiting, self._waiting = self._waiting, []
        if self._settings.policy is Policy.LATEST:
            waiting = self._latest(waiting)
        groups: dict[int, list[_Waiting]] = {}
        for item in waiting:
            groups.setdefault(id(item.run.reconstructor), []).append(item)
        for group in groups.values():
            for first in range(0, len(group), self._settings.batch_size):
                self._reconstruct(group[first : first + self._settings.batch_size])

    def _latest(self, waiting: list[_Waiting]) -> list[_Waiting]:
        """Let go frames of which a later one has all that they have."""
        last = {id(item.run): item for item in waiting if isinstance(item.frame, Frame)}
        kept = []
        for item in waiting:
            if isinstance(item.frame, Frame) and item.frame.grows and last[id(item.run)] is not item:
                item.run.dropped.add([item.frame.origin.seq_num])
                item.run.received -= 1
                self.discarded += 1
            else:
                kept.append(item)
        return kept

    def close(self, reason: str = "no stop document arrived") -> None:
        """Reconstruct what waits and end every open derived run as aborted, with this reason."""
        self._router.close(reason)

    def run_started(self, start: Document) -> None:
        """Begin a derived run (called by the router)."""
        reconstructor = self._reconstructor
        if reconstructor is None:
            return
        derived = DerivedRun(
            start,
            reconstructor.info,
            reconstructor.settings,
            self._emit,
            self._arrays,
            stream=self._settings.stream,
            data_key=self._settings.data_key,
            store_samples=self._settings.store_samples,
            object_every_s=self._settings.object_every_s,
            successor_of=self._successor_of,
        )
        neighbours = Neighbours(reconstructor.info.neighbours)
        self._runs[start["uid"]] = _Run(start, reconstructor, derived, neighbours)
        self._begun += 1

    def frame(self, frame: Frame | Failure) -> None:
        """Put a frame into the batch (called by the router)."""
        run = self._runs.get(frame.origin.raw_uid)
        if run is None or (isinstance(frame, Failure) and frame.origin.seq_num in run.dropped):
            return
        if not run.derived.uid:
            run.derived.remarks = self._router.remarks(frame.origin.raw_uid)
        if isinstance(frame, Frame):
            if frame.place is not None and run.derived.window is None:
                run.derived.window = self._router.window(frame.origin.raw_uid)
                run.derived.notes = self._router.notes(frame.origin.raw_uid)
            frame = run.neighbours.attach(frame)
        if self._wanted is not None and not self._wanted(frame.origin.raw_uid, frame.origin.seq_num):
            return
        now = time.monotonic()
        self._waiting.append(_Waiting(run, frame, run.arrivals.of(frame.origin.seq_num, now), now))

    def run_stopped(self, raw_uid: str, exit_status: str, reason: str) -> None:
        """Finish a derived run (called by the router)."""
        self.flush()
        self._silence.hear(raw_uid, "stop")
        run = self._runs.pop(raw_uid, None)
        if run is None:
            return
        lost = () if self._wanted else run.seen.missing(run.announced, run.first)
        self._later(partial(self._end, raw_uid, run, exit_status, reason, lost))
        if lost:
            self.lost += sum(map(len, lost))
            with about(raw_uid):
                self._miss(raw_uid, f"{sum(map(len, lost))} of its frames never arrived; {remedy(run.start)}")

    def _end(self, raw_uid: str, run: _Run, exit_status: str, reason: str, lost: Sequence[range]) -> None:
        dropped = len(run.dropped)
        try:
            with about(raw_uid):
                received = run.received + dropped
                run.derived.close(exit_status, reason, received=received, dropped=dropped, lost=lost)
                self._show(raw_uid, run)
        finally:
            self._ended += 1

    def _receive(self, span: FrameSpan, arrived: float) -> None:
        run = self._runs.get(span.raw_uid)
        if run is None:
            self.discarded += len(span)
            if why := self._silence.goes_on(span.raw_uid):
                self._miss(span.raw_uid, why)
            return
        run.seen.add(span.seq_nums)
        run.arrivals.add(span, arrived)
        run.first = self._index.first(span.raw_uid)
        wanted = self._wanted
        run.received += len(span) if wanted is None else sum(wanted(span.raw_uid, n) for n in span.seq_nums)

    def _note_dropped(self, doc: Document) -> None:
        run = self._runs.get(doc["raw_uid"])
        if run is not None:
            run.dropped.add(doc["seq_nums"])
            run.seen.add(doc["seq_nums"])

    def _look_back(self, stop: dict[str, Any]) -> None:
        """At the end of a raw run: how many frames it says it has, and whether its beginning was missed."""
        run = self._runs.get(stop["run_start"])
        if run is not None:
            run.announced, run.first = self._index.announced(stop), self._index.first(stop["run_start"])
        elif why := self._silence.goes_on(stop["run_start"], self._index.announced(stop)):
            self._miss(stop["run_start"], why)
        elif not self._index.knows(stop["run_start"]):
            self._miss(stop["run_start"], f"its beginning was not received; {replay_of(stop['run_start'])}")

    def _miss(self, raw_uid: str, why: str) -> None:
        if self._on_missed is not None:
            self._on_missed(raw_uid, why)

    def _integrate(self, frame: Frame) -> Frame:
        run = self._runs.get(frame.origin.raw_uid)
        if run is None or not run.reconstructor.info.takes_curves:
            return frame if self._mask is None or frame.place is not None else frame.masked(self._mask)
        return reduced(frame, self._mask)

    def _reconstruct(self, group: list[_Waiting]) -> None:
        with about(group[0].frame.origin.raw_uid):
            self._reconstruct_group(group)

    def _reconstruct_group(self, group: list[_Waiting]) -> None:
        frames = [item.frame for item in group if isinstance(item.frame, Frame)]
        answers = iter(outcomes_of(group[0].run.reconstructor, frames, self._log))
        made = [item.frame if isinstance(item.frame, Failure) else next(answers) for item in group]
        now = time.monotonic()
        done = [
            replace(outcome, latency_s=now - item.arrival) if isinstance(outcome, Posterior) else outcome
            for item, outcome in zip(group, made, strict=True)
        ]
        for item, outcome in zip(group, done, strict=True):
            if self._on_outcome is not None:
                self._on_outcome(outcome, now - item.arrival)
            self._compare(item, outcome)
        for run in dict.fromkeys(item.run for item in group):
            mine = [o for item, o in zip(group, done, strict=True) if item.run is run]
            run.unstored.extend(mine)
            self._later(partial(self._store, run), sum(o.nbytes for o in mine if isinstance(o, Posterior)))

    def _store(self, run: _Run) -> None:
        """Store what waits of a run, also batches whose own turn has not come: fewer and larger blocks."""
        outcomes = _taken(run.unstored, BLOCK)
        if not outcomes:
            return
        before, unmade = run.derived.ledger.failed, sum(isinstance(o, Failure) for o in outcomes)
        try:
            with about(outcomes[0].origin.raw_uid):
                run.derived.add(outcomes)
                self._show(outcomes[0].origin.raw_uid, run)
        finally:
            failed = max(unmade, run.derived.ledger.failed - before)
            self.failed += failed
            self.reconstructed += len(outcomes) - failed
        if failed > unmade:
            self.trouble = f"{failed - unmade} reconstructions could not be stored; see run {run.derived.uid}"

    def _show(self, raw_uid: str, run: _Run) -> None:
        found = run.derived.stitched
        if self._on_object is not None and found is not None and found is not run.shown:
            run.shown = found
            self._on_object(raw_uid, found)

    def _compare(self, item: _Waiting, outcome: Outcome) -> None:
        if self._on_pattern is not None and isinstance(item.frame, Frame) and isinstance(outcome, Posterior):
            self._on_pattern(item.frame, outcome, item.run.reconstructor.info.answers)

    def _emit(self, name: str, doc: Any) -> None:
        for sink in self._sinks:
            try:
                sink(name, doc)
            except Exception as error:
                self.trouble = f"a {name} document was not taken by {_name(sink)}: {error}"
                self._log.exception("a sink failed on a derived %s document", name)


def _geometry(settings: StreamSettings) -> DetectorGeometry | None:
    if settings.poni is None:
        return None
    from nfphasing_bluesky.documents.integration import detector_geometry_from_poni

    return detector_geometry_from_poni(settings.poni)


def _beam(settings: StreamSettings, mask: NDArray[np.bool_] | None) -> Any:
    from nfphasing_bluesky.storage.ptychography import beam_of  # scipy: only for scans of one object

    return beam_of(settings, mask)


def _taken(waiting: deque[Outcome], most: int) -> list[Outcome]:
    """Take the oldest; another thread may append to them meanwhile."""
    taken: list[Outcome] = []
    while waiting and len(taken) < most:
        taken.append(waiting.popleft())
    return taken


def _name(sink: DocumentSink) -> str:
    return getattr(sink, "__qualname__", type(sink).__name__)
