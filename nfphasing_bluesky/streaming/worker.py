"""The worker process: documents in, reconstructions out, always ready to answer."""

import logging
import os
import queue as queues
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import zmq

from nfphasing_bluesky.core import (
    ModelError,
    ModelInfo,
    NFPhasingError,
    ReconstructionSettings,
    TransportError,
)
from nfphasing_bluesky.core.sparing import Sparing
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.child import pid_space
from nfphasing_bluesky.streaming.curve import ClientKeys, public_key, server_keys
from nfphasing_bluesky.streaming.doorman import Doorman
from nfphasing_bluesky.streaming.frames import FrameIndex
from nfphasing_bluesky.streaming.intake import Intake
from nfphasing_bluesky.streaming.model_watch import Find, ModelWatch
from nfphasing_bluesky.streaming.outputs import Outputs
from nfphasing_bluesky.streaming.pattern import Patterns
from nfphasing_bluesky.streaming.processor import ReconstructorLike, StreamProcessor
from nfphasing_bluesky.streaming.protocol import (
    SYNC,
    TOPIC_SYNC,
    Counts,
    Verb,
    WorkerState,
    WorkerStatus,
)
from nfphasing_bluesky.streaming.queue import DROPPED, DocumentQueue
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.streaming.speaker import Speaker
from nfphasing_bluesky.streaming.storing import StoringThread
from nfphasing_bluesky.streaming.voice import Voice

if TYPE_CHECKING:
    from nfphasing_bluesky.streaming.catch_up import CatchUp
    from nfphasing_bluesky.streaming.metrics import Metrics

logger = logging.getLogger(__name__)

Loader = Callable[[str, str, ReconstructionSettings], ReconstructorLike]

