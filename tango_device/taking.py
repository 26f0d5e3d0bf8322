"""Runs of frames from a Tango source: begun by Start, ended by Stop, sent to the worker as documents."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zmq
from tango import EnsureOmniThread

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.documents.numbered import NumberedRun
from nfphasing_bluesky.documents.remedy import SOURCE_PLAN
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.endpoints import connect
from nfphasing_bluesky.streaming.protocol import WorkerState, WorkerStatus
from tango_device.link import Ends
from tango_device.source import SourceSettings, TangoFrames

logger = logging.getLogger(__name__)

_IN_FLIGHT = 16
_LINGER_MS = 1000


@dataclass(frozen=True)
class Taking:
    """What the source does: one word to show, why it is away or empty, frames taken and lost in its run."""

    word: str
    problem: str = ""
    open: bool = False
    taken: int = 0
    lost: int = 0


NO_SOURCE = Taking("none")


class Taker:
    """Takes frames of a source, in a thread of its own, while a run is open.

    A source whose numbers begin again begins another run, and so does a worker that was started anew.

    Args:
        settings: of the source.
        ends: where the worker is reached.
        worker: the worker's last word, None while it is not reachable.
        data_key: of the frames; empty for the attribute's name.
        stream: of the frames.
    """

    def __init__(
        self,
        settings: SourceSettings,
        ends: Ends,
        worker: Callable[[], WorkerStatus | None],
        data_key: str = "",
        stream: str = "primary",
    ) -> None:
        self._settings, self._ends, self._worker = settings, ends, worker
        self._data_key, self._stream = data_key or settings.name, stream
        self._frames = TangoFrames(settings, self._take, self._begin_again)
        self._run: NumberedRun | None = None
        self._pid = self._first = 0
        self._wanted = False
        self._stopping = threading.Event()
        self._context = zmq.Context()
        self._socket = self._connected()
        self._thread = threading.Thread(target=self._follow, name="nfphasing-source", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Begin a run with the next frame; with one open nothing changes.

        Raises:
            TransportError: the source never answered, so that nobody knows which frame is the next.
        """
        if self._frames.last is None:
            raise TransportError(f"{self._settings.attribute} does not answer: {self._frames.problem}")
        if not self._wanted:
            self._first = self._frames.last + 1
            self._wanted = True
        self._frames.wake()

    def end(self) -> None:
        """End the run, after the frames that are there."""
        self._wanted = False
        self._frames.wake()

    @property
    def now(self) -> Taking:
        """What the source does."""
        run, problem = self._run, self._frames.problem
        taken, lost = (0, 0) if run is None else (run.taken, run.lost)
        word = "away" if problem else "taking frames" if self._wanted else "waiting for Start"
        return Taking(f"{word}: {problem}" if problem else word, problem, self._wanted, taken, lost)

    def close(self) -> None:
        """End the run and the thread; the worker is given a second to take what was sent."""
        self._wanted = False
        self._stopping.set()
        self._frames.wake()
        self._thread.join(5)

    def _follow(self) -> None:
        with EnsureOmniThread():
            while not self._stopping.is_set():
                try:
                    self._frames.look()
                    self._tend()
                except Exception:
                    logger.exception("the source %s could not be followed", self._settings.attribute)
            self._stop()
            self._frames.close()
            self._socket.close(_LINGER_MS)
            self._context.term()

    def _tend(self) -> None:
        """Begin and end runs as it is wanted; another run for another worker process."""
        status = self._worker()
        if not self._wanted:
            self._stop()
        elif status is None or status.state in (WorkerState.LOADING, WorkerState.FAULT):
            return
        elif self._run is None:
            self._start(status.pid)
        elif status.pid != self._pid:
            logger.warning("the worker was started again: frames of the source go into another run")
            self._socket.close(0)
            self._socket, self._first = self._connected(), (self._frames.last or 0) + 1
            self._start(status.pid)

    def _start(self, pid: int) -> None:
        source = {"plan_name": SOURCE_PLAN, "source": f"tango:{self._settings.attribute}"}
        metadata = {**self._settings.metadata, **source}
        self._pid = pid
        self._run = NumberedRun(self._send, self._data_key, self._first, self._stream, metadata)

    def _stop(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.stop(last=self._frames.last)

    def _begin_again(self) -> None:
        self._first = self._settings.first
        if self._run is not None:
            self._run.stop()
            self._start(self._pid)

    def _take(self, number: int, frame: np.ndarray | str, at: float) -> None:
        self._tend()
        if self._run is not None:
            self._run.take(number, frame, at)

    def _send(self, name: str, doc: dict[str, Any]) -> None:
        """Send a document; waits while the worker has no room for it, and gives up when it is another one."""
        message = wire.pack_document(name, doc)
        while not self._socket.poll(100, zmq.POLLOUT):
            status = self._worker()
            if self._stopping.is_set() or status is None or status.pid != self._pid:
                return
        self._socket.send(message)

    def _connected(self) -> zmq.Socket:
        return connect(self._context, zmq.PUSH, self._ends.documents, _IN_FLIGHT, self._ends.keys)
