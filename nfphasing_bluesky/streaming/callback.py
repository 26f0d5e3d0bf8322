"""The callback for a RunEngine: reconstructions while the scan runs, and the scan never feels it."""

import atexit
import copy
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nfphasing_bluesky.core import ReconstructionSettings, StreamSettings
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.streaming.child import COMMAND
from nfphasing_bluesky.streaming.engines import Engine, ProcessEngine, Tally, ThreadEngine
from nfphasing_bluesky.streaming.frames import FrameIndex
from nfphasing_bluesky.streaming.outputs import Outputs, catalog_folder, open_outputs
from nfphasing_bluesky.streaming.protocol import SYNC, Counts, FrameResult
from nfphasing_bluesky.streaming.queue import DocumentQueue
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.streaming.worker import Loader, load_reconstructor

if TYPE_CHECKING:
    from tiled.client.container import Container

logger = logging.getLogger(__name__)

_PATIENCE_S = 30.0
_COSTS_KEPT = 10_000

OnDocument = Callable[[str, Document], None]
OnFrame = Callable[[FrameResult], None]


class ReconstructionCallback:
    """Reconstructs the frames of every run of a RunEngine: `RE.subscribe(ReconstructionCallback(...))`.

    Documents go into a bounded queue; all else happens behind it, by default in a child process, so that
    the RunEngine's thread neither waits nor shares its interpreter. Nothing is ever raised into the plan.

    Args:
        model: name or folder of a model.
        catalog: where derived runs are stored: a folder, tiled URI or profile, which the worker writes to,
            or a client, which this process writes to; None stores nothing.
        data_key: of the frames; None finds it where there is only one candidate.
        stream: of the frames.
        settings: queue, policy, batches, geometry; `data_key` and `stream` above have precedence.
        reconstruction: draws, seed and the like.
        worker: `process`, or `thread` for the same in a thread of this process.
        device: torch device, or `auto`.
        files: folder of the arrays; needed when the catalog is a server or a client.
        backup: folder that keeps documents until the catalog has them.
        command: what starts the worker process.
        load: makes the reconstructor of a worker thread.

    Raises:
        StorageError: the catalog cannot be opened here, or `files` is missing.
    """

    def __init__(
        self,
        model: str | Path,
        catalog: "str | Path | Container | None" = None,
        *,
        data_key: str | None = None,
        stream: str = "primary",
        settings: StreamSettings | None = None,
        reconstruction: ReconstructionSettings | None = None,
        worker: Literal["process", "thread"] = "process",
        device: str = "auto",
        files: Path | None = None,
        backup: Path | None = None,
        command: tuple[str, ...] = COMMAND,
        load: Loader = load_reconstructor,
    ) -> None:
        settings = settings or StreamSettings()
        chosen = settings.model_copy(update={"data_key": data_key or settings.data_key, "stream": stream})
        self._settings = WorkerSettings(
            model=str(model),
            device=device,
            stream=chosen,
            reconstruction=reconstruction or ReconstructionSettings(),
            files=files,
            backup=backup,
        )
        self._queue = DocumentQueue(
            chosen.queue_size,
            chosen.policy,
            FrameIndex(chosen),
            _PATIENCE_S,
            most_bytes=chosen.queue_bytes,
        )
        self._tally, self._lost, self._errors = Tally(), 0, 0
        self._costs: deque[float] = deque(maxlen=_COSTS_KEPT)
        self._on_document: dict[int, OnDocument] = {}
        self._on_frame: dict[int, OnFrame] = {}
        self._tokens, self._synced = count(1), threading.Condition()
        self._asked: dict[int, int] = {}
        self._finished_token, self._closed = 0, False
        self._raw_uid = ""
        self._outputs: Outputs | None = None
        self._engine = self._make_engine(worker, catalog, command, load)
        self._thread = threading.Thread(target=self._pump, name="nfphasing-callback", daemon=True)
        self._thread.start()
        atexit.register(_close_quietly, weakref.ref(self))

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document of the RunEngine; never raises."""
        began = time.perf_counter()
        if name == "start":
            self._raw_uid = str(doc.get("uid", ""))
        try:
            self._queue.put(name, _own(name, doc))
        except Exception:
            self._errors += 1
            logger.exception("a %s document was left out of the reconstruction; the scan goes on", name)
        self._costs.append(time.perf_counter() - began)

    def subscribe(self, func: OnDocument) -> int:
        """Call `func(name, doc)` with every derived document, in another thread; returns a token."""
        token = next(self._tokens)
        self._on_document[token] = func
        return token

    def subscribe_frames(self, func: OnFrame) -> int:
        """Call `func(result)` with every FrameResult, arrays included, in another thread; returns a token."""
        token = next(self._tokens)
        self._on_frame[token] = func
        return token

    def unsubscribe(self, token: int) -> None:
        """Forget a subscriber."""
        self._on_document.pop(token, None)
        self._on_frame.pop(token, None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until everything submitted so far is reconstructed and stored; False after the timeout."""
        token = next(self._tokens)
        try:
            with self._synced:
                self._asked[token] = self._queue.statistics().received
            self._queue.put(SYNC, {"token": token})
        except Exception:
            return not self._thread.is_alive()
        with self._synced:
            return self._synced.wait_for(lambda: self._finished_token >= token, timeout_s)

    def ledger(self) -> Counts:
        """Count frames so far; `received` is the sum of the others after `wait`."""
        waiting = self._queue.statistics()
        return Counts(
            received=waiting.received,
            reconstructed=self._tally.reconstructed,
            dropped=waiting.dropped + self._tally.discarded,
            failed=self._tally.failed + self._lost,
        )

    @property
    def raw_uid(self) -> str:
        """Uid of the run that started last; empty before the first."""
        return self._raw_uid

    @property
    def trouble(self) -> str:
        """What last went wrong in the worker; empty when nothing did."""
        return self._tally.trouble

    @property
    def errors(self) -> int:
        """Documents that could not be taken, and subscribers' exceptions; each is in the log."""
        return self._errors

    def cost_s(self) -> tuple[float, float]:
        """Return median and maximum of what the last documents cost the RunEngine's thread, s."""
        costs = np.fromiter(list(self._costs), float) if self._costs else np.zeros(1)
        return float(np.median(costs)), float(costs.max())

    def close(self, timeout_s: float = 30.0) -> bool:
        """Finish what was submitted and end the worker; False when the timeout cut it short."""
        if self._closed:
            return True
        self._closed = True
        finished = self.wait(timeout_s)
        self._queue.close()
        self._thread.join(5.0 if finished else 0.5)
        self._engine.close()
        if self._outputs is not None:
            self._outputs.close()
        return finished

    def heard_document(self, name: str, doc: Document) -> None:
        """Hand a derived document to its subscribers (called by the engine)."""
        for func in list(self._on_document.values()):
            self._tell(func, name, doc)

    def heard_frame(self, result: FrameResult) -> None:
        """Hand a result to its subscribers (called by the engine)."""
        for func in list(self._on_frame.values()):
            self._tell(func, result)

    def heard_tally(self, tally: Tally) -> None:
        """Keep the counts (called by the engine)."""
        if tally.trouble and tally.trouble != self._tally.trouble:
            logger.error("reconstruction: %s", tally.trouble)
        self._tally = tally

    def heard_sync(self, token: int) -> None:
        """Note that what came before a token is finished; what has not come to an end by now is lost."""
        with self._synced:
            asked = self._asked.pop(token, 0)
            self._lost = max(0, asked - self._queue.statistics().dropped - self._tally.done)
            self._finished_token = max(self._finished_token, token)
            self._synced.notify_all()

    def wants_frames(self) -> bool:
        """Return whether anybody has subscribed."""
        return bool(self._on_document or self._on_frame)

    def _make_engine(
        self,
        worker: str,
        catalog: "str | Path | Container | None",
        command: tuple[str, ...],
        load: Loader,
    ) -> Engine:
        by_name = catalog is None or isinstance(catalog, (str, Path))
        files, backup = self._settings.files, self._settings.backup
        if worker == "thread" or not by_name:
            self._outputs = open_outputs(catalog, files, backup)
        if worker == "thread" and self._outputs is not None:
            return ThreadEngine(self._settings, self, self._outputs, load)
        if catalog is not None and by_name:
            folder = catalog_folder(catalog)
            update = {"catalog": str(folder or catalog)}
            return ProcessEngine(self._settings.model_copy(update=update), self, None, command)
        return ProcessEngine(self._settings, self, self._outputs, command)

    def _pump(self) -> None:
        while True:
            item = self._queue.get(min(0.2, self._engine.due_in_s()))
            try:
                if item is not None:
                    self._engine.take(*item, self._queue.arrived)
                self._engine.idle()
            except Exception:
                self._errors += 1
                logger.exception("a document was left out of the reconstruction")
            if item is None and self._queue.closed:
                break
        self._engine.finish()

    def _tell(self, func: Callable[..., None], *arguments: Any) -> None:
        try:
            func(*arguments)
        except Exception:
            self._errors += 1
            logger.exception("a subscriber of the reconstruction failed")


def _own(name: str, doc: dict[str, Any]) -> dict[str, Any]:
    """Copy what later callbacks of the RunEngine might change; arrays are shared."""
    if name in ("event", "event_page"):
        return {**doc, "data": dict(doc["data"])}
    return copy.deepcopy(dict(doc))


def _close_quietly(reference: "weakref.ref[ReconstructionCallback]") -> None:
    callback = reference()
    if callback is not None:
        callback.close(5.0)
