"""A device whose worker hangs, comes back with another model than it was told, or is on another machine."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import tango
import zmq

from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.child import is_alive
from nfphasing_bluesky.streaming.client import ask
from nfphasing_bluesky.streaming.protocol import TOPIC_STATUS, Verb


def pid_of(worker):
    return ask(Verb.HEALTH, worker.settings.control, timeout_s=60.0).pid


@pytest.mark.slow
def test_a_child_that_falls_comes_back_with_the_model_that_was_loaded_last(server, worker, until):
    _, proxy = server(worker="child", model_name="saxs1d-particles", n_samples="16")
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    assert proxy.model == "saxs1d-particles"
    proxy.LoadModel("saxs1d-pr")
    assert until(lambda: proxy.model == "saxs1d-pr" and proxy.state() == tango.DevState.ON), proxy.status()
    # one that cannot be loaded changes nothing
    proxy.LoadModel("nonsense")
    assert until(lambda: proxy.state() == tango.DevState.ALARM), proxy.status()
    first = pid_of(worker)
    os.kill(first, signal.SIGKILL)
    assert until(lambda: proxy.state() == tango.DevState.FAULT), proxy.status()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    assert proxy.model == "saxs1d-pr" and pid_of(worker) != first
    # Init goes back to the property
    proxy.Init()
    assert until(lambda: proxy.state() == tango.DevState.ON and proxy.model == "saxs1d-particles")


def test_a_worker_without_a_model_gets_that_of_the_property_each_time_it_starts(server, worker, until):
    worker.settings = worker.settings.model_copy(update={"model": None})
    worker.start()
    _, proxy = server(model_name="tiny-line")
    for _ in range(2):
        assert until(lambda: proxy.state() == tango.DevState.ON and proxy.model == "tiny-line"), (
            proxy.status()
        )
        worker.kill()
        worker.process.wait()
        assert until(lambda: proxy.state() == tango.DevState.FAULT), proxy.status()
        worker.start()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    # who was told to load another one keeps that
    proxy.LoadModel("tiny-image")
    assert until(lambda: proxy.model == "tiny-image" and proxy.state() == tango.DevState.ON), proxy.status()


def test_reset_tries_a_model_again_that_could_not_be_loaded(server, worker, until, tmp_path):
    worker.settings = worker.settings.model_copy(update={"model": None})
    worker.start()
    _, proxy = server(model_name=str(tmp_path / "model"))
    assert until(lambda: proxy.state() == tango.DevState.FAULT), proxy.status()
    assert "Reset to try again" in proxy.status()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "version").write_text("1")
    proxy.Reset()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()


def test_a_worker_that_hangs_is_named_and_one_that_goes_on_is_taken_back(server, worker, raw, until):
    worker.start()
    _, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    worker.process.send_signal(signal.SIGSTOP)
    try:
        assert until(lambda: proxy.state() == tango.DevState.FAULT), proxy.status()
        assert "silent for" in proxy.status() and "start it again: `nfphasing serve`" in proxy.status()
        with pytest.raises(tango.DevFailed, match="silent for"):
            proxy.Start()
    finally:
        worker.process.send_signal(signal.SIGCONT)
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    worker.send(raw.raw_run(3))
    assert until(lambda: proxy.frame_id == 3)


def test_a_child_that_hangs_is_ended_and_started_again(server, worker, until):
    _, proxy = server(worker="child")
    assert until(lambda: proxy.state() == tango.DevState.STANDBY), proxy.status()
    first = pid_of(worker)
    os.kill(first, signal.SIGSTOP)
    assert until(lambda: "silent for" in proxy.status()), proxy.status()
    assert proxy.state() == tango.DevState.FAULT and "ended and started again" in proxy.status()
    assert until(lambda: not is_alive(first))
    assert until(lambda: proxy.state() == tango.DevState.STANDBY), proxy.status()
    assert pid_of(worker) != first


class Forwarding:
    """Hands on what a worker says and is asked, as ssh does for one of another machine."""

    def __init__(self, settings, folder, dead):
        self.results, self.control = (f"ipc://{folder}/forwarded-{name}" for name in ("results", "control"))
        self._dead, self._stop, self._context = dead, threading.Event(), zmq.Context()
        self._heard, self._asked = self._context.socket(zmq.SUB), self._context.socket(zmq.REP)
        self._said, self._asks = self._context.socket(zmq.PUB), self._context.socket(zmq.REQ)
        self._heard.subscribe(b"")
        self._heard.connect(settings.results)
        self._asks.connect(settings.control)
        self._said.bind(self.results)
        self._asked.bind(self.control)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.is_set():
            if self._heard.poll(10):
                topic, payload = self._heard.recv_multipart()
                if topic == TOPIC_STATUS:
                    payload = wire.pack(self._elsewhere(wire.unpack(payload)))
                self._said.send_multipart([topic, payload])
            if self._asked.poll(1):
                self._asks.send(self._asked.recv())
                answer = wire.unpack(self._asks.recv())
                self._asked.send(wire.pack({**answer, "status": self._elsewhere(answer["status"])}))
        self._context.destroy(linger=0)

    def _elsewhere(self, status):
        return {**status, "pid": self._dead, "machine": "another boot pid:[1]"}

    def close(self):
        self._stop.set()
        self._thread.join(60)


def test_a_worker_behind_a_forwarded_port_has_a_pid_that_says_nothing_here(
    server, worker, raw, until, tmp_path
):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    worker.start()
    forwarding = Forwarding(worker.settings, tmp_path, gone.pid)
    try:
        ends = {f"{name}_endpoint": getattr(forwarding, name) for name in ("results", "control")}
        _, proxy = server(**ends)
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        assert proxy.Start() == "ON"
        worker.send(raw.raw_run(3))
        assert until(lambda: proxy.frame_id == 3)
    finally:
        forwarding.close()
    # then its silence tells
    assert until(lambda: proxy.state() == tango.DevState.FAULT), proxy.status()
    assert "silent for" in proxy.status() and "has died" not in proxy.status()
