"""A Tango server whose worker is on another machine, and asks for keys."""

import pytest
import tango
import zmq

from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.curve import CurveSettings, client_keys, make_keys
from nfphasing_bluesky.streaming.endpoints import connect
from tests.waiting import free_port


@pytest.fixture
def keys(tmp_path):
    make_keys(tmp_path / "keys", ("tango",))
    make_keys(tmp_path / "others", ("mallory",))
    return tmp_path


@pytest.fixture
def public(worker, keys):
    """The worker on all interfaces; addresses to reach it at."""
    ports = {name: free_port() for name in ("documents", "results", "control")}
    curve = CurveSettings(secret=keys / "keys/worker.key_secret", clients=keys / "keys/clients")
    addresses = {name: f"tcp://0.0.0.0:{port}" for name, port in ports.items()}
    worker.settings = worker.settings.model_copy(update={**addresses, "curve": curve})
    worker.start()
    return {name: f"tcp://127.0.0.1:{port}" for name, port in ports.items()}


def test_frames_and_orders_go_through_curve(public, keys, server, raw, until):
    named = {
        "curve_secret": str(keys / "keys/tango.key_secret"),
        "curve_server": str(keys / "keys/worker.key"),
    }
    _, proxy = server(**named, **{f"{name}_endpoint": address for name, address in public.items()})
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    ours = client_keys(keys / "keys/tango.key_secret", keys / "keys/worker.key")
    context = zmq.Context()
    push = connect(context, zmq.PUSH, public["documents"], keys=ours)
    try:
        for item in raw.raw_run(2):
            push.send(wire.pack_document(*item))
        assert until(lambda: proxy.frame_id == 2), proxy.status()
    finally:
        context.destroy(linger=0)
    # the run may still be open in the worker, which its answer to Start then says
    assert proxy.Stop() == "STANDBY"
    assert until(lambda: proxy.state() == tango.DevState.STANDBY), proxy.status()
    assert proxy.Start() in ("ON", "RUNNING")
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()

    database = proxy.get_device_db()
    database.put_device_property(
        proxy.dev_name(), {"curve_secret": [str(keys / "others/mallory.key_secret")]}
    )
    proxy.Init()
    assert until(lambda: "No worker heard" in proxy.status()), proxy.status()
    database.put_device_property(proxy.dev_name(), {"curve_secret": [str(keys / "nobody.key_secret")]})
    proxy.Init()
    assert proxy.state() == tango.DevState.FAULT and "no CURVE key" in proxy.status()
    # without keys an address of another machine is refused before anything is sent there
    elsewhere = {"curve_secret": [""], "curve_server": [""], "control_endpoint": ["tcp://192.0.2.1:5579"]}
    database.put_device_property(proxy.dev_name(), elsewhere)
    proxy.Init()
    assert proxy.state() == tango.DevState.FAULT and "not on this machine" in proxy.status()
