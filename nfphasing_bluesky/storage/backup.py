"""Documents on disk until a catalog has them: one JSON-lines file a run, replayed when it is back."""

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from bluesky_tiled_plugins import TiledWriter
from tiled.client.container import Container

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.storage.catalogs import PROCESSED, RAW, runs_of
from nfphasing_bluesky.storage.hdf5 import safe_name

log = logging.getLogger(__name__)

SUFFIX = ".jsonl"


class Journal:
    """The documents of one run in a file, a line each, handed to the operating system one by one.

    A document that cannot be written (disk full) is kept in memory and tried again with the next. Two
    threads may use one journal.
    """

    def __init__(self, folder: Path, run_uid: str) -> None:
        self.path = folder / f"{safe_name(run_uid)}{SUFFIX}"
        self._folder = folder
        self._file: FileIO | None = None
        self._unwritten: list[bytes] = []
        self._lock = threading.RLock()

    def write(self, name: str, doc: Document) -> None:
        """Append one document.

        Raises:
            TypeError: the document holds what JSON cannot.
        """
        line = json.dumps({"name": name, "doc": doc}, default=_plain) + "\n"
        with self._lock:
            self._unwritten.append(line.encode())
            self._flush()

    def sync(self) -> bool:
        """Force the file to the disk; False when some of it could not be written."""
        with self._lock:
            self._flush()
            if self._file is None:
                return False
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                log.error("%s cannot be forced to disk: %s", self.path, error)
                return False
            return not self._unwritten

    def discard(self) -> None:
        """Remove the file: the catalog has its documents."""
        with self._lock:
            self._unwritten.clear()
            self._close()
            self.path.unlink(missing_ok=True)

    def close(self) -> bool:
        """Force the file to the disk and close it; False when some of it could not be written."""
        with self._lock:
            safe = self.sync()
            self._close()
            return safe

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _flush(self) -> None:
        try:
            if self._file is None and self._unwritten:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab", buffering=0)
            while self._file is not None and self._unwritten:
                _write_whole(self._file, self._unwritten[0])
                self._unwritten.pop(0)
        except OSError as error:
            log.error("%s: %d documents wait in memory: %s", self.path, len(self._unwritten), error)


def _write_whole(file: FileIO, line: bytes) -> None:
    """Write a whole line or nothing, so that the file never holds half a document."""
    mark = os.fstat(file.fileno()).st_size
    try:
        written = file.write(line)
    except OSError:
        os.ftruncate(file.fileno(), mark)
        raise
    if written != len(line):
        os.ftruncate(file.fileno(), mark)
        raise OSError(f"{written} of {len(line)} bytes fitted on the disk")


def read_journal(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, document) of a backup file; half a line at its end, after a crash, is left out.

    Raises:
        StorageError: the file cannot be read, or a line before the last is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StorageError(f"backup {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                log.warning("%s ends in half a document, which is left out", path)
                return
            raise StorageError(
                f"backup {path}, line {number}: {error}; repair or remove that line"
            ) from error
        yield entry["name"], entry["doc"]


@dataclass(frozen=True)
class Replayed:
    """What became of one backup file: stored now, there before, or why not."""

    path: Path
    run_uid: str
    outcome: str


def replay_backup(folder: Path | str, catalog: Container, *, keep: bool = False) -> list[Replayed]:
    """Store the runs of a backup folder in a catalog.

    Runs that the catalog already holds complete are skipped, half-written ones are replaced, and a run
    whose stop document never came is closed with exit status abort, so doing it twice is harmless.
    A derived run goes to `processed`, a raw one to `raw`, where the catalog has these.

    Args:
        folder: of the backup files.
        catalog: from `open_catalog`.
        keep: leave the files of stored runs where they are.

    Returns:
        One entry a file: `stored`, `present`, or `failed: ` and the reason.
    """
    return [replay_file(path, catalog, keep=keep) for path in sorted(Path(folder).glob(f"*{SUFFIX}"))]


def replay_file(path: Path, catalog: Container, *, keep: bool = False) -> Replayed:
    """Store the run of one backup file, as `replay_backup` does; never raises."""
    uid = path.stem
    try:
        documents = list(read_journal(path))
        if not documents or documents[0][0] != "start":
            raise StorageError(f"backup {path} does not begin with a start document")
        uid = documents[0][1]["uid"]
        outcome = _store(documents, catalog)
        if not keep:
            path.unlink()
    except Exception as error:  # one bad file or a catalog that fails again must not stop the others
        log.error("backup %s is not replayed: %s", path, error)
        outcome = f"failed: {error}"
    return Replayed(path, uid, outcome)


def _store(documents: list[tuple[str, dict[str, Any]]], catalog: Container) -> str:
    start = documents[0][1]
    uid = start["uid"]
    derived = "original_run_uid" in start
    runs = runs_of(catalog, PROCESSED if derived else RAW)
    there = _find(runs, uid)
    if there is not None:
        if there.metadata.get("stop"):
            return "present"
        runs.delete_contents(uid, recursive=True, external_only=False)
    if documents[-1][0] != "stop":
        documents = [*documents, ("stop", _missing_stop(documents))]
    writer = TiledWriter(runs, normalizer=None) if derived else TiledWriter(runs)
    for name, doc in documents:
        writer(name, doc)
    return "stored"


def _find(runs: Container, uid: str) -> Any:
    try:
        return runs[uid]
    except KeyError:
        return None


def _missing_stop(documents: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    start = documents[0][1]
    times = [doc["time"] for name, doc in documents if isinstance(doc.get("time"), float)]
    return {
        "uid": f"{start['uid']}-stop",
        "run_start": start["uid"],
        "time": max(times, default=start["time"]),
        "exit_status": "abort",
        "reason": "the writing process ended before the run did",
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} in a document cannot be written as JSON")
