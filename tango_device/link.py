"""The device's side of the worker's sockets. Knows nothing of Tango and holds no torch."""

import logging
import queue
import threading
import time
from dataclasses import dataclass

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.streaming.child import Child, is_alive
from nfphasing_bluesky.streaming.client import Listener, ask
from nfphasing_bluesky.streaming.protocol import FrameResult, ObjectResult, Verb, WorkerStatus
from nfphasing_bluesky.streaming.settings import WorkerSettings

logger = logging.getLogger(__name__)

_RESTART_AFTER_S = 3.0
_WAITING_AT_MOST = 256


@dataclass(frozen=True)
class Health:
    """How the worker is, as seen from here.

    Args:
        reachable: it was heard and is not known to be gone.
        problem: why it is not reachable, and what to do; empty when it is.
        status: its last word; None before the first.
    """

    reachable: bool
    problem: str
    status: WorkerStatus | None


class WorkerLink:
    """Attaches to a worker, or keeps one as a child, and hands on what it says.

    Args:
        settings: the worker's endpoints; everything else in them is for a child.
        child: start the worker here, and again when it dies.
        silence_limit_s: after so long without a heartbeat the worker counts as hung.
    """

    def __init__(self, settings: WorkerSettings, child: bool = False, silence_limit_s: float = 3.0) -> None:
        self._settings, self._wants_child, self._limit_s = settings, child, silence_limit_s
        self._frames: queue.Queue[FrameResult] = queue.Queue(_WAITING_AT_MOST)
        self._object: ObjectResult | None = None
        self._status: WorkerStatus | None = None
        self._child: Child | None = None
        self._born = float("-inf")
        self._lock = threading.Lock()
        self._listener = Listener(
            settings.results, self._hear_status, self._hear_frame, on_object=self._hear_object
        ).start()

    def health(self) -> Health:
        """Look after the child, if any, and say how the worker is."""
        self._keep_child()
        status, silence = self._status, self._listener.silence_s
        where = self._settings.results
        if status is None:
            starting = "It is being started." if self._wants_child else "Start one with `nfphasing serve`."
            return Health(False, f"No worker heard at {where}. {starting}", None)
        if not is_alive(status.pid):
            cure = "It is being restarted." if self._wants_child else "Start it with `nfphasing serve`;"
            return Health(
                False,
                f"The worker (process {status.pid}) has died. {cure} The device goes on by itself then.",
                status,
            )
        if silence > self._limit_s:
            return Health(
                False,
                f"The worker (process {status.pid}) at {where} has been silent for {silence:.0f} s. "
                "If that lasts, end it and start it again.",
                status,
            )
        return Health(True, "", status)

    def next_frame(self, timeout_s: float) -> FrameResult | None:
        """Take the oldest result that is waiting; None when none comes in time."""
        try:
            return self._frames.get(timeout=timeout_s)
        except queue.Empty:
            return None

    @property
    def stitched(self) -> ObjectResult | None:
        """The latest state of the stitched object; None before the first."""
        return self._object

    def ask(self, verb: Verb, **arguments: object) -> WorkerStatus:
        """Ask the worker for something.

        Raises:
            TransportError: when it refuses, or does not answer.
        """
        health = self.health()
        if not health.reachable:
            raise TransportError(health.problem)
        self._status = ask(verb, self._settings.control, timeout_s=1.0, **arguments)
        return self._status

    def close(self) -> None:
        """Stop listening and end the child, if any."""
        self._wants_child = False
        self._listener.close()
        with self._lock:
            if self._child is not None:
                self._child.close()
                self._child = None

    def _keep_child(self) -> None:
        with self._lock:
            if not self._wants_child or (self._child is not None and self._child.running):
                return
            if time.monotonic() - self._born > _RESTART_AFTER_S:
                self._born = time.monotonic()
                self._child = Child(self._settings)

    def _hear_status(self, status: WorkerStatus) -> None:
        self._status = status

    def _hear_object(self, result: ObjectResult) -> None:
        self._object = result

    def _hear_frame(self, result: FrameResult) -> None:
        while True:
            try:
                self._frames.put_nowait(result)
                return
            except queue.Full:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        try:
            self._frames.get_nowait()
        except queue.Empty:
            return
