"""Addresses of the sockets: this machine only, or any with CURVE keys."""

import contextlib
import ipaddress
import socket as sockets
import tempfile
from collections.abc import Sequence
from pathlib import Path

import zmq

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.core.secrets import redacted
from nfphasing_bluesky.streaming.curve import ClientKeys
from nfphasing_bluesky.streaming.doorman import Doorman
from nfphasing_bluesky.streaming.wire import MAX_MESSAGE_BYTES

DOCUMENTS = "tcp://127.0.0.1:5577"
RESULTS = "tcp://127.0.0.1:5578"
CONTROL = "tcp://127.0.0.1:5579"


def check_endpoint(endpoint: str, encrypted: bool) -> str:
    """Return the endpoint when it may be used: anything on this machine, or any TCP address with CURVE.

    Raises:
        TransportError: for an unknown transport, or a public address without keys.
    """
    if not encrypted:
        return check_local(endpoint)
    transport, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    if transport in ("ipc", "inproc") or (transport == "tcp" and _is_host(host) and _is_port(port)):
        return endpoint
    raise TransportError(f"endpoint {redacted(endpoint)!r} is none, expected tcp://HOST:PORT or ipc://PATH")


def is_local(endpoint: str) -> bool:
    """Return whether an endpoint cannot be reached from another machine."""
    try:
        check_local(endpoint)
    except TransportError:
        return False
    return True


def check_local(endpoint: str) -> str:
    """Return the endpoint when it cannot be reached from another machine.

    Raises:
        TransportError: for any other address, a wildcard or an unknown transport.
    """
    transport, _, rest = endpoint.partition("://")
    if transport in ("ipc", "inproc") and rest:
        return endpoint
    host, _, port = rest.rpartition(":")
    if transport == "tcp" and _is_loopback(host) and _is_port(port):
        return endpoint
    raise TransportError(
        f"endpoint {redacted(endpoint)!r} is not on this machine; expected ipc://PATH or "
        "tcp://127.0.0.1:PORT, because the wire is not encrypted: make keys with `nfphasing keys` "
        "and name them under [curve], or forward the port with ssh"
    )


def _is_host(text: str) -> bool:
    """Return whether it may be a host: 0MQ knows no users and passwords."""
    return bool(text) and "@" not in text


def _is_port(text: str) -> bool:
    return text.isdecimal() and int(text) < 65_536


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def private_folder() -> Path:
    """Make a folder that only this user can enter, for ipc sockets; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix="nfphasing-"))


def bind(
    context: zmq.Context,
    kind: int,
    endpoint: str,
    high_water_mark: int = 1000,
    doorman: Doorman | None = None,
) -> zmq.Socket:
    """Bind a socket of this kind on a local endpoint, or on any with a doorman, who asks for keys there.

    Raises:
        TransportError: when the endpoint is taken, or public and there is no doorman.
    """
    check_endpoint(endpoint, doorman is not None)
    taken = f"cannot bind {endpoint}: it is in use; is another worker running there?"
    if is_served(endpoint):
        raise TransportError(taken)
    socket = _socket(context, kind, high_water_mark)
    if doorman is not None and not is_local(endpoint):
        doorman.guard(socket, endpoint)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise TransportError(
            taken if error.errno == zmq.EADDRINUSE else f"cannot bind {endpoint}: {error}"
        ) from error
    return socket


def connect(
    context: zmq.Context,
    kind: int,
    endpoint: str,
    high_water_mark: int = 1000,
    keys: ClientKeys | None = None,
    topics: Sequence[bytes] = (b"",),
) -> zmq.Socket:
    """Connect a socket of this kind to an endpoint, which need not be bound yet.

    A subscriber hears the topics, in which order it asks for them; all by default.

    Raises:
        TransportError: when the endpoint is on another machine and there are no keys.
    """
    check_endpoint(endpoint, keys is not None)
    socket = _socket(context, kind, high_water_mark)
    for topic in topics if kind == zmq.SUB else ():
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    if keys is not None and not endpoint.startswith(("ipc:", "inproc:")):
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
        socket.curve_serverkey = keys.server
    socket.connect(endpoint)
    return socket


def port_problem(endpoint: str) -> str:
    """Try to bind an endpoint; why it cannot be: `taken`, or what the system says. Empty when it can."""
    if endpoint.startswith("ipc:"):
        return "taken" if is_served(endpoint) else ""
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            return "taken" if error.errno == zmq.EADDRINUSE else str(error)
    return ""


def is_served(endpoint: str) -> bool:
    """Return whether somebody listens on an ipc endpoint, which 0MQ would take away without a word."""
    transport, _, path = endpoint.partition("://")
    if transport != "ipc" or not Path(path).exists():
        return False
    with contextlib.closing(sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)) as probe:
        return probe.connect_ex(path) == 0


def _socket(context: zmq.Context, kind: int, high_water_mark: int) -> zmq.Socket:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, high_water_mark)
    socket.setsockopt(zmq.RCVHWM, high_water_mark)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    return socket
