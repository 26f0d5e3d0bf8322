"""The other end of a worker's sockets: ask it for something, listen to what it says. No torch here."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.curve import ClientKeys
from nfphasing_bluesky.streaming.doorman import FAILED
from nfphasing_bluesky.streaming.endpoints import CONTROL, RESULTS, check_endpoint, connect
from nfphasing_bluesky.streaming.pattern import PatternResult
from nfphasing_bluesky.streaming.protocol import (
    TOPIC_DOCUMENT,
    TOPIC_FRAME,
    TOPIC_OBJECT,
    TOPIC_PATTERN,
    TOPIC_STATUS,
    FrameResult,
    ObjectResult,
    Verb,
    WorkerStatus,
)

logger = logging.getLogger(__name__)

_BROKEN_HANDSHAKES = 3
"""So many and no answer: the other end does not want us."""


def ask(verb: Verb, endpoint: str = CONTROL, timeout_s: float = 1.0, **arguments: Any) -> WorkerStatus:
    """Ask a worker of this machine for something and return its status after it.

    Raises:
        TransportError: when no worker answers in time, or it refuses (with its reason).
    """
    return _ask(verb, endpoint, timeout_s, None, arguments)


def ask_with_keys(
    verb: Verb, endpoint: str, keys: ClientKeys, timeout_s: float = 1.0, **arguments: Any
) -> WorkerStatus:
    """Ask a worker on any machine, as `ask` does.

    Raises:
        TransportError: as for `ask`, and when the worker refuses these keys.
    """
    return _ask(verb, endpoint, timeout_s, keys, arguments)


def _ask(
    verb: Verb, endpoint: str, timeout_s: float, keys: ClientKeys | None, arguments: dict[str, Any]
) -> WorkerStatus:
    context = zmq.Context()
    try:
        socket = connect(context, zmq.REQ, endpoint, keys=keys)
        turned_away = socket.get_monitor_socket(FAILED)
        socket.send(wire.pack({"verb": str(verb), "arguments": arguments}))
        if not _answered(socket, turned_away, endpoint, timeout_s):
            raise TransportError(
                f"no worker answered {verb} at {endpoint} within {timeout_s:g} s; "
                "start one with `nfphasing serve`, or check the endpoint"
            )
        answer = wire.unpack(socket.recv())
    finally:
        context.destroy(linger=0)
    if not isinstance(answer, dict) or "ok" not in answer:
        raise TransportError(f"{endpoint} did not answer as a worker does; is it another service?")
    if not answer["ok"]:
        raise TransportError(f"the worker refused {verb}: {answer.get('error')}")
    return WorkerStatus.from_message(answer["status"])


def _answered(socket: zmq.Socket, turned_away: zmq.Socket, endpoint: str, timeout_s: float) -> bool:
    """Wait for an answer; who is turned away need not wait for the end of the time.

    A connection that breaks in the handshake is tried again: a worker that is ending breaks one, too.
    """
    poller = zmq.Poller()
    for one in (socket, turned_away):
        poller.register(one, zmq.POLLIN)
    deadline, broken = time.monotonic() + timeout_s, 0
    while (left := deadline - time.monotonic()) > 0 and broken < _BROKEN_HANDSHAKES:
        ready = dict(poller.poll(int(left * 1000) + 1))
        if socket in ready:
            return True
        if turned_away in ready:
            certain = recv_monitor_message(turned_away)["event"] != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            broken += _BROKEN_HANDSHAKES if certain else 1
    if broken:
        raise TransportError(
            f"{endpoint} refused the connection: it asks for CURVE keys, and has other ones; "
            "is our public key in its clients/, and is worker.key its own?"
        )
    return False


class Listener:
    """Hears a worker's results in a thread of its own; reconnects by itself when a worker comes back.

    It asks for what there is a call for and for the heartbeat: what nobody asks for is never packed.

    Args:
        endpoint: of the worker's results socket.
        on_status, on_frame, on_document, on_object, on_pattern: called in the listening thread; errors are
            logged.
        keys: for a worker on another machine.
    """

    def __init__(
        self,
        endpoint: str = RESULTS,
        on_status: Callable[[WorkerStatus], None] | None = None,
        on_frame: Callable[[FrameResult], None] | None = None,
        on_document: Callable[[str, dict[str, Any]], None] | None = None,
        on_object: Callable[[ObjectResult], None] | None = None,
        on_pattern: Callable[[PatternResult], None] | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        self._endpoint, self._keys = check_endpoint(endpoint, keys is not None), keys
        self._on_status, self._on_frame, self._on_document = on_status, on_frame, on_document
        self._on_object, self._on_pattern = on_object, on_pattern
        wanted = {
            TOPIC_FRAME: on_frame,
            TOPIC_DOCUMENT: on_document,
            TOPIC_OBJECT: on_object,
            TOPIC_PATTERN: on_pattern,
        }
        # the heartbeat comes last: who hears it is heard on all the others
        self._topics = [*(topic for topic, call in wanted.items() if call is not None), TOPIC_STATUS]
        self._stopping = threading.Event()
        self._heard = 0.0
        self._thread = threading.Thread(target=self._listen, name="nfphasing-listener", daemon=True)

    def start(self) -> "Listener":
        """Begin to listen."""
        self._thread.start()
        return self

    @property
    def silence_s(self) -> float:
        """Seconds since the worker last said anything; infinite before the first word."""
        return time.monotonic() - self._heard if self._heard else float("inf")

    def close(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2)

    def _listen(self) -> None:
        context = zmq.Context()
        try:
            socket = connect(context, zmq.SUB, self._endpoint, keys=self._keys, topics=self._topics)
            while not self._stopping.is_set():
                if socket.poll(100):
                    self._heard = time.monotonic()
                    self._take(socket.recv_multipart())
        finally:
            context.destroy(linger=0)

    def _take(self, parts: list[bytes]) -> None:
        try:
            topic, payload = parts
            if topic == TOPIC_STATUS and self._on_status:
                self._on_status(WorkerStatus.from_message(wire.unpack(payload)))
            elif topic == TOPIC_FRAME and self._on_frame:
                self._on_frame(FrameResult.from_message(wire.unpack(payload)))
            elif topic == TOPIC_OBJECT and self._on_object:
                self._on_object(ObjectResult.from_message(wire.unpack(payload)))
            elif topic == TOPIC_PATTERN and self._on_pattern:
                self._on_pattern(PatternResult.from_message(wire.unpack(payload)))
            elif topic == TOPIC_DOCUMENT and self._on_document:
                self._on_document(*wire.unpack_document(payload))
        except Exception:
            logger.exception("a message from the worker at %s was not understood", self._endpoint)
