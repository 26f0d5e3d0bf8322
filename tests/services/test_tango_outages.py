"""The server goes while somebody listens, and the database while somebody writes: both come back."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tango

from tests.services.conftest import DATABASE_SCRIPT, REAL_DATABASE, running_server


class Heard:
    """Change events of one attribute."""

    def __init__(self, proxy, name):
        self.values, self.errors = [], []
        self._proxy = proxy
        self._number = proxy.subscribe_event(name, tango.EventType.CHANGE_EVENT, self._hear)

    def _hear(self, event):
        if event.err:
            self.errors.append(event.errors[0].reason)
        elif event.attr_value.value is not None:
            self.values.append(event.attr_value.value)

    def close(self):
        self._proxy.unsubscribe_event(self._number)


def test_a_subscriber_hears_again_after_the_server_was_killed(server, worker, raw, until):
    worker.start()
    process, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    # of the class, of the model, and the state
    heard = {name: Heard(proxy, name) for name in ("frame_id", "offset_inv_cm", "density_mean", "State")}
    worker.send(raw.raw_run(2))
    assert until(lambda: 2 in heard["frame_id"].values and heard["offset_inv_cm"].values)
    process.kill()
    process.wait()
    assert until(lambda: heard["frame_id"].errors)
    before = {name: len(one.values) for name, one in heard.items()}
    process, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    sent = 2

    def hears(name):
        nonlocal sent
        worker.send(raw.raw_run(1))
        sent += 1
        return until(lambda: len(heard[name].values) > before[name], 2)

    for name in heard:
        assert until(lambda name=name: hears(name)), (name, heard[name].errors)
    worker.send(raw.raw_run(3))
    assert until(lambda: sent + 3 in heard["frame_id"].values)
    for one in heard.values():
        one.close()


@pytest.fixture
def databaseds(require, tmp_path_factory, monkeypatch):
    """A Tango database of this test alone; gives its TANGO_HOST, and what ends and starts DataBaseds."""
    require(REAL_DATABASE, "Debian's tango-db is not installed")
    folder = tmp_path_factory.mktemp("own-db")
    up = subprocess.run([DATABASE_SCRIPT, "up", folder], capture_output=True, text=True)
    assert up.returncode == 0, up.stderr
    try:
        host = up.stdout.strip().removeprefix("TANGO_HOST=")
        monkeypatch.setenv("TANGO_HOST", host)
        yield host, DataBaseds(folder)
    finally:
        subprocess.run([DATABASE_SCRIPT, "down", folder], check=True)


class DataBaseds:
    """The database server, which can be ended and started at the same address."""

    def __init__(self, folder):
        self._pid_file = folder / "databaseds.pid"
        pid = self._pid_file.read_text().strip()
        self._command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")[:-1]
        self._environment = dict(pair.split("=", 1) for pair in pairs)

    def end(self):
        pid = int(self._pid_file.read_text())
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            time.sleep(0.02)

    def start(self):
        process = subprocess.Popen(self._command, env=self._environment, stdout=subprocess.DEVNULL)
        self._pid_file.write_text(str(process.pid))
        return process


def test_a_database_that_is_away_in_a_write_and_an_init_and_comes_back(
    databaseds, worker, raw, until, tmp_path
):
    host, database = databaseds
    worker.start()
    with running_server(host, worker, tmp_path, model_name="tiny-line") as (process, proxy):
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        database.end()
        # what cannot be kept is an error for who wrote it, and in force
        with pytest.raises(tango.DevFailed, match="database"):
            proxy.image_rate_hz = 7.5
        assert proxy.image_rate_hz == 7.5
        worker.send(raw.raw_run(3))
        assert until(lambda: proxy.frame_id == 3 and proxy.offset_inv_cm > 90)
        # the properties stay as they were; the attributes of the model wait
        proxy.Init()
        assert until(lambda: proxy.state() == tango.DevState.ALARM), proxy.status()
        assert "Is the Tango database up? Start it" in proxy.status()
        worker.send(raw.raw_run(3))
        assert until(lambda: proxy.frame_id == 6)
        started = database.start()
        try:
            assert until(lambda: "offset_inv_cm" in proxy.get_attribute_list()), proxy.status()
            assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
            assert until(lambda: proxy.density_mean is not None or worker.send(raw.raw_run(1)))
            proxy.image_rate_hz = 8.5
            proxy.Init()
            assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
            process.kill()
            process.wait()
            with running_server(host, worker, tmp_path) as (_, again):
                assert again.image_rate_hz == 8.5
        finally:
            database.end()
            started.wait()


def test_a_model_that_is_loaded_while_the_database_is_away_gets_its_attributes_later(
    databaseds, worker, raw, until, tmp_path
):
    host, database = databaseds
    worker.start()
    with running_server(host, worker, tmp_path) as (_, proxy):
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        database.end()
        proxy.LoadModel("tiny-image")
        assert until(lambda: proxy.state() == tango.DevState.ALARM), proxy.status()
        # back to the one whose attributes were there, and to the other again
        for model in ("tiny-line", "tiny-image"):
            proxy.LoadModel(model)
            assert until(lambda model=model: proxy.model == model), proxy.status()
        started = database.start()
        try:
            assert until(lambda: "offset_rad" in proxy.get_attribute_list()), proxy.status()
            assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
            assert "offset_inv_cm" not in proxy.get_attribute_list()
            worker.send(raw.raw_run(2))
            assert until(lambda: proxy.density_mean is not None and proxy.density_mean.shape == (6, 8))
        finally:
            database.end()
            started.wait()
