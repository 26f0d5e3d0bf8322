"""Raw runs that a worker has missed, taken from the catalog while nothing comes in live."""

import logging
import threading
import time
from collections.abc import Callable

from nfphasing_bluesky.core import NFPhasingError
from nfphasing_bluesky.documents.sinks import DocumentSink
from nfphasing_bluesky.storage.successors import raw_runs_between
from nfphasing_bluesky.streaming.makeup import GetReconstructor, Job, MakingUp, read_job
from nfphasing_bluesky.streaming.outputs import Outputs
from nfphasing_bluesky.streaming.settings import WorkerSettings

logger = logging.getLogger(__name__)

_STORING_S = 60.0
_DAY_S = 86_400.0


class CatchUp:
    """Finds runs with frames that nobody has reconstructed, and makes up for them between live frames.

    A thread of its own looks into the catalog and reads documents; `step`, on the thread that owns the
    model, reconstructs, a document at a time.

    Args:
        settings: of the worker; `catch_up_days` is set.
        outputs: with a catalog; what they have taken is stored before it is asked.
        idle: whether no run is open, so that all that was reconstructed live is on its way to the catalog.
        sink: takes the derived documents too.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        outputs: Outputs,
        idle: Callable[[], bool],
        sink: DocumentSink | None = None,
    ) -> None:
        self.runs = self.frames = 0
        """What was made up for so far."""
        self._outputs, self._stream, self._idle, self._sink = outputs, settings.stream, idle, sink
        self._past_s = _DAY_S * (settings.catch_up_days or 0.0)
        self._every_s = settings.catch_up_every_s
        self._settled: set[str] = set()
        self._job: Job | None = None
        self._making: MakingUp | None = None
        self._taken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="nfphasing-catch-up", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> bool:
        """Whether there is something to do for `step`."""
        return self._job is not None

    def step(self, get_reconstructor: GetReconstructor) -> None:
        """Take one document of the run that is being made up, if any."""
        job = self._job
        if job is None:
            return
        try:
            if self._making is None:
                logger.info("run %s: %d frames are made up for", job.chain.raw_uid, len(job.missing))
                self._making = MakingUp(job, self._outputs, get_reconstructor, self._sink)
            if self._making.step():
                return
            found = self._making.found()
            self.runs, self.frames = self.runs + 1, self.frames + found.reconstructed
            logger.info("%s", found.in_words())
        except NFPhasingError as error:
            logger.info("run %s is not made up for: %s", job.chain.raw_uid, error)
        except Exception:
            logger.exception("run %s is not made up for", job.chain.raw_uid)
        self._done()

    def close(self) -> None:
        """End; what was begun is closed as aborted, and is made up for another time."""
        self._stopping.set()
        if self._making is not None:
            self._making.stop("the worker was shut down")
        self._taken.set()
        self._thread.join(5)

    def _done(self) -> None:
        self._making = self._job = None
        self._taken.set()

    def _look(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                if self._idle() and self._outputs.flush(_STORING_S):
                    self._find()
            except Exception as error:  # tiled, httpx and the file system each have their own
                logger.warning("the catalog could not be searched for missed runs: %s", error)

    def _find(self) -> None:
        """Hand on every run that needs it, one after the other."""
        catalog, now = self._outputs.owned_catalog, time.time()
        if catalog is None:
            return
        # a run that has just ended may still be on its way to the queue
        for uid in raw_runs_between(catalog, now - self._past_s, now - self._every_s):
            if self._stopping.is_set() or not self._idle():
                return
            if uid in self._settled:
                continue
            try:
                job = read_job(catalog, uid, self._stream)
            except NFPhasingError as error:
                logger.info("run %s is not made up for: %s", uid, error)
                continue
            self._settled.add(uid)
            if job.needed:
                self._taken.clear()
                self._job = job
                self._taken.wait()
