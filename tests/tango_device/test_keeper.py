import sys

import pytest

from nfphasing_bluesky.streaming.child import Child
from nfphasing_bluesky.streaming.settings import WorkerSettings
from tango_device import keeper as module
from tango_device.keeper import FIRST_PAUSE_S, HUNG_S, LONGEST_PAUSE_S, SLOW_START_S, STEADY_S, Keeper


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def keeper(tmp_path):
    """A keeper of processes that end at once, and what it started."""
    settings = WorkerSettings(**{n: f"ipc://{tmp_path}/{n}" for n in ("documents", "results", "control")})
    started = []

    def start(of):
        started.append(Child(of, command=(sys.executable, "-c", "")))
        return started[-1]

    made = Keeper(settings, start)
    yield made, started
    made.close()


def fall(keeper, started):
    """Look until the child is gone."""
    started[-1]._process.wait(10)
    keeper.look()


def test_the_pauses_double_up_to_the_longest(keeper, clock):
    keeper, started = keeper
    keeper.look()
    pauses = []
    for _ in range(8):
        fall(keeper, started)
        count, began = len(started), clock[0]
        while len(started) == count:
            clock[0] += FIRST_PAUSE_S / 2
            keeper.look()
        pauses.append(clock[0] - began)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60] and LONGEST_PAUSE_S == 60
    assert "falls in a row" in keeper.told and "port" in keeper.told


def test_one_that_lived_long_is_started_again_at_once(keeper, clock):
    keeper, started = keeper
    keeper.look()
    fall(keeper, started)
    clock[0] += FIRST_PAUSE_S
    keeper.look()
    clock[0] += STEADY_S + 1
    fall(keeper, started)
    clock[0] += FIRST_PAUSE_S
    keeper.look()
    assert len(started) == 3 and "falls" not in keeper.told


@pytest.fixture
def sleeper(tmp_path):
    """A keeper of processes that live and say nothing, and what it started."""
    settings = WorkerSettings(**{n: f"ipc://{tmp_path}/{n}" for n in ("documents", "results", "control")})
    started = []

    def start(of):
        started.append(Child(of, command=(sys.executable, "-c", "import time; time.sleep(600)")))
        return started[-1]

    made = Keeper(settings, start)
    yield made, started
    for child in started:
        child.kill()


def test_one_that_is_silent_for_too_long_is_ended_and_started_again(sleeper, clock):
    keeper, started = sleeper
    keeper.look()
    pid = started[0].pid
    clock[0] += HUNG_S + 1
    keeper.look(pid, HUNG_S)
    assert started[0].running
    # it never spoke: it may be starting
    keeper.look(None)
    keeper.look(pid + 1, HUNG_S + 1)
    assert started[0].running
    keeper.look(pid, HUNG_S + 1)
    assert not started[0].running and len(started) == 1 and "restarted" in keeper.told
    clock[0] += FIRST_PAUSE_S
    # what the one before said last is long ago: the new one has its own time
    keeper.look(pid, 2 * HUNG_S)
    assert len(started) == 2
    clock[0] += HUNG_S + 1
    keeper.look(pid, 3 * HUNG_S)
    assert started[1].running
    clock[0] += SLOW_START_S
    keeper.look(pid, 20 * HUNG_S)
    assert not started[1].running


def test_the_next_child_has_the_model_that_the_last_one_loaded(sleeper, clock):
    keeper, started = sleeper
    keeper.look()
    keeper.keep_model(started[0].pid + 1, "of somebody else")
    keeper.keep_model(started[0].pid, "tiny-image")
    started[0].kill()
    keeper.look()
    clock[0] += FIRST_PAUSE_S
    keeper.look()
    assert started[1].settings.model == "tiny-image"


def test_it_knows_its_own_and_starts_none_after_close(keeper):
    keeper, started = keeper
    assert keeper.owns(1)
    keeper.look()
    assert keeper.owns(started[0].pid) and not keeper.owns(1)
    keeper.close()
    keeper.look()
    assert len(started) == 1
