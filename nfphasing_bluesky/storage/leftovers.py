"""Runs in a backup folder that wait for the catalog: tried again now and then until it has them."""

import logging
import time
from pathlib import Path

from tiled.client.container import Container

from nfphasing_bluesky.storage.backup import Replayed, replay_file
from nfphasing_bluesky.storage.journal import SUFFIX

log = logging.getLogger(__name__)

EVERY_S = 30.0


class Leftovers:
    """Backup files whose runs are not in the catalog yet.

    Not safe for several threads: it belongs to the one that writes to the catalog.

    Args:
        folder: of the backup files.
        catalog: from `open_catalog`, or a catalog of runs.
        every_s: how long to leave a catalog alone that could not be reached.
    """

    def __init__(self, folder: Path, catalog: Container, every_s: float = EVERY_S) -> None:
        self._folder, self._catalog, self._every_s = folder, catalog, every_s
        self._paths: list[Path] = []
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._paths)

    def find(self) -> None:
        """Take up everything that lies in the folder, from processes that have ended too."""
        self._paths = sorted(self._folder.glob(f"*{SUFFIX}"))
        self._due = 0.0

    def add(self, path: Path) -> None:
        """Take up one file; the catalog has just failed."""
        self._paths.append(path)
        self._due = time.monotonic() + self._every_s

    def due_in_s(self) -> float | None:
        """Seconds until `store` is worth a try; None when nothing waits."""
        return max(0.0, self._due - time.monotonic()) if self._paths else None

    def store(self) -> list[Replayed]:
        """Try every file; the first that the catalog cannot be reached for ends it, until the next time.

        Files that fail for another reason stay in the folder and are not tried again.
        """
        done = []
        while self._paths:
            result = replay_file(self._paths[0], self._catalog)
            done.append(result)
            if not result.reached:
                self._due = time.monotonic() + self._every_s
                break
            self._paths.pop(0)
            if result.stored:
                log.warning("run %s of an earlier time is in the catalog now", result.run_uid)
        return done
