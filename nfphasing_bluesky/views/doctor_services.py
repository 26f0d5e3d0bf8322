"""What the doctor says about a worker and what it needs around it: catalog, files, keys, ports, Tango."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.streaming.curve import ClientKeys, CurveSettings, client_keys, public_key, server_keys
from nfphasing_bluesky.streaming.endpoints import is_local, is_served, port_problem
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.views.finding import BAD, DOUBTFUL, GOOD, UNKNOWN, Finding, careful

if TYPE_CHECKING:
    from nfphasing_bluesky.streaming.protocol import WorkerStatus

_ANSWER_S = 2.0
_LEAST_FREE = 2**30
_ENDPOINTS = ("documents", "results", "control")


def services(
    settings: WorkerSettings, tango_host: str | None, secret: Path | None = None, server: Path | None = None
) -> Iterator[Finding]:
    """Yield what is found about the surroundings of a worker.

    Args:
        settings: of the worker.
        tango_host: of the database; None takes TANGO_HOST.
        secret: our certificate, to ask a worker that other machines reach.
        server: that worker's public key; None takes it from the settings' own.
    """
    yield careful("tiled", lambda: tiled(settings), "start the server, or correct catalog")
    yield careful("files", lambda: files(settings), "set files to a folder that the worker may write")
    if settings.curve is not None:
        curve = settings.curve
        yield careful("keys", lambda: keys(curve), "make them: nfphasing keys FOLDER --client NAME")
    yield careful(
        "Tango database", lambda: tango_database(tango_host), "scripts/tango-db.sh up, or set TANGO_HOST"
    )
    if settings.proxy is not None:
        yield proxy(settings.proxy)
    yield from worker_and_ports(settings, secret, server)


def tiled(settings: WorkerSettings) -> Finding:
    """Open the catalog as it is; nothing is made in it."""
    from nfphasing_bluesky.storage.catalogs import PROCESSED, close_catalog, open_catalog
    from nfphasing_bluesky.streaming.outputs import catalog_folder

    if settings.catalog is None:
        return Finding("tiled", UNKNOWN, "the settings name no catalog", "set catalog, or results are lost")
    folder = catalog_folder(settings.catalog)
    if folder is not None and not (folder / "catalog.db").exists():
        return _writable("tiled", folder, f"{folder} holds no catalog yet; the worker makes one")
    client = open_catalog(settings.catalog, make=False)
    try:
        there = len(client[PROCESSED]) if PROCESSED in client else 0
        return Finding("tiled", GOOD, f"{settings.catalog}: {there} derived runs")
    finally:
        close_catalog(client)


def files(settings: WorkerSettings) -> Finding:
    """Say whether arrays can be written, and how much of them."""
    from nfphasing_bluesky.streaming.outputs import catalog_folder

    folder = None if settings.catalog is None else catalog_folder(settings.catalog)
    if settings.files is None and settings.catalog is not None and folder is None:
        found = "the catalog is a server, and the settings name no files"
        return Finding("files", BAD, found, "set files to a folder that the server may read")
    where = settings.files or (folder / "derived" if folder else None)
    if where is None:
        return Finding("files", UNKNOWN, "neither catalog nor files is named", "set catalog")
    return _writable("files", where, str(where))


def keys(curve: CurveSettings) -> Finding:
    """Read the worker's keys, and count who may connect."""
    own = server_keys(curve)
    if curve.proxy is not None:
        public_key(curve.proxy)
    clients = sorted(path.stem for path in own.clients.glob("*.key"))
    if not clients:
        advice = f"nfphasing keys {curve.secret.parent} --client NAME"
        return Finding("keys", DOUBTFUL, f"nobody may connect: {own.clients} is empty", advice)
    return Finding("keys", GOOD, f"{', '.join(clients)} may connect")


def tango_database(tango_host: str | None) -> Finding:
    """Open the Tango database and look for servers of ours."""
    if tango_host is None and "TANGO_HOST" not in os.environ:
        return Finding("Tango database", UNKNOWN, "TANGO_HOST is not set", "set it if you use Tango")
    from nfphasing_bluesky.clients.registration import database_at, servers_of

    servers = servers_of(database_at(tango_host))
    if not servers:
        advice = "nfphasing register --server NfPhasing/1 --device lab/nfphasing/1"
        return Finding("Tango database", DOUBTFUL, "it answers; no NfPhasing server is registered", advice)
    return Finding("Tango database", GOOD, f"it answers; {', '.join(servers)}")


