"""Who may come in: checks the keys of peers from elsewhere, and says in the log whom it turned away."""

import logging
import threading
from collections import Counter
from contextlib import suppress

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from nfphasing_bluesky.streaming.curve import ServerKeys

logger = logging.getLogger(__name__)

FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
FAILED |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_WHY = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "its key is not among those that may connect",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "it does not speak CURVE, or has a wrong key of this worker",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "it hung up, or has a wrong key of this worker",
}
_EVERY_S = 5.0


class Doorman:
    """Authenticates the peers of CURVE sockets of one context, and watches these sockets.

    A peer that is turned away tries again many times a second; the log has one line in five seconds.

    Args:
        context: of the sockets.
        keys: whose `clients` may connect; read again when somebody is turned away.
    """

    def __init__(self, context: zmq.Context, keys: ServerKeys) -> None:
        self.refused = 0
        """Peers that were turned away, each of their attempts."""
        self._keys = keys
        self._authenticator = ThreadAuthenticator(context, log=logging.getLogger(f"{__name__}.zap"))
        self._authenticator.start()
        self._allow()
        self._monitors: dict[zmq.Socket, str] = {}
        self._news: Counter[tuple[str, int]] = Counter()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nfphasing-doorman", daemon=True)

    def guard(self, socket: zmq.Socket, endpoint: str) -> None:
        """Ask for keys at one more socket; to be called before `start` and before the socket is bound."""
        socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
        socket.curve_server = True
        self._monitors[socket.get_monitor_socket(FAILED)] = endpoint

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching and authenticating; before the sockets' context ends."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._authenticator.stop()

    def _allow(self) -> None:
        self._authenticator.configure_curve(domain="*", location=str(self._keys.clients))

    def _watch(self) -> None:
        poller = zmq.Poller()
        for monitor in self._monitors:
            poller.register(monitor, zmq.POLLIN)
        quiet_until, now = 0.0, 0.0
        while not self._stopping.wait(0.05):
            now += 0.05
            for monitor, _ in poller.poll(0):
                with suppress(zmq.ZMQError):
                    event = recv_monitor_message(monitor, zmq.NOBLOCK)
                    self._news[self._monitors[monitor], int(event["event"])] += 1
                    self.refused += 1
            if self._news and now >= quiet_until:
                quiet_until = now + _EVERY_S
                self._report()
        for monitor in self._monitors:
            monitor.close()

    def _report(self) -> None:
        for (endpoint, event), count in self._news.items():
            why = _WHY.get(event, f"event {event}")
            logger.warning("%s: a peer was turned away, %d times: %s", endpoint, count, why)
        self._news.clear()
        self._allow()
