import importlib.util
import sys
from pathlib import Path

import pytest

from nfphasing_bluesky.core import StreamSettings
from nfphasing_bluesky.streaming.settings import WorkerSettings
from tests.streaming.processes import Process


def _load(name):
    spec = importlib.util.spec_from_file_location(f"streaming_{name}", Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def raw():
    """Functions that make raw documents: raw_run, stream_run; MemoryStore for arrays."""
    return _load("documents")


@pytest.fixture(scope="session")
def tiny():
    """The straight-line reconstructor."""
    return _load("tiny")


@pytest.fixture(scope="session")
def tiny_command():
    """What starts a worker with the straight-line reconstructor."""
    return (sys.executable, str(Path(__file__).parent / "tiny.py"))


@pytest.fixture
def worker(tiny_command, tmp_path):
    """Make worker processes that are not started yet; ended after the test."""
    made = []

    def make(command=tiny_command, **settings):
        endpoints = {name: f"ipc://{tmp_path}/{name}" for name in ("documents", "results", "control")}
        stream = StreamSettings(data_key="det", **settings.pop("stream", {}))
        chosen = {"model": "tiny-line", **endpoints, **settings}
        made.append(Process(command, WorkerSettings(stream=stream, heartbeat_s=0.1, **chosen), tmp_path))
        return made[-1]

    yield make
    for process in made:
        process.close()