def proxy(endpoint: str) -> Finding:
    """Say whether something listens where documents come from."""
    if _listens(endpoint):
        return Finding("proxy", GOOD, f"something listens at {endpoint}")
    return Finding(
        "proxy", DOUBTFUL, f"nothing listens at {endpoint}", "start the bluesky proxy before the scan"
    )


def worker_and_ports(
    settings: WorkerSettings, secret: Path | None = None, server: Path | None = None
) -> Iterator[Finding]:
    """Say how the worker is that answers; where none does, whether its addresses are free."""
    try:
        status = _asked(settings, secret, server)
    except TransportError as error:
        yield Finding("worker", BAD, str(error), "pass --secret NAME.key_secret and --server worker.key")
        yield from ports(settings, silent=True)
        return
    if status is not None:
        model = "no model" if status.model is None else status.model.name
        verdict = DOUBTFUL if status.reason else GOOD
        found = f"process {status.pid} answers: {status.state}, {model}"
        yield Finding("worker", verdict, found, status.reason)
        return
    silent = not is_local(settings.control) and secret is None
    if silent:
        advice = "pass --secret NAME.key_secret, of a client whose key the worker has"
        yield Finding("worker", UNKNOWN, f"{settings.control} wants keys, and we have none", advice)
    else:
        advice = "nfphasing serve starts one"
        yield Finding("worker", UNKNOWN, f"none answers at {settings.control}", advice)
    yield from ports(settings, silent)


def ports(settings: WorkerSettings, silent: bool = False) -> Iterator[Finding]:
    """Say whether the worker's addresses are free.

    Args:
        settings: of the worker.
        silent: whether a worker may run there that could not be asked.
    """
    for name in (*_ENDPOINTS, "metrics"):
        endpoint = getattr(settings, name)
        if endpoint is not None:
            yield _port(name, f"tcp://{endpoint}" if name == "metrics" else endpoint, silent)


def _port(name: str, endpoint: str, silent: bool) -> Finding:
    subject, problem = f"port of {name}", port_problem(endpoint)
    if not problem:
        return Finding(subject, GOOD, f"{endpoint} is free")
    advice = f"end what listens there, or set {name} to another address"
    if problem == "taken" and silent:
        return Finding(
            subject,
            DOUBTFUL,
            f"{endpoint} is taken",
            f"if not by the worker, whom we could not ask: {advice}",
        )
    if problem != "taken":
        advice = f"set {name} to an address of this machine that the worker may bind"
    return Finding(subject, BAD, f"{endpoint} is {problem}", advice)


def _asked(settings: WorkerSettings, secret: Path | None, server: Path | None) -> "WorkerStatus | None":
    """Ask the worker how it is; None where none answers, or we have no keys to ask with.

    Raises:
        TransportError: our keys cannot be read, or the worker has others.
    """
    from nfphasing_bluesky.streaming.client import ask, ask_with_keys
    from nfphasing_bluesky.streaming.protocol import Verb

    if is_local(settings.control):
        try:
            return ask(Verb.HEALTH, settings.control, _ANSWER_S)
        except TransportError:
            return None
    if secret is None:
        return None
    keys = _keys(settings, secret, server)
    where = _reachable(settings.control)
    try:
        return ask_with_keys(Verb.HEALTH, where, keys, _ANSWER_S)
    except TransportError as error:
        if "refused the connection" in str(error):
            raise
        return None


def _keys(settings: WorkerSettings, secret: Path, server: Path | None) -> ClientKeys:
    if server is None and settings.curve is None:
        raise TransportError("a worker that other machines reach has a key, and neither we nor the settings")
    return client_keys(secret, server or settings.curve.secret)  # type: ignore[union-attr]


def _reachable(endpoint: str) -> str:
    """Where a socket that is bound to every interface is reached from this machine."""
    transport, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    here = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104
    return f"{transport}://{here}:{port}"


def _listens(endpoint: str) -> bool:
    transport, _, rest = endpoint.partition("://")
    if transport != "tcp":
        return is_served(endpoint)
    host, _, port = rest.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except OSError:
        return False
    return True


def _writable(subject: str, folder: Path, found: str) -> Finding:
    """Say whether a folder can be written, or made, and whether its disk has room."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            subject,
            BAD,
            f"{found}; {there} cannot be written",
            f"let us write {there}, or name another folder",
        )
    free = shutil.disk_usage(there).free
    found = f"{found}, {free / 2**30:.1f} GiB free"
    if free < _LEAST_FREE:
        return Finding(subject, DOUBTFUL, found, "free some, or name a folder on another disk")
    return Finding(subject, GOOD, found)
