"""A real tiled server, started with profiles/tiled/serve.sh, on a free port of the loopback."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROFILES = Path(__file__).parents[2] / "profiles" / "tiled"
KEY = "abcdef0123456789"


@contextlib.contextmanager
def tiled_server(folder: Path, **environment: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serve a folder; gives the address and the process, which is killed at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = {
        **os.environ,
        "TILED": str(Path(sys.executable).parent / "tiled"),
        "TILED_SINGLE_USER_API_KEY": KEY,
        "NFPHASING_READABLE": str(folder),
        **environment,
    }
    command = [str(PROFILES / "serve.sh"), str(folder / "served"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=said, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(port, process, folder / "server.log")
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()
            process.wait(10)


def _wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"tiled ended:\n{log.read_text()[-3000:]}")
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"tiled did not listen:\n{log.read_text()[-3000:]}")
