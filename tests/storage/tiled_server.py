"""A real tiled server, started with profiles/tiled/serve.sh, on a free port of the loopback."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import free_port, until

PROFILES = Path(__file__).parents[2] / "profiles" / "tiled"
KEY = "abcdef0123456789"


@contextlib.contextmanager
def tiled_server(folder: Path, **environment: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serve a folder; gives the address and the process, which is killed at the end."""
    port = free_port()
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
            until(lambda: process.poll() is not None or _listens(port))
            if process.poll() is not None or not _listens(port):
                pytest.fail(f"tiled does not listen:\n{(folder / 'server.log').read_text()[-3000:]}")
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
