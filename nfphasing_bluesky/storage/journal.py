"""The documents of a run on disk, one JSON line each: written as they come, read after a crash."""

import fcntl
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.core.sparing import Sparing
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.storage.hdf5 import safe_name

log = logging.getLogger(__name__)

SUFFIX = ".jsonl"
_MOST_WAITING_BYTES = 2**24


class Journal:
    """The documents of one run in a file, a line each, handed to the operating system one by one.

    A document that cannot be written (disk full) is kept in memory and tried again with the next; once 16 MB
    wait there the journal is given up, and ends where it is. Two threads may use one journal. While it is
    open the file is locked, so that nobody else takes it for the leavings of a process that has ended.
    """

    def __init__(self, folder: Path, run_uid: str) -> None:
        self.path = folder / f"{safe_name(run_uid)}{SUFFIX}"
        self._folder = folder
        self._file: FileIO | None = None
        self._unwritten: deque[bytes] = deque()
        self._waiting_bytes, self._given_up = 0, False
        self._log = Sparing(log)
        self._lock = threading.RLock()

    def write(self, name: str, doc: Document) -> None:
        """Append one document.

        Raises:
            TypeError: the document holds what JSON cannot.
        """
        line = (json.dumps({"name": name, "doc": doc}, default=_plain) + "\n").encode()
        with self._lock:
            if self._given_up:
                return
            self._unwritten.append(line)
            self._waiting_bytes += len(line)
            self._flush()
            if self._waiting_bytes > _MOST_WAITING_BYTES:
                self._give_up()

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
            return not self._unwritten and not self._given_up

    def discard(self) -> None:
        """Remove the file: the catalog has its documents."""
        with self._lock:
            self._forget_waiting()
            self._close()
            self.path.unlink(missing_ok=True)

    def close(self) -> bool:
        """Force the file to the disk and close it; False when some of it could not be written."""
        with self._lock:
            safe = self.sync()
            self._close()
            return safe

    def _forget_waiting(self) -> None:
        self._unwritten.clear()
        self._waiting_bytes = 0

    def _give_up(self) -> None:
        log.error("%s takes nothing: what would follow in it is in the catalog alone", self.path)
        self._given_up = True
        self._forget_waiting()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _flush(self) -> None:
        try:
            if self._file is None and self._unwritten:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab", buffering=0)
                lock(self._file)
            while self._file is not None and self._unwritten:
                _write_whole(self._file, self._unwritten[0])
                self._waiting_bytes -= len(self._unwritten.popleft())
        except OSError as error:
            self._log.error("%s: %d documents wait in memory: %s", self.path, len(self._unwritten), error)


def lock(file: IO[bytes]) -> bool:
    """Claim a backup file; False while another process has it. Where a disk knows no locks, go without."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("%s cannot be locked: %s", file.name, error)
    return True


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


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} in a document cannot be written as JSON")