_PATIENCE_S = 0.05
_STORING_S = 60.0
_HANGING_S = 20.0


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

    One thread reads sockets (`Intake`), one answers and publishes (`Speaker`), one stores
    (`StoringThread`); the thread that calls `run` reconstructs. A model that is loaded while a run is open
    serves the runs that start after it.

    Args:
        settings: endpoints, model, stream.
        outputs: take derived runs; the caller closes them after `run`.
        load: makes a reconstructor of a model's name.
        find: gives the folder of a model, whose files are then watched.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        outputs: Outputs,
        load: Loader = load_reconstructor,
        find: Find | None = None,
    ) -> None:
        self._find = find
        self._settings, self._outputs, self._load = settings, outputs, load
        self._active, self._loading = settings.autostart, settings.model
        self._reconstructor: ReconstructorLike | None = None
        self._trouble = self._excused = self._loaded = ""
        self._watch: ModelWatch | None = None
        self._catch_up: CatchUp | None = None
        self._orders: queues.SimpleQueue[Callable[[], None]] = queues.SimpleQueue()
        self._stopping, self._hurried = threading.Event(), False
        self._zero, self._began = Counts(), time.monotonic()
        self._voice, self._storing, self._log = Voice(), StoringThread(), Sparing(logger)
        self._patterns = Patterns(self._voice.pattern, self._voice.shows_patterns)
        stream = settings.stream
        self._processor = StreamProcessor(
            stream,
            outputs.arrays,
            [*outputs.sinks, self._voice.document],
            self._voice.outcome,
            on_object=self._voice.object,
            on_missed=self._missed,
            on_pattern=self._patterns.take,
            later=self._storing,
        )
        self._queue = DocumentQueue(
            stream.queue_size,
            stream.policy,
            FrameIndex(stream),
            burst=stream.queue_size // 2,
            most_bytes=stream.queue_bytes,
        )
        self._context = zmq.Context()
        self._doorman: Doorman | None = None
        self._speaker: Speaker | None = None
        self._metrics: Metrics | None = None
        threads = ExitStack()
        try:
            keys: ClientKeys | None = None
            if settings.curve is not None:
                own = server_keys(settings.curve)
                self._doorman = Doorman(self._context, own)
                if settings.curve.proxy is not None:
                    keys = ClientKeys(own.public, own.secret, public_key(settings.curve.proxy))
            self._intake = Intake(
                self._context, settings.documents, settings.proxy, self._queue, self._doorman, keys
            )
            threads.callback(self._intake.close)
            self._speaker = Speaker(self._context, settings, self.status, self._obey, self._doorman)
            threads.callback(self._speaker.close)
            if self._doorman is not None:
                self._doorman.start()
            self._metrics = _metrics(settings.metrics, settings.device)
            self._voice.open(self._context, self._speaker, settings.replies, self._metrics)
        except BaseException:
            self._queue.close()
            threads.close()
            self._storing.close()
            if self._doorman is not None:
                self._doorman.close()
            self._context.destroy(linger=0)
            raise
        self._catch_up = self._catching()

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
        """Ask `run` to end, from any thread or a signal handler; asked again, it ends without draining."""
        if self._stopping.is_set():
            self._hurried = True
        self._stopping.set()

    def status(self) -> WorkerStatus:
        """Say how things are; from any thread."""
        total = WorkerStatus(
            state=self._state(),
            reason=self._reason(),
            model=self._model(),
            counts=self._counts(),
            raw_uid=self._voice.raw_uid,
            latency_s=self._voice.latency_s,
            statistics=self._statistics(),
            pid=os.getpid(),
            machine=pid_space(),
            loaded=self._loaded,
        )
        if self._metrics is not None:
            self._metrics.show(total)
        return replace(total, counts=_minus(total.counts, self._zero))

    def wait_for_stop(self) -> None:
        """Return once `stop` was called."""
        self._stopping.wait()

    @property
    def hurried(self) -> bool:
        """Whether `stop` was called more than once."""
        return self._hurried

    def _reason(self) -> str:
        if self._storing.busy_s > _HANGING_S:
            return f"storing hangs for {self._storing.busy_s:.0f} s; does the disk of the array files answer?"
        speaking = "" if self._speaker is None else self._speaker.trouble
        notice = "" if self._watch is None else self._watch.notice
        return self._trouble or self._intake.trouble or speaking or notice

    def _statistics(self) -> dict[str, float]:
        waiting = self._queue.statistics()
        found: dict[str, float] = {
            "frames_lost": self._processor.lost,
            "messages_refused": self._intake.refused,
            "peers_refused": 0 if self._doorman is None else self._doorman.refused,
            "waiting_frames": waiting.waiting_frames,
            "waiting_documents": waiting.waiting_documents,
            "open_runs": self._processor.open_runs,
            "made_up_runs": 0 if self._catch_up is None else self._catch_up.runs,
            "made_up_frames": 0 if self._catch_up is None else self._catch_up.frames,
            "uptime_s": time.monotonic() - self._began,
        }
        return found | self._voice.percentiles()

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
        patience = 0.0 if self._can_catch_up else min(_PATIENCE_S, self._processor.due_in_s())
        item = self._queue.get(patience)
        try:
            while not self._orders.empty():
                self._orders.get_nowait()()
            if item is not None:
                self._take(*item)
            elif not self._stopping.is_set():
                self._processor.abandon()
            if item is None and self._can_catch_up and self._catch_up is not None:
                self._catch_up.step(self._with_settings)
            self._processor.poll()
            self._patterns.poll()
        except Exception as error:
            self._trouble = f"{type(error).__name__}: {error}"
            self._log.exception("a document could not be processed")
        problem = self._processor.trouble or self._storing.problem or self._outputs.problem
        if problem and problem != self._excused:
            self._trouble = problem
        self._tell_tally()

    def _catching(self) -> "CatchUp | None":
        if self._settings.catch_up_days is None or self._outputs.owned_catalog is None:
            return None
        from nfphasing_bluesky.streaming.catch_up import CatchUp  # tiled's client comes in here

        return CatchUp(self._settings, self._outputs, self._is_idle, self._model, self._voice.document)

    def _model(self) -> ModelInfo | None:
        return None if self._reconstructor is None else self._reconstructor.info

    def _is_idle(self) -> bool:
        return not (self._processor.open_runs or self._queue.statistics().waiting_documents)

    @property
    def _can_catch_up(self) -> bool:
        waits = self._catch_up is not None and self._catch_up.waiting and not self._stopping.is_set()
        return waits and self._active and self._reconstructor is not None

    def _with_settings(self, wanted: ReconstructionSettings | None) -> ReconstructorLike:
        if self._reconstructor is None:
            raise ModelError("no model is loaded; load one first (load_model)")
        return self._reconstructor

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        if name == SYNC:
            self._processor.flush()
            self._storing.wait()
            self._outputs.flush(_STORING_S)
            self._tell_tally()
            self._voice.reply(TOPIC_SYNC, wire.pack(doc))
            return
        self._processor(name, doc, self._queue.arrived)

    def _obey(self, verb: Verb, arguments: dict[str, Any]) -> WorkerStatus:
        """Take an order, for the thread that reconstructs where it takes time; how things are from now on."""
        if verb is Verb.LOAD_MODEL:
            model = arguments.get("model")
            if not isinstance(model, str) or not model:
                raise TransportError("load_model needs model=, a name or a folder; see `nfphasing models`")
            self._loading = model
            loading = self.status()
            self._orders.put(lambda: self._load_model(model))
            return loading
        if verb is Verb.START:
            if self._reconstructor is None and self._loading is None:
                raise TransportError("no model is loaded; load one first (load_model)")
            self._active = True
            self._orders.put(self._use)
        elif verb is Verb.STOP:
            self._active = False
            self._orders.put(self._halt)
        elif verb is Verb.RESET:
            self._forget()
            wanted = self._settings.model
            if self._reconstructor is None and self._loading is None and wanted is not None:
                self._loading = wanted
                self._orders.put(lambda: self._load_model(wanted))
        elif verb is Verb.SHUTDOWN:
            self.stop()
        return self.status()

    def _load_model(self, model: str) -> None:
        self._loading = model
        try:
            watch = None if self._find is None else ModelWatch(model, self._find)
            self._reconstructor = self._load(model, self._settings.device, self._settings.reconstruction)
            self._watch_over(watch)
            self._trouble, self._loaded = "", model
            logger.info("%s is loaded", model)
        except Exception as error:
            kept = "" if self._reconstructor is None else f"; {self._reconstructor.info.name} stays in use"
            self._trouble = f"model {model!r} was not loaded: {error}{kept}"
            logger.log(logging.ERROR, "%s", self._trouble, exc_info=not isinstance(error, NFPhasingError))
        self._loading = None
        self._use()

    def _watch_over(self, watch: ModelWatch | None) -> None:
        if self._watch is not None:
            self._watch.close()
        self._watch = None if watch is None else watch.start()

    def _use(self) -> None:
        self._processor.use(self._reconstructor if self._active else None)

    def _halt(self) -> None:
        self._use()
        self._processor.close("stopped by an operator")

    def _forget(self) -> None:
        """Count from here, and hold nothing against anybody that happened before; from any thread."""
        counts = self._counts()
        self._zero = Counts(
            counts.received - counts.pending, counts.reconstructed, counts.dropped, counts.failed
        )
        self._excused = self._outputs.problem
        self._trouble = self._processor.trouble = self._storing.problem = ""
        self._intake.trouble = ""
        if self._speaker is not None:
            self._speaker.trouble = ""

    def _tell_tally(self) -> None:
        done = self._processor
        counts = {"reconstructed": done.reconstructed, "failed": done.failed, "discarded": done.discarded}
        self._voice.tally({**counts, "trouble": self._trouble})

    def _missed(self, raw_uid: str, why: str) -> None:
        self._trouble = f"run {raw_uid}: {why}"
        logger.warning("%s", self._trouble)

    def _drain(self) -> None:
        """Work off what has arrived, until the limit; what is left then counts as dropped."""
        self._intake.stop()
        deadline = time.monotonic() + self._settings.drain_s
        while (self._intake.running or self._queue.statistics().waiting_documents) and (
            time.monotonic() < deadline and not self._hurried
        ):
            self._step()
        self._queue.close()
        self._intake.close()
        left = self._queue.abandon()
        for record in left:
            self._processor(DROPPED, record)
        if any(record["seq_nums"] for record in left):
            logger.warning("%d frames that waited are dropped", sum(len(r["seq_nums"]) for r in left))

    def _close(self) -> None:
        try:
            self._drain()
            self._processor.close("the worker was shut down")
        except Exception:
            logger.exception("open derived runs could not be ended")
        self._watch_over(None)
        if self._catch_up is not None:
            self._catch_up.close()
        self._storing.close()
        self._tell_tally()
        self._voice.close()
        if self._speaker is not None:
            self._speaker.close()
        if self._doorman is not None:
            self._doorman.close()
        if self._metrics is not None:
            self._metrics.close()
        self._context.destroy(linger=500)


def _metrics(address: str | None, device: str) -> "Metrics | None":
    if address is None:
        return None
    from nfphasing_bluesky.streaming.metrics import Metrics

    return Metrics(address, device)


def _minus(a: Counts, b: Counts) -> Counts:
    return Counts(
        a.received - b.received,
        a.reconstructed - b.reconstructed,
        a.dropped - b.dropped,
        a.failed - b.failed,
    )
