"""Worker processes for tests of faults, and how to wait for what they do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import yaml
import zmq

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.storage.catalogs import embedded_config
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.client import ask
from nfphasing_bluesky.streaming.endpoints import connect
from nfphasing_bluesky.streaming.protocol import Verb, WorkerState
from tests.waiting import free_port, until


class Process:
    """A worker process, its log, and a socket that pushes documents to it."""

    def __init__(self, command, settings, folder):
        self.command, self.settings, self.folder = command, settings, folder
        self.context, self.number, self.push = zmq.Context(), 0, None
        self.process = None

    def start(self, **environment):
        self.number += 1
        with self.path.open("w") as log:
            self.process = subprocess.Popen(
                [*self.command, self.settings.model_dump_json()],
                stderr=log,
                env={**os.environ, **environment},
            )
        self.push = self.push or connect(self.context, zmq.PUSH, self.settings.documents)
        assert until(lambda: self.process.poll() is not None or self.state() is WorkerState.ON), self.log
        return self

    @property
    def path(self):
        return self.folder / f"worker-{self.number}.log"

    @property
    def log(self):
        return self.path.read_text()

    def status(self):
        return ask(Verb.HEALTH, self.settings.control, 60.0)

    def state(self):
        try:
            return ask(Verb.HEALTH, self.settings.control, 0.5).state
        except TransportError:
            return None

    def send(self, items):
        for item in items:
            self.push.send(wire.pack_document(*item))

    def end(self, number=signal.SIGTERM):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(120)
        return self.process and self.process.returncode

    def close(self):
        self.end(signal.SIGKILL)
        self.context.destroy(linger=0)


class Tiled:
    """A tiled server of its own process, with its catalog in a folder."""

    def __init__(self, folder, files):
        self.port, self.folder, self.process = free_port(), folder, None
        self.uri = f"http://127.0.0.1:{self.port}"
        (folder / "files").mkdir(parents=True)
        config = {**embedded_config(folder, [files]), "authentication": {"allow_anonymous_access": False}}
        (folder / "config.yml").write_text(yaml.safe_dump(config))

    def start(self):
        command = [str(Path(sys.executable).with_name("tiled")), "serve", "config"]
        command += [str(self.folder / "config.yml"), "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        assert until(self.answers, 300), (self.folder / "log").read_text()

    def answers(self):
        try:
            return httpx.get(f"{self.uri}/api/v1/", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
