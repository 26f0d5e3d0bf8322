"""Runs whose documents are on disk until a catalog has them, replayed when it is back."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from bluesky_tiled_plugins import TiledWriter
from tiled.client.container import Container

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.core.secrets import redacted
from nfphasing_bluesky.documents.orphans import completed
from nfphasing_bluesky.storage.catalogs import PROCESSED, RAW, runs_of
from nfphasing_bluesky.storage.journal import SUFFIX, lock, read_journal
from nfphasing_bluesky.storage.mend import mend_files

log = logging.getLogger(__name__)

STORED, PRESENT, IN_USE = "stored", "present", "in use"
UNREACHED = (ConnectionError, TimeoutError, httpx.TransportError)
_LOCKED = "locked"


@dataclass(frozen=True)
class Replayed:
    """What became of one backup file: stored now, there before, in use by its writer, or why not."""

    path: Path
    run_uid: str
    outcome: str
    reached: bool = True
    """False when the catalog did not answer, or was locked by another writer."""

    @property
    def stored(self) -> bool:
        """The catalog has the run."""
        return self.outcome in (STORED, PRESENT)


def replay_backup(folder: Path | str, catalog: Container, *, keep: bool = False) -> list[Replayed]:
    """Store the runs of a backup folder in a catalog.

    Runs that the catalog already holds complete are skipped, half-written ones are replaced, and a run
    whose stop document never came is closed with exit status abort and a ledger of what is there, so doing
    it twice is harmless. Runs that a living process still writes are left to it. A derived run goes to
    `processed`, a raw one to `raw`, where the catalog has these.

    Args:
        folder: of the backup files.
        catalog: from `open_catalog`.
        keep: leave the files of stored runs where they are.

    Returns:
        One entry a file: `stored`, `present`, `in use`, or `failed: ` and the reason.
    """
    return [replay_file(path, catalog, keep=keep) for path in sorted(Path(folder).glob(f"*{SUFFIX}"))]


def replay_file(path: Path, catalog: Container, *, keep: bool = False) -> Replayed:
    """Store the run of one backup file, as `replay_backup` does; never raises."""
    uid = path.stem
    try:
        with path.open("rb") as file:
            if not lock(file):
                return Replayed(path, uid, IN_USE)
            documents = list(read_journal(path))
            if not documents or documents[0][0] != "start":
                raise StorageError(f"backup {path} does not begin with a start document")
            uid = documents[0][1]["uid"]
            outcome = _store(documents, catalog)
            if not keep:
                path.unlink()
    except Exception as error:  # one bad file or a catalog that fails again must not stop the others
        why = redacted(str(error))
        log.error("backup %s is not replayed: %s", path, why)
        return Replayed(path, uid, f"failed: {why}", reached=not is_away(error))
    return Replayed(path, uid, outcome)


def is_away(error: Exception) -> bool:
    """Return whether a catalog failed because it could not be reached or was locked: worth another try."""
    return isinstance(error, UNREACHED) or _LOCKED in str(error)


def _store(documents: list[tuple[str, dict[str, Any]]], catalog: Container) -> str:
    start = documents[0][1]
    uid = start["uid"]
    derived = "original_run_uid" in start
    runs = runs_of(catalog, PROCESSED if derived else RAW)
    there = _find(runs, uid)
    if there is not None:
        if there.metadata.get("stop"):
            return PRESENT
        runs.delete_contents(uid, recursive=True, external_only=False)
    if documents[-1][0] != "stop":
        mend_files(documents)
        documents = completed(documents)
    writer = TiledWriter(runs, normalizer=None) if derived else TiledWriter(runs)
    for name, doc in documents:
        writer(name, doc)
    return STORED


def _find(runs: Container, uid: str) -> Any:
    try:
        return runs[uid]
    except KeyError:
        return None
