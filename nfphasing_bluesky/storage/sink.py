"""The sink that puts documents into a catalog, and into a backup folder when the catalog fails."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bluesky_tiled_plugins import TiledWriter
from tiled.client.container import Container

from nfphasing_bluesky.core.about import about
from nfphasing_bluesky.core.secrets import redacted
from nfphasing_bluesky.core.sparing import Sparing
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.storage.backup import IN_USE, UNREACHED, replay_file
from nfphasing_bluesky.storage.catalogs import PROCESSED, runs_of
from nfphasing_bluesky.storage.journal import Journal
from nfphasing_bluesky.storage.leftovers import EVERY_S, Leftovers

log = logging.getLogger(__name__)

BATCH = 256
MOST_WAITING = 100_000
_PROBLEMS_KEPT = 100
_PAUSES_S = (0.2, 1.0, 3.0)
_ONE_RUN = ("descriptor", "resource", "stream_resource", "stop")

Item = tuple[str, Any]


class CatalogSink:
    """Stores derived runs in a catalog; neither raises into its caller nor makes it wait for the catalog.

    Every document goes to the run's backup file first, then to a thread that writes to the catalog. When
    the run is complete there, the backup file is removed; when the catalog fails, the run is left alone
    there and its backup file is forced to disk. At its stop document it is tried once more from there, unless
    the catalog can't be reached, and a few times more while its database is locked (two writers of one SQLite
    file get into each other's way now and then). Runs of a catalog that is away are tried again when it has
    taken another run, and every half a minute; if all fails, `replay_backup` stores them later.

    Args:
        catalog: from `open_catalog`, or a catalog of runs.
        backup: folder of the backup files.
        container: where in the catalog; `processed` by default.
        batch: rows that the catalog gets at once.
        normalize: bring documents to the latest schema first; wanted for raw runs only.
        retry_s: how long to leave a catalog alone that could not be reached.
        most_waiting: documents that may wait for a catalog which is slower than the runs. What comes after
            them stays in the backup file alone, and its run is stored from there once it has ended.
    """

    def __init__(
        self,
        catalog: Container,
        backup: Path | str,
        *,
        container: str = PROCESSED,
        batch: int = BATCH,
        normalize: bool = False,
        retry_s: float = EVERY_S,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._catalog, self._container = catalog, container
        self._backup = Path(backup)
        self._batch, self._normalize, self._most_waiting = batch, normalize, most_waiting
        self._runs: dict[str, _Run] = {}
        self._owners: dict[str, str] = {}
        self._queue: queue.SimpleQueue[tuple[_Run, Item] | Callable[[], None] | None] = queue.SimpleQueue()
        self._problems: list[str] = []
        self._lock, self._log = threading.Lock(), Sparing(log)
        self._leftovers = Leftovers(self._backup, catalog, retry_s)
        self._thread = threading.Thread(target=self._work, name="catalog-sink", daemon=True)
        self._thread.start()

    def recover(self) -> None:
        """Store what earlier processes left in the backup folder; returns at once, `flush` waits for it."""
        self._queue.put(self._leftovers.find)

    def __call__(self, name: str, doc: Document) -> None:
        """Take one document; never raises."""
        try:
            with self._lock:
                run = self._run_of(name, doc)
            if run is None:
                self._log.error("%s document of an unknown run is not stored", name)
                return
            with about(run.raw_uid):
                run.journal.write(name, doc)
            if run.late or self._too_many_wait(run):
                doc = {}
                if name != "stop":
                    return
            self._queue.put((run, (name, dict(doc))))
        except Exception as error:  # the sink's promise to a running experiment
            self._log.exception("a %s document is not stored", name)
            self._note(f"{name} document not stored: {error}")

    @property
    def waiting(self) -> int:
        """Documents that wait for the catalog."""
        return self._queue.qsize()

    @property
    def problems(self) -> tuple[str, ...]:
        """The last hundred things that went wrong, oldest first; empty when every run is in the catalog."""
        return tuple(self._problems)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything taken so far is in the catalog or the backup; False after the timeout."""
        done = threading.Event()
        self._queue.put(done.set)
        return done.wait(timeout_s)

    def close(self, timeout_s: float | None = 60.0) -> bool:
        """Finish what is queued and end; runs without a stop document stay in the backup.

        Returns:
            False when the catalog did not take everything in time; the backup files have it.
        """
        self._queue.put(None)
        self._thread.join(timeout_s)
        for run in list(self._runs.values()):
            run.journal.close()
        return not self._thread.is_alive()

    def _too_many_wait(self, run: "_Run") -> bool:
        """Whether a run is left to its backup file from here on, which must be whole for that."""
        if self._queue.qsize() < self._most_waiting or not run.journal.sync():
            return False
        log.warning(
            "the catalog is slow, %d documents wait for it; run %s is stored from %s when it has ended",
            self._queue.qsize(),
            run.uid,
            run.journal.path,
        )
        run.late = run.failed = True
        return True

    def _run_of(self, name: str, doc: Document) -> "_Run | None":
        if name == "start":
            run = _Run(doc, Journal(self._backup, doc["uid"]), self._make_writer)
            self._runs[doc["uid"]] = run
            self._owners[doc["uid"]] = doc["uid"]
            return run
        if name in _ONE_RUN and doc.get("run_start"):
            owner = doc["run_start"]
            self._owners[doc["uid"]] = owner
        else:
            keys = ("descriptor", "resource", "stream_resource")
            owner = next((self._owners[doc[key]] for key in keys if doc.get(key) in self._owners), "")
        return self._runs.get(owner)

    def _make_writer(self) -> Callable[[str, Any], None]:
        runs = runs_of(self._catalog, self._container)
        if self._normalize:
            return TiledWriter(runs, batch_size=self._batch)
        return TiledWriter(runs, batch_size=self._batch, normalizer=None)

    def _work(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=self._leftovers.due_in_s())
            except queue.Empty:
                self._store_leftovers()
                continue
            if item is None:
                return
            if callable(item):
                item()
                if self._leftovers.due_in_s() == 0.0:
                    self._store_leftovers()
                continue
            run, (name, doc) = item
            with about(run.raw_uid):
                if not run.failed and not run.write(name, doc):
                    self._note(run.problem)
            if name == "stop":
                self._finish(run)

    def _store_leftovers(self) -> None:
        for result in self._leftovers.store():
            if result.stored:
                self._forget(result.run_uid)
            elif result.outcome != IN_USE and result.outcome not in self._problems:
                self._note(f"{result.path}: {result.outcome}")

    def _note(self, problem: str) -> None:
        self._problems.append(problem)
        del self._problems[:-_PROBLEMS_KEPT]

    def _forget(self, uid: str) -> None:
        """Take back what was said about a run that is in the catalog after all."""
        self._problems = [problem for problem in self._problems if uid not in problem]

    def _finish(self, run: "_Run") -> None:
        with self._lock:
            self._runs.pop(run.uid, None)
            self._owners = {key: owner for key, owner in self._owners.items() if owner != run.uid}
        try:
            if not run.failed:
                run.journal.discard()
                if self._leftovers:
                    self._store_leftovers()
            elif not run.journal.close():
                self._note(f"run {run.uid} is in neither catalog nor backup: {run.journal.path}")
            elif run.reached:
                self._try_again(run)
            else:
                self._leftovers.add(run.journal.path)
        except OSError as error:
            self._note(f"backup {run.journal.path}: {error}")

    def _try_again(self, run: "_Run") -> None:
        for number, pause_s in enumerate((0.0, *_PAUSES_S), start=2):
            time.sleep(pause_s)
            result = replay_file(run.journal.path, self._catalog)
            if result.stored:
                log.warning("run %s is in the catalog at attempt %d", run.uid, number)
                self._forget(run.uid)
                return
            if result.reached:
                return
        self._leftovers.add(run.journal.path)


class _Run:
    """One run on its way: its backup file, and its writer until that fails."""

    def __init__(
        self, start: Document, journal: Journal, make_writer: Callable[[], Callable[[str, Any], None]]
    ) -> None:
        self.uid, self.journal = start["uid"], journal
        self.raw_uid = str(start.get("original_run_uid") or self.uid)
        self._make_writer = make_writer
        self._writer: Callable[[str, Any], None] | None = None
        self.failed, self.reached, self.problem = False, True, ""
        self.late = False

    def write(self, name: str, doc: Any) -> bool:
        """Write one document to the catalog; False, and `problem` says why, when it fails."""
        try:
            if self._writer is None:
                self._writer = self._make_writer()
            self._writer(name, doc)
        except Exception as error:  # httpx, tiled, SQL and the file system each have their own
            self.failed = True
            self.reached = not isinstance(error, UNREACHED)
            self.journal.sync()
            why = redacted(f"{type(error).__name__}: {error}")
            self.problem = f"run {self.uid} is kept in {self.journal.path}: {why}"
            log.error("catalog failed at a %s document; %s", name, self.problem)
            return False
        return True
