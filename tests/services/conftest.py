"""Real servers as real processes: a Tango database, an NfPhasing server, a worker. Ended by pid."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

STREAMING = Path(__file__).resolve().parent.parent / "streaming"
SCRIPTS = Path(sys.executable).parent
DEVICE = "test/nfphasing/1"


def until(condition, timeout_s=120.0):
    """Wait for a condition; returns what it gave last."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(process):
    """End a process politely, then by force."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@pytest.fixture(scope="session", name="until")
def until_fixture():
    return until


@pytest.fixture(scope="session")
def tango_host(tmp_path_factory):
    """A pytango-db server with a SQLite file; TANGO_HOST points to it."""
    folder, port = tmp_path_factory.mktemp("tango-database"), free_port()
    host = f"127.0.0.1:{port}"
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [SCRIPTS / "PyDatabaseds", "2"],
        cwd=folder,
        env={**os.environ, "TANGO_HOST": host},
        stdout=log,
        stderr=log,
    )
    before = os.environ.get("TANGO_HOST")
    os.environ["TANGO_HOST"] = host
    try:
        assert until(lambda: _database_answers("127.0.0.1", port)), (folder / "log").read_text()
        yield host
    finally:
        end(process)
        log.close()
        os.environ.pop("TANGO_HOST")
        if before is not None:
            os.environ["TANGO_HOST"] = before


def _database_answers(host, port):
    import tango

    with contextlib.suppress(tango.DevFailed):
        tango.Database(host, port)
        return True
    return False


class WorkerProcess:
    """A worker process with the straight-line reconstructor."""

    def __init__(self, settings, model="tiny-line"):
        from nfphasing_bluesky.core import StreamSettings
        from nfphasing_bluesky.streaming.settings import WorkerSettings

        self.settings = WorkerSettings(
            model=model, stream=StreamSettings(data_key="det"), heartbeat_s=0.1, **settings
        )
        self.context = zmq.Context()
        self.process = self.push = None

    def start(self):
        command = [sys.executable, str(STREAMING / "tiny.py"), self.settings.model_dump_json()]
        self.process = subprocess.Popen(command)
        return self

    def kill(self):
        self.process.send_signal(signal.SIGKILL)

    def send(self, items):
        from nfphasing_bluesky.streaming import wire
        from nfphasing_bluesky.streaming.endpoints import connect

        # it stays open: what a receiver with a full queue has not read yet is lost with the connection
        if self.push is None:
            self.push = connect(self.context, zmq.PUSH, self.settings.documents)
        for item in items:
            self.push.send(wire.pack_document(*item))

    def close(self):
        if self.process is not None:
            end(self.process)
        self.context.destroy(linger=0)


@pytest.fixture
def worker(tmp_path):
    """A worker process that is not started yet."""
    made = WorkerProcess({n: f"ipc://{tmp_path}/{n}" for n in ("documents", "results", "control")})
    yield made
    made.close()


@pytest.fixture
def server(tango_host, worker, tmp_path):
    """Start an NfPhasing server for the worker's endpoints; returns (process, proxy)."""
    import tango

    from tango_device.registration import register

    started = []

    def start(**properties):
        endpoints = {
            f"{n}_endpoint": getattr(worker.settings, n) for n in ("documents", "results", "control")
        }
        register(
            DEVICE,
            properties={**endpoints, "worker": "attach", "model_name": "", **properties},
            tango_host=tango_host,
        )
        log = (tmp_path / "server.log").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", "tango_device.server", "1"], stdout=log, stderr=log, cwd=tmp_path
        )
        started.append((process, log))
        proxy = tango.DeviceProxy(f"tango://{tango_host}/{DEVICE}")
        assert until(lambda: _answers(proxy)), (tmp_path / "server.log").read_text()
        return process, proxy

    yield start
    for process, log in started:
        end(process)
        log.close()


def _answers(proxy):
    import tango

    with contextlib.suppress(tango.DevFailed):
        proxy.ping()
        return True
    return False


@pytest.fixture(scope="session")
def raw():
    """Functions that make raw documents."""
    spec = importlib.util.spec_from_file_location("services_documents", STREAMING / "documents.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
