"""The worker process: documents in, reconstructions out, always ready to answer."""

import contextlib
import logging
import os
import queue as queues
import threading
from collections.abc import Callable
from typing import Any

import zmq

from nfphasing_bluesky.core import (
    Failure,
    NFPhasingError,
    Posterior,
    ReconstructionSettings,
    StitchedObject,
    TransportError,
)
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.endpoints import connect
from nfphasing_bluesky.streaming.frames import FrameIndex
from nfphasing_bluesky.streaming.intake import Intake
from nfphasing_bluesky.streaming.outputs import Outputs
from nfphasing_bluesky.streaming.processor import ReconstructorLike, StreamProcessor
from nfphasing_bluesky.streaming.protocol import (
    SYNC,
    TOPIC_DOCUMENT,
    TOPIC_FRAME,
    TOPIC_OBJECT,
    TOPIC_SYNC,
    TOPIC_TALLY,
    Counts,
    FrameResult,
    ObjectResult,
    Verb,
    WorkerState,
    WorkerStatus,
)
from nfphasing_bluesky.streaming.queue import DocumentQueue
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.streaming.speaker import Speaker

logger = logging.getLogger(__name__)

Loader = Callable[[str, str, ReconstructionSettings], ReconstructorLike]

_PATIENCE_S = 0.05
_STORING_S = 60.0


def load_reconstructor(model: str, device: str, settings: ReconstructionSettings) -> ReconstructorLike:
    """Load a shipped model or a model folder, and run it once, so that the first frame need not wait.

    Raises:
        ModelError: when there is none of this name, or its folder is damaged.
    """
    from nfphasing_bluesky.inference import Reconstructor  # torch comes in here and not before

    made = Reconstructor.load(model, device=device, settings=settings)
    made.warm_up()
    return made


