"""Worker processes for tests of faults, and how to wait for what they do."""

import os
import signal
import subprocess

import zmq

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.client import ask
from nfphasing_bluesky.streaming.endpoints import connect
from nfphasing_bluesky.streaming.protocol import Verb, WorkerState
from tests.waiting import until


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
