"""Where a worker's documents come in: pushed to it, or published through a bluesky 0MQ proxy."""

import logging
import threading
from typing import Any

import zmq

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.core.about import about
from nfphasing_bluesky.core.sparing import Sparing
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.curve import ClientKeys
from nfphasing_bluesky.streaming.doorman import Doorman
from nfphasing_bluesky.streaming.endpoints import bind, connect
from nfphasing_bluesky.streaming.queue import DROPPED, DocumentQueue

logger = logging.getLogger(__name__)

_PUSHED_IN_FLIGHT = 16
_PAUSE_S = 0.02


class Intake:
    """A thread that moves documents from the sockets into the queue.

    While the queue is full under the policy `block` it reads no further, so that who pushes has to wait.

    Args:
        context: of the worker's sockets.
        documents: endpoint to bind for pushed documents.
        proxy: endpoint of a proxy to subscribe to, or None.
        queue: where they go.
        doorman: asks for keys where the endpoint is public.
        keys: for the proxy, where that asks for some.

    Raises:
        TransportError: when the endpoint is taken, or public without keys.
    """

    def __init__(
        self,
        context: zmq.Context,
        documents: str,
        proxy: str | None,
        queue: DocumentQueue,
        doorman: Doorman | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        self.upstream_dropped = 0
        """Frames that a queue before this worker dropped, as it said."""
        self.refused = 0
        """Messages that were no documents."""
        self.trouble = ""
        """What last surprised it; empty when nothing did."""
        self._queue, self._log = queue, Sparing(logger)
        self._sockets = [bind(context, zmq.PULL, documents, _PUSHED_IN_FLIGHT, doorman)]
        if proxy is not None:
            self._sockets.append(connect(context, zmq.SUB, proxy, keys=keys))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nfphasing-intake", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take what has arrived at the sockets and no more; returns at once."""
        self._stopping.set()

    @property
    def running(self) -> bool:
        """False once everything that arrived before `stop` is in the queue."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop reading. The queue must be closed before, or a full one keeps this waiting."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        while not self._stopping.is_set():
            for socket, _ in poller.poll(100):
                self._try(socket, 0)
        for socket in self._sockets:
            while not self._queue.closed and socket.poll(0):
                self._try(socket, zmq.NOBLOCK)
            socket.close()

    def _try(self, socket: zmq.Socket, how: int) -> None:
        """Take a message; a fault that nobody foresaw must not leave the worker deaf."""
        try:
            self._take(socket.recv(how))
        except Exception as error:
            self.trouble = f"a message was not taken: {type(error).__name__}: {error}; see the log"
            self._log.exception("a message was not taken, the next one is")
            self._stopping.wait(_PAUSE_S)

    def _take(self, message: bytes) -> None:
        name, doc = "", dict[str, Any]()
        try:
            name, doc = wire.unpack_document(message)
            if name == DROPPED:
                self.upstream_dropped += len(doc["seq_nums"])
            self._queue.put(name, doc, len(message), wire.waited_s(message))
        except TransportError as error:
            self.refused += 1
            if not self._queue.closed:
                self._log.warning("a message was refused: %s", error)
        except Exception:
            self.refused += 1
            with about(_raw_uid(name, doc)):
                self._log.exception("a document does not follow its schema and was left out")


def _raw_uid(name: str, doc: dict[str, Any]) -> str:
    """Return the run that a document says it is of; empty where it says none."""
    return str(doc.get("uid" if name == "start" else "run_start") or doc.get("raw_uid") or "")
