"""Storing beside reconstructing: tasks run in order, in a thread of their own."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

Task = Callable[[], None]

MOST_BYTES = 64 * 2**20
"""Results that may wait to be stored: 60 of 256 x 256 points in single precision, without draws."""

MOST_TASKS = 64


class Later(Protocol):
    """Takes a task that must run after all before it, now or soon."""

    def __call__(self, task: Task, nbytes: int = 0) -> None:
        """Take a task that keeps so many bytes in memory until it has run."""


def at_once(task: Task, nbytes: int = 0) -> None:
    """Run a task here and now."""
    task()


class StoringThread:
    """Runs tasks one after the other; who hands in one waits while too much is before it.

    Writing leaves Python's lock to others, so that storing and reconstructing share two cores.

    Args:
        waiting: tasks that are kept, however large: two batches of results.
        most_bytes, most_tasks: more tasks are kept as long as they need no more than this together.
    """

    def __init__(self, waiting: int = 2, most_bytes: int = MOST_BYTES, most_tasks: int = MOST_TASKS) -> None:
        self.problem = ""
        """What last surprised a task; empty when nothing did."""
        self._waiting, self._most_bytes, self._most_tasks = waiting, most_bytes, most_tasks
        self._tasks: deque[tuple[Task, int]] = deque()
        self._held, self._closed = 0, False
        self._began: float | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="nfphasing-storing", daemon=True)
        self._thread.start()

    @property
    def busy_s(self) -> float:
        """How long the task that runs now has taken, s; 0 where none runs."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def __call__(self, task: Task, nbytes: int = 0) -> None:
        """Hand in a task."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(nbytes))
            self._tasks.append((task, nbytes))
            self._held += nbytes
            self._changed.notify_all()

    def wait(self) -> None:
        """Return once every task so far is done."""
        done = threading.Event()
        self(done.set)
        done.wait()

    def close(self) -> None:
        """Finish what was handed in and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _has_room(self, nbytes: int) -> bool:
        fits = len(self._tasks) < self._most_tasks and self._held + nbytes <= self._most_bytes
        return fits or len(self._tasks) < self._waiting

    def _work(self) -> None:
        while (task := self._next()) is not None:
            self._began = time.monotonic()
            try:
                task()
            except Exception as error:  # the next batch must be stored whatever became of this one
                self.problem = f"{type(error).__name__}: {error}"
                logger.exception("results could not be stored")
            self._began = None

    def _next(self) -> Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._closed)
            if not self._tasks:
                return None
            task, nbytes = self._tasks.popleft()
            self._held -= nbytes
            self._changed.notify_all()
            return task
