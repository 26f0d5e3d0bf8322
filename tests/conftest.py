"""Fixtures every room uses, and the one way to skip."""

import gc
import importlib
import importlib.util
import os
from itertools import chain
from pathlib import Path

import pytest

from nfphasing_bluesky.core import keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_configure() -> None:
    """Tests allocate as the program's own processes do, and look at the same examples every time."""
    keep_freed_memory()
    if importlib.util.find_spec("hypothesis"):
        from hypothesis import HealthCheck, settings

        slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
        settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=slow)
        settings.load_profile("same")


def pytest_collection() -> None:
    """Keep the garbage collector from going over what is imported again and again: all of that stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Let it go on, with what comes from now on only, and more of that at a time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, then those with most tests: workers that share them end together."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def quick_and_few(tests: list[pytest.Item]) -> tuple[bool, int]:
        return not any(test.get_closest_marker("slow") for test in tests), -len(tests)

    items[:] = chain.from_iterable(sorted(files.values(), key=quick_and_few))


def require(condition: object, reason: str) -> None:
    """Skip when a condition is not met; fail instead when NFPHASING_REQUIRE_ALL is set."""
    if condition:
        return
    if os.environ.get("NFPHASING_REQUIRE_ALL"):
        pytest.fail(f"NFPHASING_REQUIRE_ALL is set and this would have been skipped: {reason}")
    pytest.skip(reason)


@pytest.fixture(name="require")
def require_fixture():
    """`require(condition, reason)` for tests that need a service, a file or a package."""
    return require


@pytest.fixture
def oracle():
    """`oracle("sasmodels")` imports a third-party code or skips with a reason."""

    def load(name: str):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            require(False, f"{name} is not installed ({error}); install the extra 'test'")

    return load


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of measured and third-party data beside the checkout; skip without it."""
    require(SHARED_DATA.is_dir(), f"no measured data at {SHARED_DATA.name} beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def conalbumin():
    """(frame, posterior, info) of a measured curve that sasdata ships: the exact posterior of its p(r)."""
    found = importlib.util.find_spec("sasdata")
    require(found, "sasdata is not installed; install the extra 'test'")
    from nfphasing_bluesky.storage.readers import read_frames
    from tests.indirect_transform import indirect_transform

    path = Path(found.origin).parent / "example_data" / "1d_data" / "conalbumin.txt"
    (frame,) = read_frames(path)
    return (frame, *indirect_transform(frame, d_max_angstrom=90.0))
