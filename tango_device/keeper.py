"""Keeps a worker running as a child: starts it again after a pause that grows with each fall.

A child that says nothing any more is ended, which counts as a fall.
"""

import logging
import math
import threading
import time
from collections.abc import Callable

from nfphasing_bluesky.streaming.child import Child
from nfphasing_bluesky.streaming.settings import WorkerSettings

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
STEADY_S = 30.0
"""A child that lived so long is taken for sound: the next pause is the first one again."""
HUNG_S, SLOW_START_S = 30.0, 300.0
"""A child that has been silent for so long is ended: one that spoke before, and one that never did."""


class Keeper:
    """Starts a worker and starts it again when it ends.

    Args:
        settings: of the worker.
        start: makes the child; another in tests.
    """

    def __init__(self, settings: WorkerSettings, start: Callable[[WorkerSettings], Child] = Child) -> None:
        self._settings, self._start = settings, start
        self._child: Child | None = None
        self._falls, self._born, self._due = 0, 0.0, 0.0
        self._pid: int | None = None
        self._closed = False
        self._lock = threading.Lock()

    def look(self, heard: int | None = None, silence_s: float = math.inf) -> None:
        """Start the worker where it does not run and the pause is over; end one that hangs.

        Args:
            heard: process that spoke last.
            silence_s: since then.
        """
        with self._lock:
            if self._closed:
                return
            now = time.monotonic()
            if self._child is not None:
                if self._child.running and not self._hangs(self._child, now, heard, silence_s):
                    return
                self._note_fall(now)
            if now >= self._due:
                self._born = now
                self._child = self._start(self._settings)
                self._pid = self._child.pid

    def keep_model(self, pid: int, model: str) -> None:
        """Start the next child with the model that this one has loaded meanwhile."""
        with self._lock:
            if pid == self._pid and model != self._settings.model:
                self._settings = self._settings.model_copy(update={"model": model})

    @property
    def told(self) -> str:
        """What happens to the worker, for people."""
        if self._pid is None:
            return "It is being started."
        wait = max(0.0, self._due - time.monotonic())
        when = f"in {wait:.0f} s" if wait > 1 else "now"
        return (
            f"It is being restarted {when}, after {self._falls} falls in a row: "
            "the server's log says why it ends; a port that is taken is the usual reason."
            if self._falls > 1
            else f"It is being restarted {when}."
        )

    def owns(self, pid: int) -> bool:
        """Return whether this process is the last child; True while there was none."""
        return self._pid in (None, pid)

    def close(self) -> None:
        """End the worker, and start none again."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.close()
                self._child = None

    def _hangs(self, child: Child, now: float, heard: int | None, silence_s: float) -> bool:
        """End a child that has been silent for too long."""
        silence = min(silence_s, now - self._born)
        if silence <= (HUNG_S if heard == child.pid else SLOW_START_S):
            return False
        logger.error("the worker (process %d) has been silent for %.0f s; it is ended", child.pid, silence)
        child.kill()
        return True

    def _note_fall(self, now: float) -> None:
        steady = now - self._born > STEADY_S
        self._falls = 1 if steady else self._falls + 1
        pause = min(FIRST_PAUSE_S * 2 ** (self._falls - 1), LONGEST_PAUSE_S)
        self._due, self._child = now + pause, None
        logger.error("the worker ended after %.0f s; it is started again in %.0f s", now - self._born, pause)
