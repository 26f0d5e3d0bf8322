"""What a week at a beamline does to a device: Init, restarts, neighbours, other models, a dead child."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import tango

from nfphasing_bluesky.clients.registration import register
from nfphasing_bluesky.demo.tango_services import tango_database
from nfphasing_bluesky.streaming.child import is_alive
from nfphasing_bluesky.streaming.client import ask
from nfphasing_bluesky.streaming.protocol import Verb
from tests.services.conftest import running_server


@pytest.fixture
def attached(server, worker, until):
    worker.start()
    process, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    return process, proxy


def sending(worker, items, pause_s=0.005):
    """Send documents from another thread, with a pause after each."""

    def send():
        for item in items:
            worker.send([item])
            time.sleep(pause_s)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_init_while_frames_arrive_loses_the_view_of_a_moment_and_no_frame(
    attached, worker, raw, until, tmp_path
):
    _, proxy = attached
    seen = []
    number = proxy.subscribe_event(
        "frame_id", tango.EventType.CHANGE_EVENT, lambda e: seen.append(None if e.err else e.attr_value.value)
    )
    sender = sending(worker, raw.raw_run(200))
    assert until(lambda: (proxy.frame_id or 0) > 20)
    for _ in range(3):
        proxy.Init()
        assert until(lambda: "offset_inv_cm" in proxy.get_attribute_list())
    sender.join()
    # whoever waited for another would have been sent away by Tango after three seconds
    assert "Tango refused" not in (tmp_path / "server.log").read_text()
    assert until(lambda: proxy.frames_reconstructed == 200), proxy.status()
    # the last of these may have come in an Init
    worker.send(raw.raw_run(3))
    assert until(lambda: proxy.frame_id == 203 and 203 in seen)
    assert proxy.offset_inv_cm == pytest.approx(100, abs=3)
    assert until(lambda: proxy.state() == tango.DevState.ON)
    proxy.unsubscribe_event(number)


def test_a_model_that_is_loaded_while_frames_arrive_serves_the_next_run(attached, worker, raw, until):
    _, proxy = attached
    items = list(raw.raw_run(150))
    sender = sending(worker, items[:130])
    assert until(lambda: (proxy.frame_id or 0) > 10)
    proxy.LoadModel("tiny-image")
    assert until(lambda: "offset_rad" in proxy.get_attribute_list() and proxy.model == "tiny-image")
    # the run goes on with the model that it began with, which says nothing of the new one's parameters
    sender.join()
    worker.send(items[130:])
    assert until(lambda: proxy.seq_num == 150)
    assert proxy.read_attribute("offset_rad").quality == tango.AttrQuality.ATTR_INVALID
    assert proxy.read_attribute("density_mean").quality == tango.AttrQuality.ATTR_INVALID
    worker.send(raw.raw_run(2))
    assert until(lambda: proxy.frames_reconstructed == 152)
    assert until(lambda: proxy.read_attribute("offset_rad").quality == tango.AttrQuality.ATTR_VALID)
    assert proxy.density_mean.shape == (6, 8) and proxy.frames_failed == proxy.frames_dropped == 0


def test_devices_of_two_servers_show_the_same_worker(attached, worker, raw, until, tango_host, tmp_path):
    _, first = attached
    endpoints = {
        n: getattr(worker.settings, n.partition("_")[0]) for n in ("results_endpoint", "control_endpoint")
    }
    for name in ("twin", "brother"):
        register(f"test/{name}/1", "NfPhasing/two", endpoints, tango_host)
    with (tmp_path / "two.log").open("w") as log:
        other = subprocess.Popen([sys.executable, "-m", "tango_device.server", "two"], stdout=log, stderr=log)
    try:
        proxies = [tango.DeviceProxy(f"tango://{tango_host}/test/{name}/1") for name in ("twin", "brother")]
        for proxy in proxies:
            assert until(lambda proxy=proxy: _state(proxy) == tango.DevState.ON)
        worker.send(raw.raw_run(30))
        for proxy in (first, *proxies):
            assert until(lambda proxy=proxy: proxy.frame_id == 30)
            assert proxy.offset_inv_cm == first.offset_inv_cm
        other.kill()
        other.wait()
        worker.send(raw.raw_run(3))
        assert until(lambda: first.frame_id == 33)
    finally:
        other.kill()


def _state(proxy):
    try:
        return proxy.state()
    except tango.DevFailed:
        return None


def test_a_database_that_goes_takes_no_running_device_with_it(worker, raw, until, tmp_path, monkeypatch):
    """Who is connected already goes on reading, hearing of events and giving orders."""
    worker.start()
    (tmp_path / "db").mkdir()
    with contextlib.ExitStack() as database, contextlib.ExitStack() as device:
        host = database.enter_context(tango_database(tmp_path / "db"))
        monkeypatch.setenv("TANGO_HOST", host)
        _, proxy = device.enter_context(running_server(host, worker, tmp_path))
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        seen = []
        number = proxy.subscribe_event(
            "frame_id",
            tango.EventType.CHANGE_EVENT,
            lambda e: seen.append(None if e.err else e.attr_value.value),
        )
        database.close()
        with pytest.raises(tango.DevFailed):
            tango.Database(*host.split(":"))
        worker.send(raw.raw_run(40))
        assert until(lambda: 40 in seen), seen
        assert until(lambda: proxy.frames_reconstructed == 40), proxy.status()
        assert proxy.offset_inv_cm == pytest.approx(100, abs=3)
        proxy.Stop()
        assert until(lambda: proxy.state() == tango.DevState.STANDBY), proxy.status()
        proxy.Start()
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        proxy.unsubscribe_event(number)


def test_what_was_set_is_there_after_a_restart(server, until):
    process, proxy = server()
    assert proxy.image_rate_hz == 2.0
    proxy.image_rate_hz = 7.5
    proxy.Init()
    assert proxy.image_rate_hz == 7.5
    process.kill()
    process.wait()
    _, proxy = server()
    assert until(lambda: proxy.image_rate_hz == 7.5)
    proxy.image_rate_hz = 2.0
    with pytest.raises(tango.DevFailed):
        proxy.image_rate_hz = -1.0


def test_a_child_that_is_killed_comes_back(server, worker, until):
    _, proxy = server(worker="child")
    assert until(lambda: proxy.state() == tango.DevState.STANDBY), proxy.status()
    assert "LoadModel" in proxy.status()
    first = ask(Verb.HEALTH, worker.settings.control, timeout_s=60.0).pid
    os.kill(first, signal.SIGKILL)
    assert until(lambda: proxy.state() == tango.DevState.FAULT), proxy.status()
    assert until(lambda: "restarted" in proxy.status()), proxy.status()
    assert until(lambda: proxy.state() == tango.DevState.STANDBY), proxy.status()
    second = ask(Verb.HEALTH, worker.settings.control, timeout_s=60.0).pid
    assert second != first and is_alive(second)
    proxy.Init()
    assert until(lambda: proxy.state() == tango.DevState.STANDBY), proxy.status()
    assert not is_alive(second)


def test_a_child_beside_another_worker_is_named(server, worker, until):
    worker.start()
    assert until(lambda: _answers(worker))
    _, proxy = server(worker="child")
    assert until(lambda: proxy.state() == tango.DevState.ALARM), proxy.status()
    assert f"Another worker (process {worker.process.pid})" in proxy.status()


def _answers(worker):
    try:
        return ask(Verb.HEALTH, worker.settings.control)
    except Exception:
        return None
