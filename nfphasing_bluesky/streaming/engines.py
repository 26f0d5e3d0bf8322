"""What takes documents out of the callback's queue: a child process, or this process itself."""

import logging
import shutil
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

import zmq

from nfphasing_bluesky.core import Failure, Policy, Posterior
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.documents.sinks import DocumentSink
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.child import COMMAND, Child
from nfphasing_bluesky.streaming.endpoints import bind, connect, private_folder
from nfphasing_bluesky.streaming.frames import FrameIndex
from nfphasing_bluesky.streaming.outputs import Outputs
from nfphasing_bluesky.streaming.processor import StreamProcessor
from nfphasing_bluesky.streaming.protocol import (
    SYNC,
    TOPIC_DOCUMENT,
    TOPIC_FRAME,
    TOPIC_SYNC,
    TOPIC_TALLY,
    FrameResult,
)
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.streaming.worker import Loader

logger = logging.getLogger(__name__)

_IN_FLIGHT = 16
_STALLED_S = 5.0


@dataclass(frozen=True)
class Tally:
    """Frames that an engine is done with, and what last went wrong."""

    reconstructed: int = 0
    failed: int = 0
    discarded: int = 0
    trouble: str = ""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.reconstructed + other.reconstructed,
            self.failed + other.failed,
            self.discarded + other.discarded,
            other.trouble or self.trouble,
        )

    @property
    def done(self) -> int:
        """Frames that have come to an end."""
        return self.reconstructed + self.failed + self.discarded


class Ear(Protocol):
    """What an engine tells, in a thread of its own."""

    def heard_document(self, name: str, doc: Document) -> None:
        """Take a derived document."""

    def heard_frame(self, result: FrameResult) -> None:
        """Take what became of a frame."""

    def heard_tally(self, tally: Tally) -> None:
        """Take the counts so far."""

    def heard_sync(self, token: int) -> None:
        """Learn that everything before this token is finished."""

    def wants_frames(self) -> bool:
        """Return whether anybody looks at frames or documents."""


class Engine(Protocol):
    """Takes documents one by one, on the thread that empties the queue."""

    def take(self, name: str, doc: dict[str, Any], arrived: float) -> None:
        """Take a document, and when it came on the monotonic clock."""

    def idle(self) -> None:
        """Do what is due while no document comes."""

    def due_in_s(self) -> float:
        """Return when `idle` wants to be called."""

    def finish(self) -> None:
        """Take leave of the thread that empties the queue; nothing is taken after this."""

    def close(self) -> None:
        """End it, from any thread."""


