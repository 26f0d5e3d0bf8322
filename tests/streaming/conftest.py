import importlib.util
import sys
from pathlib import Path

import pytest


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
