import queue
import time

import numpy as np
import pytest
import tango

from nfphasing_bluesky.clients.registration import register


@pytest.fixture
def attached(server, worker, until):
    """A server whose worker is up with the straight-line model."""
    worker.start()
    process, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    return process, proxy


@pytest.fixture
def database(tango_host):
    host, _, port = tango_host.rpartition(":")
    return tango.Database(host, int(port))


class Events:
    """Change events of attributes, as they come."""

    def __init__(self, proxy, *names):
        self._queue, self._proxy = queue.SimpleQueue(), proxy
        self._ids = [
            proxy.subscribe_event(name, tango.EventType.CHANGE_EVENT, self._queue.put) for name in names
        ]

    def next(self, name, accept, timeout_s=240.0):
        """Wait for an event of this attribute whose value is accepted; those of others stay."""
        deadline = time.monotonic() + timeout_s
        others = []
        try:
            while time.monotonic() < deadline:
                try:
                    event = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
                except queue.Empty:
                    break
                if event.attr_name.split("/")[-1].split("#")[0] != name.lower():
                    others.append(event)
                elif not event.err and accept(event.attr_value.value):
                    return event.attr_value
        finally:
            for event in others:
                self._queue.put(event)
        raise AssertionError(f"no such event of {name} within {timeout_s} s")

    def close(self):
        for number in self._ids:
            self._proxy.unsubscribe_event(number)


def test_frames_arrive_as_events_with_the_quality_of_their_verdict(attached, worker, raw):
    _, proxy = attached
    events = Events(proxy, "frame_id", "verdict", "offset_inv_cm", "density_mean", "State")
    items = list(raw.raw_run(6, poison={3: lambda v: v + 8 * (np.arange(v.size) % 2), 4: lambda v: -v}))
    worker.send(items[:4])
    value = events.next("offset_inv_cm", lambda v: v is not None)
    assert value.value == pytest.approx(100, abs=3) and value.quality == tango.AttrQuality.ATTR_VALID
    density = events.next("density_mean", lambda v: v is not None)
    assert density.value.shape == (16,) and density.value[0] == pytest.approx(100, abs=3)
    worker.send(items[4:5])
    assert events.next("verdict", lambda v: v == "ALARM")
    assert events.next("State", lambda v: v == tango.DevState.ALARM)
    assert proxy.read_attribute("reduced_chi2").quality == tango.AttrQuality.ATTR_ALARM
    assert "must not be trusted" in proxy.status() and "chi-squared" in proxy.reason
    worker.send(items[5:6])
    assert events.next("verdict", lambda v: v == "FAILED")
    assert proxy.read_attribute("offset_inv_cm").quality == tango.AttrQuality.ATTR_INVALID
    worker.send(items[6:])
    assert events.next("frame_id", lambda v: v == 6)
    assert events.next("State", lambda v: v == tango.DevState.ON)
    assert proxy.raw_uid == items[0][1]["uid"] and proxy.seq_num == 6 and proxy.latency > 0
    assert proxy.model == "tiny-line" and len(proxy.axis) == 16
    events.close()


def test_load_model_changes_the_attributes_to_those_of_the_model(attached, worker, raw, until):
    _, proxy = attached
    events = Events(proxy, "State")
    assert proxy.LoadModel("tiny-image").startswith("LOADING")
    # the attributes come one after the other, those of the pattern last
    assert until(lambda: proxy.model == "tiny-image" and "predicted_encoded" in proxy.get_attribute_list())
    infos = {info.name: info for info in proxy.attribute_list_query()}
    assert "offset_inv_cm" not in infos and {"axis_y", "axis_x"} <= set(infos) and "axis" not in infos
    assert infos["density_mean"].data_format == tango.AttrDataFormat.IMAGE
    worker.send(raw.raw_run(1))
    assert until(lambda: proxy.frame_id == 1)
    assert proxy.density_mean.shape == (6, 8) and np.isfinite(proxy.density_mean).all()
    events.close()


def test_a_bad_model_is_an_alarm_that_says_so_and_reset_clears_it(attached, until):
    _, proxy = attached
    proxy.LoadModel("nonsense")
    assert until(lambda: proxy.state() == tango.DevState.ALARM)
    assert "nonsense" in proxy.status() and "tiny-line stays in use" in proxy.status()
    proxy.Reset()
    assert until(lambda: proxy.state() == tango.DevState.ON)


def test_a_killed_worker_is_noticed_and_recovered_from(attached, worker, raw, until):
    process, proxy = attached
    events = Events(proxy, "State")
    worker.kill()
    assert until(lambda: proxy.state() == tango.DevState.FAULT)
    # not by its silence, which takes three seconds
    assert "has died" in proxy.status() and "nfphasing serve" in proxy.status()
    assert events.next("State", lambda v: v == tango.DevState.FAULT)
    with pytest.raises(tango.DevFailed, match="has died"):
        proxy.Start()
    worker.process.wait()
    worker.start()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    worker.send(raw.raw_run(2))
    assert until(lambda: proxy.seq_num == 2)
    assert process.poll() is None
    events.close()


def test_without_a_worker_it_says_what_to_do(server, until):
    _, proxy = server()
    # it looks for one before it says that there is none
    assert until(lambda: "nfphasing serve" in proxy.status()), proxy.status()
    assert proxy.state() == tango.DevState.INIT
    assert proxy.read_attribute("reduced_chi2").quality == tango.AttrQuality.ATTR_INVALID
    with pytest.raises(tango.DevFailed, match="nfphasing serve"):
        proxy.Start()


def test_a_wrong_property_is_a_fault_that_names_it(server):
    _, proxy = server(worker="sometimes")
    assert proxy.state() == tango.DevState.FAULT and "sometimes" in proxy.status()
    _, proxy = None, proxy
    proxy.put_property({"worker": "attach"})
    proxy.Init()
    assert proxy.state() == tango.DevState.INIT


def test_a_public_endpoint_is_refused(server):
    _, proxy = server(results_endpoint="tcp://0.0.0.0:5578")
    assert proxy.state() == tango.DevState.FAULT and "not on this machine" in proxy.status()


def test_register_keeps_what_is_there_and_refuses_unknown_names(tango_host, database):
    register("test/nfphasing/2", "NfPhasing/2", {"model_name": "mine"}, tango_host)
    register("test/nfphasing/2", "NfPhasing/2", tango_host=tango_host)
    stored = database.get_device_property("test/nfphasing/2", ["model_name", "worker"])
    assert list(stored["model_name"]) == ["mine"] and list(stored["worker"]) == ["attach"]
    with pytest.raises(ValueError, match="no properties"):
        register("test/nfphasing/2", properties={"modle": "x"})
