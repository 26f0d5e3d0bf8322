"""What a device tells and does while nothing is killed: one server and one worker for all of these."""

from pathlib import Path

import pytest
import tango

from nfphasing_bluesky.clients.properties import DEFAULTS
from tests.services.conftest import WorkerProcess, running_server

TEXT = {
    "verdict",
    "density_unit",
    "density_quantity",
    "axis_unit",
    "reason",
    "raw_uid",
    "source_state",
    "model",
    "model_sha256",
    "State",
    "Status",
}


@pytest.fixture(scope="module")
def shared(tango_host, tmp_path_factory, until):
    """(process, proxy, worker) of a server whose worker has the straight-line model, for several tests."""
    folder = tmp_path_factory.mktemp("shared")
    worker = WorkerProcess({n: f"ipc://{folder}/{n}" for n in ("documents", "results", "control")}).start()
    try:
        with running_server(tango_host, worker, folder) as (process, proxy):
            assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
            yield process, proxy, worker
    finally:
        worker.close()


COUNTERS = [f"frames_{what}" for what in ("received", "reconstructed", "dropped", "failed")]


def counted(proxy):
    return [getattr(proxy, name) for name in COUNTERS]


def test_every_attribute_command_and_property_describes_itself(shared):
    _, proxy, _ = shared
    infos = {info.name: info for info in proxy.attribute_list_query()}
    assert {"density_mean", "density_std", "axis", "offset_inv_cm", "offset_inv_cm_std"} <= set(infos)
    for name, info in infos.items():
        if name in ("State", "Status"):
            continue
        assert info.description not in ("", "No description"), name
        assert info.label and info.label != name, name
        assert info.format, name
        assert bool(info.unit) is (name not in TEXT), name
    assert infos["density_mean"].max_dim_x == 16 and infos["density_mean"].unit == "1/cm"
    commands = {c.cmd_name: c for c in proxy.command_list_query()}
    assert {"Start", "Stop", "LoadModel", "Reset"} <= set(commands)
    for name in ("Start", "Stop", "LoadModel", "Reset"):
        assert commands[name].out_type_desc not in ("", "Uninitialised"), name
    assert commands["LoadModel"].in_type_desc not in ("", "Uninitialised")
    listed = proxy.get_device_db().get_device_property_list(proxy.dev_name(), "*")
    assert set(DEFAULTS) <= set(listed.value_string)


def test_the_server_process_holds_no_torch(shared):
    process, _, _ = shared
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "tango" in maps and "torch" not in maps


def test_the_counters_add_up(shared, raw, until):
    _, proxy, worker = shared
    worker.send(raw.raw_run(20, poison={5: lambda v: -v}))
    assert until(lambda: counted(proxy) == [20, 19, 0, 1])
    assert proxy.Reset() in ("ON", "RUNNING")  # the run may still be open
    assert until(lambda: counted(proxy) == [0, 0, 0, 0])


def test_stop_and_start(shared, raw, until):
    _, proxy, worker = shared
    proxy.Reset()
    assert until(lambda: counted(proxy) == [0, 0, 0, 0] and proxy.state() == tango.DevState.ON)
    assert proxy.Stop().startswith("STANDBY")
    assert until(lambda: proxy.state() == tango.DevState.STANDBY) and "Start" in proxy.status()
    worker.send(raw.raw_run(3))
    assert until(lambda: proxy.frames_dropped == 3)
    assert proxy.Start().startswith("ON")
    assert until(lambda: proxy.state() == tango.DevState.ON)
