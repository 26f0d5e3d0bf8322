"""CURVE keys of the sockets that other machines may reach: made once, kept in files, never in settings."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.auth

from nfphasing_bluesky.core import Settings, TransportError

logger = logging.getLogger(__name__)

WORKER = "worker"
PUBLIC, SECRET = ".key", ".key_secret"


class CurveSettings(Settings):
    """Where a worker's keys are; `nfphasing keys FOLDER` makes them.

    Args:
        secret: the worker's own certificate, `worker.key_secret`.
        clients: folder with the public keys of those who may connect, `*.key`; read again for every one.
        proxy: public key of the proxy, where that asks for one.
    """

    secret: Path
    clients: Path
    proxy: Path | None = None


@dataclass(frozen=True)
class ServerKeys:
    """What a socket needs to be connected to from elsewhere."""

    public: bytes
    secret: bytes = field(repr=False)
    clients: Path


@dataclass(frozen=True)
class ClientKeys:
    """What a socket needs to connect to another machine's."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes


def server_keys(settings: CurveSettings) -> ServerKeys:
    """Read a worker's keys.

    Raises:
        TransportError: a file is missing, is no certificate, or others can read the secret.
    """
    public, secret = _certificate(settings.secret)
    if not settings.clients.is_dir():
        raise TransportError(f"{settings.clients} is no folder of clients' public keys; see `nfphasing keys`")
    return ServerKeys(public, secret, settings.clients)


def client_keys(secret: Path, server: Path) -> ClientKeys:
    """Read a client's keys.

    Args:
        secret: its own certificate, `NAME.key_secret`.
        server: public key of who it connects to, `worker.key`.

    Raises:
        TransportError: a file is missing, is no certificate, or others can read the secret.
    """
    return ClientKeys(*_certificate(secret), public_key(server))


def public_key(path: Path) -> bytes:
    """Read a public key.

    Raises:
        TransportError: the file is missing or no certificate.
    """
    try:
        return zmq.auth.load_certificate(path)[0]
    except (OSError, ValueError) as error:
        raise TransportError(f"{path} is no CURVE key: {error}; make one with `nfphasing keys`") from None


def make_keys(folder: Path, clients: tuple[str, ...] = ()) -> list[Path]:
    """Make the worker's keys, where there are none, and those of clients that have none yet.

    Args:
        folder: made with access for its owner alone; gets `worker.key` and `worker.key_secret`, for each
            client `NAME.key_secret`, which goes to that client, and its public key under `clients/`.
        clients: names.

    Returns:
        What was written.

    Raises:
        TransportError: a name is no plain name.
    """
    for name in clients:
        if not name.replace("-", "").isidentifier() or name == WORKER:
            raise TransportError(
                f"client name {name!r}, expected letters, digits, _ or -, and not {WORKER!r}"
            )
    allowed = folder / "clients"
    before = os.umask(0o077)
    try:
        allowed.mkdir(parents=True, exist_ok=True)
        written = [] if (folder / f"{WORKER}{SECRET}").exists() else _make(folder, WORKER, folder)
        for name in clients:
            if not (allowed / f"{name}{PUBLIC}").exists():
                written += _make(folder, name, allowed)
    finally:
        os.umask(before)
    return written


def _make(folder: Path, name: str, public_folder: Path) -> list[Path]:
    public, secret = map(Path, zmq.auth.create_certificates(folder, name))
    public = public.rename(public_folder / public.name)
    return [public, secret]


def _certificate(path: Path) -> tuple[bytes, bytes]:
    public = public_key(path)
    if path.stat().st_mode & 0o077:
        raise TransportError(f"{path} can be read by others; chmod 600 it, or make new keys")
    _, secret = zmq.auth.load_certificate(path)
    if secret is None:
        raise TransportError(f"{path} holds no secret key, expected the file that ends in {SECRET}")
    return public, secret