class Worker:
    """Reads documents, reconstructs their frames, publishes and stores what comes of them.

    One thread reads sockets (`Intake`), one answers and publishes (`Speaker`); the thread that calls
    `run` reconstructs. A model that is loaded while a run is open serves the runs that start after it.

    Args:
        settings: endpoints, model, stream.
        outputs: take derived runs; the caller closes them after `run`.
        load: makes a reconstructor of a model's name.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        outputs: Outputs,
        load: Loader = load_reconstructor,
    ) -> None:
        self._settings, self._outputs, self._load = settings, outputs, load
        self._active, self._loading = settings.autostart, settings.model
        self._reconstructor: ReconstructorLike | None = None
        self._trouble = self._excused = ""
        self._orders: queues.SimpleQueue[Callable[[], None]] = queues.SimpleQueue()
        self._stopping = threading.Event()
        self._frame_id, self._zero = 0, Counts()
        self._told: dict[str, Any] = {}
        self._raw_uid, self._latency_s = "", 0.0
        self._processor = StreamProcessor(
            settings.stream,
            outputs.arrays,
            [*outputs.sinks, self._publish_document],
            self._publish_outcome,
            on_object=self._publish_object,
        )
        stream = settings.stream
        self._queue = DocumentQueue(stream.queue_size, stream.policy, FrameIndex(stream))
        self._context = zmq.Context()
        try:
            self._intake = Intake(self._context, settings.documents, settings.proxy, self._queue)
            self._speaker = Speaker(self._context, settings, self.status, self._obey)
            self._mouth = self._speaker.mouthpiece()
            self._replies = settings.replies and connect(self._context, zmq.PUSH, settings.replies)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def run(self) -> None:
        """Load the model and work until `stop`; then end open derived runs and close every socket."""
        try:
            if self._settings.model is not None:
                self._load_model(self._settings.model)
            while not self._stopping.is_set():
                self._step()
        finally:
            self._close()

    def stop(self) -> None:
        """Ask `run` to end; from any thread or a signal handler."""
        self._stopping.set()

    def status(self) -> WorkerStatus:
        """Say how things are; from any thread."""
        model = None if self._reconstructor is None else self._reconstructor.info
        return WorkerStatus(
            state=self._state(),
            reason=self._trouble,
            model=model,
            counts=_minus(self._counts(), self._zero),
            raw_uid=self._raw_uid,
            latency_s=self._latency_s,
            pid=os.getpid(),
        )

    def _state(self) -> WorkerState:
        if self._loading is not None:
            return WorkerState.LOADING
        if self._reconstructor is None:
            return WorkerState.FAULT if self._trouble else WorkerState.STANDBY
        if not self._active:
            return WorkerState.STANDBY
        return WorkerState.RUNNING if self._processor.open_runs else WorkerState.ON

    def _counts(self) -> Counts:
        waiting = self._queue.statistics()
        upstream = self._intake.upstream_dropped
        return Counts(
            received=waiting.received + upstream,
            reconstructed=self._processor.reconstructed,
            dropped=waiting.dropped + upstream + self._processor.discarded,
            failed=self._processor.failed,
        )

    def _step(self) -> None:
        item = self._queue.get(min(_PATIENCE_S, self._processor.due_in_s()))
        with contextlib.suppress(queues.Empty):
            while True:
                self._orders.get_nowait()()
        try:
            if item is not None:
                self._take(*item)
            self._processor.poll()
        except Exception as error:
            self._trouble = f"{type(error).__name__}: {error}"
            logger.exception("a document could not be processed")
        problem = self._processor.trouble or self._outputs.problem
        if problem and problem != self._excused:
            self._trouble = problem
        self._tell_tally()

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        if name == SYNC:
            self._processor.flush()
            self._outputs.flush(_STORING_S)
            self._tell_tally()
            self._reply(TOPIC_SYNC, wire.pack(doc))
            return
        self._processor(name, doc)

    def _obey(self, verb: Verb, arguments: dict[str, Any]) -> None:
        if verb is Verb.LOAD_MODEL:
            model = arguments.get("model")
            if not isinstance(model, str) or not model:
                raise TransportError("load_model needs model=, a name or a folder; see `nfphasing models`")
            self._loading = model
            self._orders.put(lambda: self._load_model(model))
        elif verb is Verb.START:
            if self._reconstructor is None and self._loading is None:
                raise TransportError("no model is loaded; load one first (load_model)")
            self._active = True
            self._orders.put(self._use)
        elif verb is Verb.STOP:
            self._active = False
            self._orders.put(self._halt)
        elif verb is Verb.RESET:
            self._orders.put(self._reset)
        elif verb is Verb.SHUTDOWN:
            self.stop()

    def _load_model(self, model: str) -> None:
        self._loading = model
        try:
            self._reconstructor = self._load(model, self._settings.device, self._settings.reconstruction)
            self._trouble = ""
        except Exception as error:
            kept = "" if self._reconstructor is None else f"; {self._reconstructor.info.name} stays in use"
            self._trouble = f"model {model!r} was not loaded: {error}{kept}"
            logger.log(logging.ERROR, "%s", self._trouble, exc_info=not isinstance(error, NFPhasingError))
        self._loading = None
        self._use()

    def _use(self) -> None:
        self._processor.use(self._reconstructor if self._active else None)

    def _halt(self) -> None:
        self._use()
        self._processor.close("stopped by an operator")

    def _reset(self) -> None:
        counts = self._counts()
        self._zero = Counts(
            counts.received - counts.pending, counts.reconstructed, counts.dropped, counts.failed
        )
        self._excused = self._outputs.problem
        self._trouble = self._processor.trouble = ""
        if self._reconstructor is None and self._settings.model is not None:
            self._load_model(self._settings.model)

    def _publish_document(self, name: str, doc: Document) -> None:
        message = wire.pack_document(name, doc)
        self._mouth.send_multipart([TOPIC_DOCUMENT, message])
        self._reply(TOPIC_DOCUMENT, message)

    def _publish_outcome(self, outcome: Posterior | Failure, latency_s: float) -> None:
        self._frame_id += 1
        self._raw_uid, self._latency_s = outcome.origin.raw_uid, latency_s
        result = FrameResult.of(outcome, self._frame_id, latency_s)
        message = wire.pack(result.to_message())
        self._mouth.send_multipart([TOPIC_FRAME, message])
        self._reply(TOPIC_FRAME, message)

    def _publish_object(self, raw_uid: str, found: StitchedObject) -> None:
        message = wire.pack(ObjectResult.of(raw_uid, found).to_message())
        self._mouth.send_multipart([TOPIC_OBJECT, message])

    def _tell_tally(self) -> None:
        tally = {
            "reconstructed": self._processor.reconstructed,
            "failed": self._processor.failed,
            "discarded": self._processor.discarded,
            "trouble": self._trouble,
        }
        if tally != self._told:
            self._told = tally
            self._reply(TOPIC_TALLY, wire.pack(tally))

    def _reply(self, topic: bytes, payload: bytes) -> None:
        if self._replies:
            self._replies.send_multipart([topic, payload])

    def _close(self) -> None:
        self._queue.close()
        self._intake.close()
        try:
            self._processor.close("the worker was shut down")
        except Exception:
            logger.exception("open derived runs could not be ended")
        self._mouth.close()
        self._speaker.close()
        self._context.destroy(linger=500)


def _minus(a: Counts, b: Counts) -> Counts:
    return Counts(
        a.received - b.received,
        a.reconstructed - b.reconstructed,
        a.dropped - b.dropped,
        a.failed - b.failed,
    )
