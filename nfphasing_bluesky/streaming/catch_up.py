"""Raw runs that a worker has missed, taken from the catalog while nothing comes in live."""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from nfphasing_bluesky.core import ModelError, ModelInfo, NFPhasingError, StorageError
from nfphasing_bluesky.core.about import about
from nfphasing_bluesky.documents.remedy import replay_of
from nfphasing_bluesky.documents.sinks import DocumentSink
from nfphasing_bluesky.storage.successors import raw_runs_between
from nfphasing_bluesky.streaming.makeup import GetReconstructor, Job, MakingUp, read_job, unsuited
from nfphasing_bluesky.streaming.outputs import Outputs
from nfphasing_bluesky.streaming.settings import WorkerSettings

logger = logging.getLogger(__name__)

_STORING_S = 60.0
_DAY_S = 86_400.0

MOST_TRIES = 6
"""With a look a minute, the last is an hour after the first."""


class CatchUp:
    """Finds runs with frames that nobody has reconstructed, and makes up for them between live frames.

    A thread of its own looks into the catalog and reads documents; `step`, on the thread that owns the
    model, reconstructs, a document at a time. What fails is tried again, a few times and ever more seldom;
    nothing is begun while the disk has no room for it.

    Args:
        settings: of the worker; `catch_up_days` is set.
        outputs: with a catalog; what they have taken is stored before it is asked.
        idle: whether no run is open, so that all that was reconstructed live is on its way to the catalog.
        model: the loaded one; runs that are for another are left alone.
        sink: takes the derived documents too.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        outputs: Outputs,
        idle: Callable[[], bool],
        model: Callable[[], ModelInfo | None],
        sink: DocumentSink | None = None,
    ) -> None:
        self.runs = self.frames = 0
        """What was made up for so far."""
        self._outputs, self._stream, self._sink = outputs, settings.stream, sink
        self._idle, self._model = idle, model
        self._past_s = _DAY_S * (settings.catch_up_days or 0.0)
        self._every_s = settings.catch_up_every_s
        self._settled: set[str] = set()
        self._tries: dict[str, _Tries] = {}
        self._unsuited: dict[str, str] = {}
        self._full = False
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
            with about(job.chain.raw_uid):
                if self._goes_on(job, get_reconstructor):
                    return
            self._settled.add(job.chain.raw_uid)
        except Exception as error:
            self._fail(job.chain.raw_uid, error)
        self._making = self._job = None
        self._taken.set()

    def close(self) -> None:
        """End; what was begun is closed as aborted, and is made up for another time."""
        self._stopping.set()
        if self._making is not None:
            self._making.stop("the worker was shut down")
        self._taken.set()
        self._thread.join(5)

    def _goes_on(self, job: Job, get_reconstructor: GetReconstructor) -> bool:
        """Take the next document; False when the run is made up for.

        Raises:
            StorageError: what was made could not be stored; the derived run is ended.
        """
        if self._making is None:
            logger.info("run %s: %d frames are made up for", job.chain.raw_uid, len(job.missing))
            self._making = MakingUp(job, self._outputs, get_reconstructor, self._sink)
        if not self._making.trouble and self._making.step():
            return True
        self._making.stop(self._making.trouble)
        found = self._making.found()
        self.runs, self.frames = self.runs + 1, self.frames + found.reconstructed
        logger.info("%s", found.in_words())
        if self._making.trouble:
            raise StorageError(self._making.trouble)
        return False

    def _fail(self, uid: str, error: Exception) -> None:
        """Say why a run is not made up for, and when it is tried again."""
        if self._making is not None:
            with contextlib.suppress(Exception):
                self._making.stop(str(error))
        if isinstance(error, ModelError):
            self._leave_out(uid, str(error))
            return
        pause_s = self._tries.setdefault(uid, _Tries()).fail(self._every_s)
        last = f"that was the last try; {replay_of(uid)}"
        again = f"it is tried again in {pause_s:g} s" if pause_s < math.inf else last
        unforeseen = not isinstance(error, NFPhasingError)
        logger.warning("run %s is not made up for: %s; %s", uid, error, again, exc_info=unforeseen)

    def _leave_out(self, uid: str, why: str) -> None:
        info = self._model()
        self._unsuited[uid] = "" if info is None else info.sha256
        logger.info("run %s is left out until another model is loaded: %s", uid, why)

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
            info = self._model()
            if self._stopping.is_set() or info is None or not self._idle():
                return
            if self._is_dealt_with(uid, info):
                continue
            try:
                job = read_job(catalog, uid, self._stream)
            except NFPhasingError as error:
                self._fail(uid, error)
                continue
            if not job.needed:
                self._settled.add(uid)
            elif why := unsuited(job, info):
                self._leave_out(uid, why)
            elif not self._has_room():
                return
            else:
                self._taken.clear()
                self._job = job
                self._taken.wait()

    def _is_dealt_with(self, uid: str, info: ModelInfo) -> bool:
        tries = self._tries.get(uid)
        waits = tries is not None and not tries.due
        return waits or uid in self._settled or self._unsuited.get(uid) == info.sha256

    def _has_room(self) -> bool:
        room = self._outputs.has_room()
        if room == self._full:
            self._full = not room
            what = "goes on" if room else "waits: the disk has no room for results"
            logger.warning("making up for missed runs %s", what)
        return room


@dataclass
class _Tries:
    """How often a run was tried in vain, and when the next time is."""

    count: int = 0
    at: float = 0.0

    def fail(self, every_s: float) -> float:
        """Count a try; return how long to leave the run alone, s: twice as long each time."""
        self.count += 1
        pause_s = every_s * 2.0**self.count if self.count < MOST_TRIES else math.inf
        self.at = time.monotonic() + pause_s
        return pause_s

    @property
    def due(self) -> bool:
        return time.monotonic() >= self.at
