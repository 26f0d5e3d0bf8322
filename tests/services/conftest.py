"""Real servers as real processes: a Tango database, an NfPhasing server, a worker. Ended by pid."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from nfphasing_bluesky.demo.tango_services import tango_database
from tests.waiting import until

STREAMING = Path(__file__).resolve().parent.parent / "streaming"
DATABASE_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tango-db.sh"
REAL_DATABASE = Path("/usr/lib/tango/DataBaseds").exists() or "NFPHASING_REQUIRE_ALL" in os.environ
DEVICE = "test/nfphasing/1"
ANSWER_MS = 60_000
"""Tango's own limit, 3 s, is one that a busy machine exceeds."""


def end(process):
    """End a process politely, then by force."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session", name="until")
def until_fixture():
    return until


@pytest.fixture(scope="session")
def tango_host(tmp_path_factory):
    """The Tango database that sites run (MariaDB, DataBaseds); pytango-db where that is not installed."""
    database = _mariadb if REAL_DATABASE else tango_database
    with database(tmp_path_factory.mktemp("db")) as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANGO_HOST", host)
        yield host


@contextlib.contextmanager
def _mariadb(folder):
    up = subprocess.run([DATABASE_SCRIPT, "up", folder], capture_output=True, text=True)
    try:
        assert up.returncode == 0, up.stderr
        yield up.stdout.strip().removeprefix("TANGO_HOST=")
    finally:
        subprocess.run([DATABASE_SCRIPT, "down", folder], check=True)


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
    with contextlib.ExitStack() as stack:
        yield lambda **properties: stack.enter_context(
            running_server(tango_host, worker, tmp_path, **properties)
        )


@pytest.fixture
def scanning(server, worker, until, tmp_path):
    """A server whose worker stitches scans of the known object."""
    import numpy as np
    import tango

    from nfphasing_bluesky.core import StreamSettings
    from tests.known_object import PROBE

    np.savez(tmp_path / "probe.npz", probe=PROBE)
    stream = StreamSettings(data_key="eiger", probe=tmp_path / "probe.npz", object_every_s=0, check_frames=0)
    worker.settings = worker.settings.model_copy(update={"model": "known-object", "stream": stream})
    worker.start()
    _, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    return proxy


@contextlib.contextmanager
def running_server(tango_host, worker, folder, /, **properties):
    """Register the device with the worker's endpoints and run its server; gives (process, proxy)."""
    import tango

    from nfphasing_bluesky.clients.properties import DEFAULTS
    from nfphasing_bluesky.clients.registration import register

    endpoints = {f"{n}_endpoint": getattr(worker.settings, n) for n in ("documents", "results", "control")}
    # another test's server may have left its source or its keys in the database
    others = {n: default for n, (default, _) in DEFAULTS.items() if n.startswith(("source_", "curve_"))}
    values = {**endpoints, **others, "worker": "attach", "model_name": "", **properties}
    register(DEVICE, properties=values, tango_host=tango_host)
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tango_device.server", "1"], stdout=log, stderr=log, cwd=folder
        )
        try:
            proxy = tango.DeviceProxy(f"tango://{tango_host}/{DEVICE}")
            assert until(lambda: _answers(proxy)), (folder / "server.log").read_text()
            proxy.set_timeout_millis(ANSWER_MS)
            yield process, proxy
        finally:
            end(process)


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
