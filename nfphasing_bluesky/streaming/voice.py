"""What a worker says about frames and runs, from the thread that reconstructs and the one that stores."""

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import zmq

from nfphasing_bluesky.core import Failure, Posterior, StitchedObject
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.endpoints import connect
from nfphasing_bluesky.streaming.protocol import (
    TOPIC_DOCUMENT,
    TOPIC_FRAME,
    TOPIC_OBJECT,
    TOPIC_PATTERN,
    TOPIC_TALLY,
    FrameResult,
    ObjectResult,
)
from nfphasing_bluesky.streaming.speaker import Speaker

if TYPE_CHECKING:
    from nfphasing_bluesky.streaming.metrics import Metrics

_LATENCIES_KEPT = 1000


class Voice:
    """Packs documents and results for subscribers and for a parent, and remembers the last frame.

    What nobody listens to is not packed. Nothing may be said before `open`.
    """

    def __init__(self) -> None:
        self.raw_uid, self.latency_s = "", 0.0
        """Of the last frame."""
        self._frame_id = 0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._told: dict[str, Any] = {}
        self._sending = threading.Lock()
        self._replies: zmq.Socket | None = None

    def open(
        self, context: zmq.Context, speaker: Speaker, replies: str | None, metrics: "Metrics | None"
    ) -> None:
        """Connect to the speaker, and to a parent's endpoint where there is one."""
        self._speaker, self._metrics = speaker, metrics
        self._mouth = speaker.mouthpiece()
        if replies:
            self._replies = connect(context, zmq.PUSH, replies)

    def percentiles(self) -> dict[str, float]:
        """Latencies of the last thousand frames, s; empty before the first."""
        latencies = list(self._latencies)
        if not latencies:
            return {}
        p50, p99 = np.percentile(latencies, (50, 99))
        return {"latency_p50_s": float(p50), "latency_p99_s": float(p99)}

    def document(self, name: str, doc: Document) -> None:
        """Publish a derived document."""
        if self._is_wanted(TOPIC_DOCUMENT):
            message = wire.pack_document(name, doc)
            self._publish(TOPIC_DOCUMENT, message)
            self.reply(TOPIC_DOCUMENT, message)

    def outcome(self, outcome: Posterior | Failure, latency_s: float) -> None:
        """Publish what became of a frame."""
        self._frame_id += 1
        self.raw_uid, self.latency_s = outcome.origin.raw_uid, latency_s
        self._latencies.append(latency_s)
        if self._metrics is not None:
            self._metrics.observe(latency_s)
        if self._is_wanted(TOPIC_FRAME):
            message = wire.pack(FrameResult.of(outcome, self._frame_id, latency_s).to_message())
            self._publish(TOPIC_FRAME, message)
            self.reply(TOPIC_FRAME, message)

    def object(self, raw_uid: str, found: StitchedObject) -> None:
        """Publish a state of a stitched object."""
        if self._speaker.is_heard(TOPIC_OBJECT):
            self._publish(TOPIC_OBJECT, wire.pack(ObjectResult.of(raw_uid, found).to_message()))

    def pattern(self, message: dict[str, Any]) -> None:
        """Publish a frame beside its prediction."""
        self._publish(TOPIC_PATTERN, wire.pack(message))

    def tally(self, tally: dict[str, Any]) -> None:
        """Tell the parent how many frames are done, when that has changed."""
        if self._replies is not None and tally != self._told:
            self._told = tally
            self.reply(TOPIC_TALLY, wire.pack(tally))

    def reply(self, topic: bytes, payload: bytes) -> None:
        """Tell the parent something, where there is one."""
        if self._replies is not None:
            with self._sending:
                self._replies.send_multipart([topic, payload])

    def shows_patterns(self) -> bool:
        """Return whether anybody looks at frames beside their predictions."""
        return self._speaker.is_heard(TOPIC_PATTERN)

    def close(self) -> None:
        """Say no more."""
        self._mouth.close()

    def _is_wanted(self, topic: bytes) -> bool:
        return self._replies is not None or self._speaker.is_heard(topic)

    def _publish(self, topic: bytes, payload: bytes) -> None:
        with self._sending:
            self._mouth.send_multipart([topic, payload], copy=False)
