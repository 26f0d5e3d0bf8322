"""A Tango database and an NfPhasing server, real processes on the loopback, ended with the context."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nfphasing_bluesky.core import TransportError

if TYPE_CHECKING:
    import tango

DEVICE = "demo/nfphasing/1"
INSTANCE = "demo"
DATABASE_S, SERVER_S = 120.0, 120.0
_LISTENING = re.compile(r"listening on: host=\S+, port=(\d+)")
_REGISTER = (
    "import json, sys; from nfphasing_bluesky.clients.registration import register; "
    "device, server, properties = json.loads(sys.argv[1]); register(device, server, properties)"
)

Found = TypeVar("Found")


@contextlib.contextmanager
def tango_database(folder: Path) -> Iterator[str]:
    """Run a Tango database (pytango-db, SQLite) in a folder, on a free port of the loopback.

    Yields:
        TANGO_HOST of the database.

    Raises:
        TransportError: it does not come up; its log is part of the message.
    """
    command = [sys.executable, "-m", "databaseds.database", "--host", "127.0.0.1", "--port", "0"]
    with _process([*command, "--print-host-port", "2"], folder, "database", {}) as (process, log):
        port = _wait_for(lambda: _port(log), process, log, DATABASE_S, "the Tango database")
        host = f"127.0.0.1:{port}"
        _wait_for(lambda: _answers(host), process, log, DATABASE_S, f"the Tango database at {host}")
        yield host


@contextlib.contextmanager
def nfphasing_server(
    folder: Path, tango_host: str, properties: Mapping[str, str]
) -> Iterator["tango.DeviceProxy"]:
    """Register the device and run its server.

    Args:
        folder: of its log.
        tango_host: of the database.
        properties: of the device, beside the defaults.

    Yields:
        A proxy of the device, which answers.

    Raises:
        TransportError: it cannot be registered, or does not come up.
    """
    import tango

    environment = {"TANGO_HOST": tango_host}
    order = json.dumps([DEVICE, f"NfPhasing/{INSTANCE}", dict(properties)])
    done = subprocess.run(  # noqa: S603 (our own program, no shell)
        [sys.executable, "-c", _REGISTER, order],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SERVER_S,
    )
    if done.returncode:
        raise TransportError(
            f"{DEVICE} could not be registered in the Tango database {tango_host}: {_last_lines(done.stderr)}"
        )
    command = [sys.executable, "-m", "tango_device.server", INSTANCE]
    with _process(command, folder, "nfphasing-server", environment) as (process, log):
        proxy = _wait_for(
            lambda: _proxy(f"tango://{tango_host}/{DEVICE}"), process, log, SERVER_S, f"NfPhasing/{INSTANCE}"
        )
        proxy.set_timeout_millis(10_000)
        proxy.set_source(tango.DevSource.DEV)
        yield proxy


def wait_until(condition: Callable[[], Found], timeout_s: float) -> Found:
    """Return what a condition gives once it is true, or gave last at the timeout."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


@contextlib.contextmanager
def _process(
    command: list[str], folder: Path, name: str, environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(  # noqa: S603 (our own program, no shell)
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            yield process, log
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def _wait_for(
    condition: Callable[[], Found | None],
    process: "subprocess.Popen[bytes]",
    log: Path,
    timeout_s: float,
    what: str,
) -> Found:
    found = wait_until(lambda: condition() or process.poll() is not None, timeout_s)
    if found is True or not found:
        ended = process.poll()
        became = (
            f"ended with status {ended}" if ended is not None else f"did not answer within {timeout_s:g} s"
        )
        raise TransportError(f"{what} {became}; its log {log} ends with: {_last_lines(log.read_text())}")
    return found


def _last_lines(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:]) or "nothing"


def _port(log: Path) -> int | None:
    found = _LISTENING.search(log.read_text(errors="replace"))
    return int(found.group(1)) if found else None


def _answers(tango_host: str) -> str | None:
    import tango

    host, _, port = tango_host.rpartition(":")
    with contextlib.suppress(tango.DevFailed):
        tango.Database(host, int(port)).get_info()
        return tango_host
    return None


def _proxy(name: str) -> "tango.DeviceProxy | None":
    import tango

    with contextlib.suppress(tango.DevFailed):
        proxy = tango.DeviceProxy(name)
        proxy.ping()
        return proxy
    return None