class ProcessEngine:
    """Sends documents to a child worker and hears what comes back.

    When the child dies, a new one is started with the next run; frames that were on their way are lost, and
    the owner sees that from the tally at the next sync.

    Args:
        settings: of the worker; the endpoints are filled in.
        ear: hears the answers.
        outputs: a catalog that only this process can write to, or None.
        command: what starts a worker.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        ear: Ear,
        outputs: Outputs | None = None,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        self._folder = private_folder()
        self._ear, self._outputs, self._command = ear, outputs, command
        batch = settings.stream.batch_size
        stream = settings.stream.model_copy(update={"policy": Policy.BLOCK, "queue_size": max(16, 2 * batch)})
        endpoints = {
            name: f"ipc://{self._folder}/{name}" for name in ("documents", "results", "control", "replies")
        }
        self._settings = settings.model_copy(update={**endpoints, "stream": stream})
        self._context = zmq.Context()
        self._answers = bind(self._context, zmq.PULL, endpoints["replies"])
        self._before = self._tally = Tally()
        self._owed: int | None = None
        self._index, self._most_ahead = FrameIndex(stream), 2 * batch + stream.held
        self._progress = threading.Event()
        self._stopping = threading.Event()
        self._begin()
        self._thread = threading.Thread(target=self._hear, name="nfphasing-answers", daemon=True)
        self._thread.start()

    @property
    def child(self) -> Child:
        """The present child."""
        return self._child

    def take(self, name: str, doc: dict[str, Any], arrived: float) -> None:
        """Send a document; to a dead child only a new run's start goes, which revives it."""
        if name == SYNC:
            self._owed = doc["token"]
        if not self._child.running:
            if name != "start":
                return
            logger.warning("the worker has ended; a new one is started for run %s", doc.get("uid"))
            self._revive()
        span = self._index(name, doc)
        if span:
            if not span.needed:
                self._await_turn()
            self._sent += len(span)
        message = wire.pack_document(name, doc, wire.waited(time.monotonic() - arrived))
        while not self._socket.poll(100, zmq.POLLOUT):
            if not self._child.running or self._stopping.is_set():
                return
        self._socket.send(message)

    def idle(self) -> None:
        """Answer a sync that a dead child owes."""
        owed = self._owed
        if owed is not None and not self._child.running:
            self._owed = None
            self._ear.heard_sync(owed)

    def due_in_s(self) -> float:
        """Return when to look at the child again."""
        return 0.1 if self._owed is not None else float("inf")

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """End the child and the threads."""
        self._stopping.set()
        self._child.close()
        self._thread.join(5)
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _await_turn(self) -> None:
        """Wait until the worker is nearly done with what it has, so that waiting frames stay droppable.

        0MQ's own limits leave hundreds of small documents in the sockets' buffers.
        """
        patience = time.monotonic() + _STALLED_S
        while self._sent - self._tally.done >= self._most_ahead and time.monotonic() < patience:
            if self._progress.wait(0.05):
                self._progress.clear()
                patience = time.monotonic() + _STALLED_S
            if not self._child.running or self._stopping.is_set():
                return

    def _begin(self) -> None:
        self._sent = 0
        self._child = Child(self._settings, self._command)
        self._socket = connect(self._context, zmq.PUSH, self._settings.documents, _IN_FLIGHT)

    def _revive(self) -> None:
        self._socket.close()
        self._before = self._before + self._tally
        self._tally = Tally()
        self._begin()

    def _hear(self) -> None:
        while True:
            if self._answers.poll(100):
                try:
                    self._answer(*self._answers.recv_multipart())
                except Exception:  # whatever is wrong with one, the next must be heard
                    logger.exception("an answer of the worker could not be handled")
            elif self._stopping.is_set():
                return

    def _answer(self, topic: bytes, payload: bytes) -> None:
        if topic == TOPIC_TALLY:
            self._tally = Tally(**wire.unpack(payload))
            self._progress.set()
            self._ear.heard_tally(self._before + self._tally)
        elif topic == TOPIC_SYNC:
            if self._outputs is not None:
                self._outputs.flush(60.0)
            self._owed = None
            self._ear.heard_sync(wire.unpack(payload)["token"])
        elif topic == TOPIC_DOCUMENT and (self._outputs is not None or self._ear.wants_frames()):
            name, doc = wire.unpack_document(payload)
            self._ear.heard_document(name, doc)
            for sink in self._outputs.sinks if self._outputs is not None else ():
                sink(name, doc)
        elif topic == TOPIC_FRAME and self._ear.wants_frames():
            self._ear.heard_frame(FrameResult.from_message(wire.unpack(payload)))


class ThreadEngine:
    """Reconstructs in this process, in the thread that empties the queue. The model loads there too.

    Args:
        settings: model, device, stream.
        ear: hears the results, in the same thread.
        outputs: take the derived runs.
        load: makes a reconstructor of a model's name.
    """

    def __init__(self, settings: WorkerSettings, ear: Ear, outputs: Outputs, load: Loader) -> None:
        self._settings, self._ear, self._outputs, self._load = settings, ear, outputs, load
        self._loaded, self._trouble, self._frame_id = False, "", 0
        sinks: list[DocumentSink] = [*outputs.sinks, ear.heard_document]
        self._processor = StreamProcessor(settings.stream, outputs.arrays, sinks, self._frame_done)

    def take(self, name: str, doc: dict[str, Any], arrived: float) -> None:
        """Process a document."""
        self.idle()
        if name == SYNC:
            self._processor.flush()
            self._outputs.flush(60.0)
            self._tell()
            self._ear.heard_sync(doc["token"])
            return
        self._processor(name, doc, arrived)

    def idle(self) -> None:
        """Load the model the first time; reconstruct what is due."""
        if not self._loaded:
            self._loaded = True
            self._load_model()
        self._processor.poll()
        self._tell()

    def due_in_s(self) -> float:
        """Return when the oldest waiting frame must be reconstructed."""
        return self._processor.due_in_s() if self._loaded else 0.0

    def finish(self) -> None:
        """End open derived runs."""
        self._processor.close("the callback was closed")
        self._tell()

    def close(self) -> None:
        """Nothing is left to do."""

    def _load_model(self) -> None:
        settings = self._settings
        try:
            self._processor.use(self._load(settings.model or "", settings.device, settings.reconstruction))
        except Exception as error:
            self._trouble = f"model {settings.model!r} was not loaded: {error}"

    def _frame_done(self, outcome: Posterior | Failure, latency_s: float) -> None:
        self._frame_id += 1
        if self._ear.wants_frames():
            self._ear.heard_frame(FrameResult.of(outcome, self._frame_id, latency_s))

    def _tell(self) -> None:
        processor = self._processor
        trouble = self._trouble or processor.trouble or self._outputs.problem
        self._ear.heard_tally(Tally(processor.reconstructed, processor.failed, processor.discarded, trouble))
