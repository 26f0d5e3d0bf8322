"""Where a worker's documents come in: pushed to it, or published through a bluesky 0MQ proxy."""

import logging
import threading

import zmq

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.endpoints import bind, connect
from nfphasing_bluesky.streaming.queue import DROPPED, DocumentQueue

logger = logging.getLogger(__name__)

_PUSHED_IN_FLIGHT = 16


class Intake:
    """A thread that moves documents from the sockets into the queue.

    While the queue is full under the policy `block` it reads no further, so that who pushes has to wait.

    Args:
        context: of the worker's sockets.
        documents: endpoint to bind for pushed documents.
        proxy: endpoint of a proxy to subscribe to, or None.
        queue: where they go.

    Raises:
        TransportError: when the endpoint is taken.
    """

    def __init__(self, context: zmq.Context, documents: str, proxy: str | None, queue: DocumentQueue) -> None:
        self.upstream_dropped = 0
        """Frames that a queue before this worker dropped, as it said."""
        self.refused = 0
        """Messages that were no documents."""
        self._queue = queue
        self._sockets = [bind(context, zmq.PULL, documents, _PUSHED_IN_FLIGHT)]
        if proxy is not None:
            self._sockets.append(connect(context, zmq.SUB, proxy))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nfphasing-intake", daemon=True)
        self._thread.start()

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
                self._take(socket.recv())
        for socket in self._sockets:
            socket.close()

    def _take(self, message: bytes) -> None:
        try:
            name, doc = wire.unpack_document(message)
            if name == DROPPED:
                self.upstream_dropped += len(doc["seq_nums"])
            self._queue.put(name, doc)
        except TransportError as error:
            self.refused += 1
            if not self._stopping.is_set():
                logger.warning("a message was refused: %s", error)
        except Exception:
            self.refused += 1
            logger.exception("a document does not follow its schema and was left out")
