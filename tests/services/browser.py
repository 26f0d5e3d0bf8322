"""Chromium without a window, driven over its debugging port, and databases that a tiled server may have."""

import base64
import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tests.waiting import free_port, until

PATIENCE_S = 120


class Page:
    """One page of a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(PATIENCE_S))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def says(self, expression: str) -> Any:
        """The value of JavaScript."""
        made = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return made["result"].get("value")

    def picture(self, **clip: float) -> np.ndarray:
        """(H, W) grey levels of a part of the page: x, y, width, height in pixels."""
        shot = self.call("Page.captureScreenshot", format="png", clip={**clip, "scale": 1.0})
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("L"), float)


@contextlib.contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A page of a Chromium of its own, which ends with it."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1400,1000"]
    command = ["chromium", *options, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    with (folder.parent / "chromium.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        told = folder / "DevToolsActivePort"
        assert until(lambda: told.exists() and len(told.read_text().split()) == 2), "chromium did not start"
        found = urllib.request.urlopen(f"http://127.0.0.1:{told.read_text().split()[0]}/json")
        (address,) = (p["webSocketDebuggerUrl"] for p in json.load(found) if p["type"] == "page")
        with connect(address, max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextlib.contextmanager
def postgresql(*names: str) -> Iterator[list[str]]:
    """Addresses of new databases of a server of its own, which ends with them."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    # PostgreSQL refuses to be root's
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder, port = Path(tempfile.mkdtemp(prefix="nfphasing-pg-")), free_port()

    def run(program: str, *arguments: str) -> None:
        command = [*user, str(programs / program), *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)

    try:
        if user:
            shutil.chown(folder, "postgres")
        data = str(folder / "data")
        run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
        how = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -F"
        run("pg_ctl", "start", "-w", "-D", data, "-l", str(folder / "log"), "-o", how)
        try:
            for name in names:
                run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", name)
            yield [f"postgresql://postgres@127.0.0.1:{port}/{name}" for name in names]
        finally:
            run("pg_ctl", "stop", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Address of a Redis of its own, which keeps nothing."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
