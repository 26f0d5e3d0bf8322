"""The worker's voice: one thread that owns the results and control sockets, so that it always answers."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from nfphasing_bluesky.core import NFPhasingError, TransportError
from nfphasing_bluesky.core.sparing import Sparing
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.doorman import Doorman
from nfphasing_bluesky.streaming.endpoints import bind
from nfphasing_bluesky.streaming.protocol import TOPIC_STATUS, Verb, WorkerStatus
from nfphasing_bluesky.streaming.settings import WorkerSettings

logger = logging.getLogger(__name__)

_STUCK = 256
"""Messages that are kept for a subscriber that does not read: 130 MB of 256 x 256 means and deviations."""
_OUTBOX = "inproc://outbox"
_LINGER_MS = 1000
_PAUSE_S = 0.02


class Speaker:
    """Publishes what it is given, says the status at every heartbeat and answers the control socket.

    It runs beside the loop that reconstructs, so that the worker answers while it loads or computes.

    Args:
        context: of all sockets of the worker.
        settings: endpoints to bind, time between two heartbeats.
        status: gives the present status.
        obey: called with a verb and its arguments; gives the status to answer, or raises NFPhasingError to
            refuse.
        doorman: asks for keys where an endpoint is public.

    Raises:
        TransportError: when an endpoint is taken, or public without keys.
    """

    def __init__(
        self,
        context: zmq.Context,
        settings: WorkerSettings,
        status: Callable[[], WorkerStatus],
        obey: Callable[[Verb, dict[str, Any]], WorkerStatus],
        doorman: Doorman | None = None,
    ) -> None:
        self.trouble = ""
        """What last surprised it; empty when nothing did."""
        self._log = Sparing(logger)
        self._status, self._obey, self._heartbeat_s = status, obey, settings.heartbeat_s
        self._context, self._topics = context, frozenset[bytes]()
        self._results = bind(context, zmq.XPUB, settings.results, _STUCK, doorman)
        self._control = bind(context, zmq.REP, settings.control, doorman=doorman)
        self._inbox = context.socket(zmq.PULL)
        self._inbox.bind(_OUTBOX)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nfphasing-speaker", daemon=True)
        self._thread.start()

    def is_heard(self, topic: bytes) -> bool:
        """Return whether anybody has subscribed to a topic; what nobody hears need not be packed."""
        return any(topic.startswith(wanted) for wanted in self._topics)

    def mouthpiece(self) -> zmq.Socket:
        """Make a socket for one thread: multipart messages [topic, payload] sent to it are published."""
        socket = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(_OUTBOX)
        return socket

    def close(self) -> None:
        """Publish what is waiting and the last status, then end the thread and its sockets."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._control, zmq.POLLIN)
        poller.register(self._inbox, zmq.POLLIN)
        poller.register(self._results, zmq.POLLIN)
        turns = ((self._results, self._hear), (self._inbox, self._pass_on), (self._control, self._answer))
        due = 0.0
        while not self._stopping.is_set():
            ready = dict(poller.poll(int(1000 * max(0.0, min(due - time.monotonic(), 0.1))) + 1))
            for socket, turn in turns:
                if socket in ready:
                    self._try(turn)
            if time.monotonic() >= due:
                due = time.monotonic() + self._heartbeat_s
                self._try(self._beat)
        self._try(self._pass_on_the_rest)
        self._try(self._beat)
        self._results.setsockopt(zmq.LINGER, _LINGER_MS)
        for socket in (self._results, self._control, self._inbox):
            socket.close()

    def _try(self, turn: Callable[[], None]) -> None:
        """Do one thing; one that nobody foresaw must leave the worker neither mute nor deaf."""
        try:
            turn()
        except Exception as error:
            self.trouble = (
                f"saying or answering something failed: {type(error).__name__}: {error}; see the log"
            )
            self._log.exception("the worker could not say or answer something, and goes on")
            self._stopping.wait(_PAUSE_S)

    def _pass_on_the_rest(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._pass_on()

    def _hear(self) -> None:
        """Note the first subscriber to a topic, and the leave of its last."""
        with contextlib.suppress(zmq.Again):
            while message := self._results.recv(zmq.NOBLOCK):
                if message[0] == 1:
                    self._topics |= {message[1:]}
                elif message[0] == 0:
                    self._topics -= {message[1:]}

    def _pass_on(self) -> None:
        """Publish one message as it lies in memory: results of images have hundreds of kilobytes."""
        self._results.send_multipart(self._inbox.recv_multipart(zmq.NOBLOCK, copy=False), copy=False)

    def _beat(self) -> None:
        status = wire.pack(self._status().to_message())
        self._hear()
        self._results.send_multipart([TOPIC_STATUS, status])

    def _answer(self) -> None:
        request = self._control.recv()
        try:
            verb, arguments = read_request(request)
            answer = wire.pack({"ok": True, "status": self._obey(verb, arguments).to_message()})
        except NFPhasingError as error:
            answer = wire.pack({"ok": False, "error": str(error)})
        except Exception as error:
            self._log.exception("the control socket failed on a request")
            answer = wire.pack({"ok": False, "error": f"{type(error).__name__}: {error}"})
        self._control.send(answer)


def read_request(message: bytes) -> tuple[Verb, dict[str, Any]]:
    """Read what a client asks for.

    Raises:
        TransportError: it is no request.
    """
    request = wire.unpack(message)
    if not isinstance(request, dict) or not isinstance(request.get("arguments", {}), dict):
        raise TransportError("request is not {'verb': ..., 'arguments': {...}}")
    try:
        return Verb(str(request.get("verb"))), request.get("arguments", {})
    except ValueError as error:
        raise TransportError(f"verb {request.get('verb')!r} is unknown, not one of {list(Verb)}") from error
