"""A bounded queue of documents: frames may be dropped by policy, and every drop is on record."""

import math
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from nfphasing_bluesky.core import Policy, TransportError
from nfphasing_bluesky.streaming.frames import FrameSpan

DROPPED = "nfphasing_dropped"
"""Name of the documents that tell, ahead of a run's stop, which of its frames were dropped on the way."""

_PLAIN_BYTES = 32
"""Of a number or a short text in Python."""

_RECORD = 1024
"""Drops of one run that are told of before its stop: a run may last for weeks."""

Item = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class QueueStatistics:
    """Frames since the queue was made, and documents waiting now."""

    received: int
    dropped: int
    waiting_frames: int
    waiting_documents: int


class DocumentQueue:
    """Between a scan that must not wait and a reconstruction that takes its time.

    Only documents that carry frames (as `frames_of` says) count towards the size and are ever dropped;
    start, descriptor, resource, datum and stop documents pass always, in order. Those that later frames of
    their run need as well have to wait under `block`; they are dropped only where the bytes would be too
    many. Before a run's stop the queue hands out DROPPED documents with the sequence numbers that it dropped
    of this run.

    Args:
        size: most frame-carrying documents waiting.
        policy: `block` makes `put` wait, `latest` drops the oldest, `sample` thins evenly.
        frames_of: which frames a document carries; called in order with every document.
        patience_s: longest that `put` waits; then it drops the frame, and does not wait again until
            something was taken. None waits for ever.
        most_bytes: that these may have together; a larger document is taken when nothing else waits.
        burst: room for so many that a `put` which had to wait waits for, so that two busy threads take turns
            now and then, not at every document.
    """

    def __init__(
        self,
        size: int,
        policy: Policy,
        frames_of: Callable[[str, dict[str, Any]], FrameSpan | None],
        patience_s: float | None = None,
        burst: int = 1,
        most_bytes: float = math.inf,
    ) -> None:
        if size < 1:
            raise TransportError(f"queue size {size}, expected at least 1")
        self._size, self._policy, self._frames_of = size, policy, frames_of
        self._roomy = size - min(max(1, burst), size) + 1
        self._most_bytes, self._roomy_bytes = most_bytes, most_bytes * self._roomy / size
        self._changed = threading.Condition()
        self._items: OrderedDict[int, tuple[str, dict[str, Any], float]] = OrderedDict()
        self.arrived = 0.0
        """When the document that was taken last arrived, on the monotonic clock."""
        self._frames: OrderedDict[int, FrameSpan] = OrderedDict()
        self._needed: dict[int, FrameSpan] = {}
        self._nbytes: dict[int, int] = {}
        self._held = 0
        self._numbers = count()
        self._dropped: defaultdict[str, list[int]] = defaultdict(list)
        self._overfull: set[str] = set()
        self._received = self._lost = 0
        self._stride, self._phase = 1, 0
        self._patience_s, self._stuck = patience_s, False
        self._closed = False

    def put(
        self, name: str, doc: dict[str, Any], nbytes: int | None = None, waited_s: float = 0.0
    ) -> FrameSpan | None:
        """Append a document; waits only under the policy `block` when full. Returns the frames in it.

        Args:
            name: of the document.
            doc: itself.
            nbytes: that it takes; None for those of the arrays in it.
            waited_s: how long it had waited somewhere else.

        Raises:
            TransportError: when the queue is closed.
        """
        arrived = time.monotonic() - waited_s
        with self._changed:
            if self._closed:
                raise TransportError("the queue is closed; make a new callback to go on")
            span = self._frames_of(name, doc)
            nbytes = _nbytes(doc) if nbytes is None else nbytes
            if span:
                self._received += len(span)
                if not self._admit(span, nbytes):
                    self._record(span)
                    return span
            number = next(self._numbers)
            self._items[number] = (name, doc, arrived)
            if span:
                (self._needed if span.needed else self._frames)[number] = span
                self._nbytes[number] = nbytes
                self._held += nbytes
            self._changed.notify_all()
            return span

    def get(self, timeout_s: float | None = None) -> Item | None:
        """Take the oldest document; None when none came in time, or the queue is closed and empty."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._items:
                left = None if deadline is None else deadline - time.monotonic()
                if self._closed or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)
            number, (name, doc, arrived) = next(iter(self._items.items()))
            if name == "stop" and self._dropped.get(doc.get("run_start", "")):
                return DROPPED, self._take_dropped(doc["run_start"])
            if self._overfull:
                return DROPPED, self._take_dropped(self._overfull.pop())
            del self._items[number]
            self._stuck, self.arrived = False, arrived
            if self._forget(number):
                self._relax()
            if self._waiting() < self._roomy and self._held <= self._roomy_bytes:
                self._changed.notify_all()
            return name, doc

    def take_dropped(self) -> list[dict[str, Any]]:
        """Hand out the records of drops in runs that have not stopped, each once."""
        with self._changed:
            return [self._take_dropped(uid) for uid in list(self._dropped)]

    def abandon(self) -> list[dict[str, Any]]:
        """Drop everything that waits, and hand out the records of all drops; for a queue that is closed."""
        with self._changed:
            for span in (*self._frames.values(), *self._needed.values()):
                self._record(span)
            for held in (self._frames, self._needed, self._nbytes, self._items):
                held.clear()
            self._held = 0
            self._changed.notify_all()
            return [self._take_dropped(uid) for uid in list(self._dropped)]

    def close(self) -> None:
        """Refuse more documents and wake everyone who waits; what is queued can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def statistics(self) -> QueueStatistics:
        """Count frames so far and what waits now."""
        with self._changed:
            return QueueStatistics(self._received, self._lost, self._waiting(), len(self._items))

    def _admit(self, span: FrameSpan, nbytes: int) -> bool:
        if self._policy is Policy.BLOCK:
            room = self._await_room(nbytes)
            return room or (span.needed and not self._closed and self._is_light(nbytes))
        if span.needed:
            return self._is_light(nbytes) or self._make_room(nbytes)
        if self._policy is Policy.SAMPLE:
            self._phase = (self._phase + 1) % self._stride
            if self._phase:
                return False
        return self._has_room(nbytes) or self._make_room(nbytes)

    def _waiting(self) -> int:
        return len(self._frames) + len(self._needed)

    def _is_light(self, nbytes: int) -> bool:
        return self._held + nbytes <= self._most_bytes or not self._waiting()

    def _has_room(self, nbytes: int) -> bool:
        # the needed ones count where they have to wait for room themselves
        waiting = self._waiting() if self._policy is Policy.BLOCK else len(self._frames)
        return waiting < self._size and self._is_light(nbytes)

    def _await_room(self, nbytes: int) -> bool:
        if self._has_room(nbytes):
            return True
        patience = 0.0 if self._stuck else self._patience_s
        room = self._changed.wait_for(lambda: self._closed or self._is_roomy(nbytes), patience)
        self._stuck = not room
        return room and not self._closed

    def _is_roomy(self, nbytes: int) -> bool:
        return self._waiting() < self._roomy and self._has_room(nbytes)

    def _make_room(self, nbytes: int) -> bool:
        """Drop what may be dropped until a document fits; False when it does not fit even then."""
        while self._frames and not self._has_room(nbytes):
            waiting = [next(iter(self._frames))] if self._policy is Policy.LATEST else list(self._frames)[::2]
            for number in waiting:
                self._record(self._frames[number])
                self._forget(number)
                del self._items[number]
            if self._policy is Policy.SAMPLE:
                self._stride, self._phase = self._stride * 2, 0
        return self._is_light(nbytes)

    def _forget(self, number: int) -> bool:
        """Count a document no longer; False where it has no frames."""
        self._held -= self._nbytes.pop(number, 0)
        return (self._frames.pop(number, None) or self._needed.pop(number, None)) is not None

    def _relax(self) -> None:
        calm = len(self._frames) <= self._size // 4 and self._held <= self._most_bytes / 4
        if self._stride > 1 and calm:
            self._stride, self._phase = self._stride // 2, 0

    def _record(self, span: FrameSpan) -> None:
        self._lost += len(span)
        dropped = self._dropped[span.raw_uid]
        dropped.extend(span.seq_nums)
        if len(dropped) >= _RECORD:
            self._overfull.add(span.raw_uid)

    def _take_dropped(self, raw_uid: str) -> dict[str, Any]:
        self._overfull.discard(raw_uid)
        return {"raw_uid": raw_uid, "seq_nums": sorted(self._dropped.pop(raw_uid))}


def _nbytes(doc: dict[str, Any]) -> int:
    """Bytes that an event carries, about; what is in files takes none here."""
    data = doc.get("data")
    return sum(map(_size, data.values())) if isinstance(data, Mapping) else 0


def _size(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return len(value) * _size(value[0]) if value else 0
    return int(getattr(value, "nbytes", _PLAIN_BYTES))
