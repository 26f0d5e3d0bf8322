"""Addresses of the sockets: this machine only, until the transport is encrypted."""

import contextlib
import ipaddress
import socket as sockets
import tempfile
from pathlib import Path

import zmq

from nfphasing_bluesky.core import TransportError

DOCUMENTS = "tcp://127.0.0.1:5577"
RESULTS = "tcp://127.0.0.1:5578"
CONTROL = "tcp://127.0.0.1:5579"


def check_local(endpoint: str) -> str:
    """Return the endpoint when it cannot be reached from another machine.

    Raises:
        TransportError: for any other address, a wildcard or an unknown transport.
    """
    transport, _, rest = endpoint.partition("://")
    if transport in ("ipc", "inproc") and rest:
        return endpoint
    host, _, port = rest.rpartition(":")
    if transport == "tcp" and _is_loopback(host) and port.isdecimal() and int(port) < 65_536:
        return endpoint
    raise TransportError(
        f"endpoint {endpoint!r} is not on this machine; expected ipc://PATH or tcp://127.0.0.1:PORT, "
        "because the wire is not encrypted: forward the port with ssh to reach it from elsewhere"
    )


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


def bind(context: zmq.Context, kind: int, endpoint: str, high_water_mark: int = 1000) -> zmq.Socket:
    """Bind a socket of this kind on a local endpoint.

    Raises:
        TransportError: when the endpoint is not local or taken.
    """
    check_local(endpoint)
    taken = f"cannot bind {endpoint}: it is in use; is another worker running there?"
    if _is_served(endpoint):
        raise TransportError(taken)
    socket = _socket(context, kind, high_water_mark)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise TransportError(
            taken if error.errno == zmq.EADDRINUSE else f"cannot bind {endpoint}: {error}"
        ) from error
    return socket


def connect(context: zmq.Context, kind: int, endpoint: str, high_water_mark: int = 1000) -> zmq.Socket:
    """Connect a socket of this kind to a local endpoint, which need not be bound yet."""
    check_local(endpoint)
    socket = _socket(context, kind, high_water_mark)
    socket.connect(endpoint)
    return socket


def _is_served(endpoint: str) -> bool:
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
    if kind == zmq.SUB:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    return socket
