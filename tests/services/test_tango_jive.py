"""A client that does what the panels of Jive do: nothing is bare, nothing it presses breaks the device."""

import pytest
import tango

from nfphasing_bluesky.clients.properties import DEFAULTS

OURS = ("Start", "Stop", "LoadModel", "Reset")
BARE = ("", "No description", "Uninitialised", "none", "None", "Not specified")


@pytest.fixture(scope="module")
def panels(tango_host, tmp_path_factory, until):
    """A device whose worker has a model of images, with one frame reconstructed."""
    from tests.services.conftest import WorkerProcess, running_server

    folder = tmp_path_factory.mktemp("jive")
    worker = WorkerProcess(
        {n: f"ipc://{folder}/{n}" for n in ("documents", "results", "control")}, "tiny-image"
    )
    worker.start()
    with running_server(tango_host, worker, folder) as (_, proxy):
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        yield proxy
    worker.close()


def test_every_attribute_is_described(panels):
    infos = panels.attribute_list_query_ex()
    names = {info.name for info in infos}
    assert {
        "State",
        "Status",
        "density_mean",
        "density_mean_encoded",
        "measured",
        "frame_id",
        "image_rate_hz",
    } <= names
    numbers = (tango.DevDouble, tango.DevLong64, tango.DevLong)
    for info in infos:
        assert info.description not in BARE and info.description.endswith("."), info.name
        assert info.label not in BARE, info.name
        if info.name in ("State", "Status"):
            continue  # Tango's own, whose labels are their names and whose format is nobody's
        assert info.label != info.name and info.format not in BARE, info.name
        assert info.unit not in BARE or info.data_type not in numbers, info.name


def test_every_command_is_described(panels):
    commands = {c.cmd_name: c for c in panels.command_list_query()}
    for name in OURS:
        command = commands[name]
        assert command.out_type_desc not in BARE, name
        assert command.in_type_desc not in BARE, name


def test_every_property_is_described_and_in_the_database(panels):
    wizard = list(tango.DeviceProxy(panels.adm_name()).QueryWizardDevProperty("NfPhasing"))
    rows = dict(zip(wizard[::3], wizard[1::3], strict=True))
    assert set(DEFAULTS) <= set(rows)
    assert all(rows[name] not in BARE for name in DEFAULTS)
    assert set(DEFAULTS) <= set(panels.get_property_list("*"))
    classes = panels.get_device_db().get_class_property("NfPhasing", ["Description", "ProjectTitle"])
    assert all(list(classes[name]) for name in ("Description", "ProjectTitle"))


def test_the_admin_device_knows_it(panels):
    admin = tango.DeviceProxy(panels.adm_name())
    assert f"NfPhasing::{panels.dev_name()}" in list(admin.QueryDevice())
    assert "NfPhasing" in list(admin.QueryClass())
    assert admin.state() == tango.DevState.ON
    # without a subscriber too, or the first attribute of a model ends a server of a machine just booted
    assert any(word.startswith("Event: tcp://") for word in admin.ZmqEventSubscriptionChange(["info"])[1])
    info = panels.info()
    assert info.dev_class == "NfPhasing" and "nfphasing-bluesky" in info.version_info


def test_polling_history_black_box_and_logging_work(panels, until):
    panels.poll_attribute("frames_received", 100)
    assert any("frames_received" in line for line in panels.polling_status())
    history = until(lambda: _history(panels))
    assert history[-1].value == 0 and not history[-1].has_failed
    panels.stop_poll_attribute("frames_received")
    assert panels.black_box(5)
    level = panels.get_logging_level()
    panels.set_logging_level(5)
    assert panels.get_logging_level() == 5
    panels.set_logging_level(level)
    panels.remove_logging_target("console::cout")


def _history(proxy):
    try:
        return proxy.attribute_history("frames_received", 2)
    except tango.DevFailed:
        return None


def test_a_configuration_that_is_written_is_kept_over_init(panels, until):
    # of the class, and of the model, whose attributes go and come back
    for name in ("reduced_chi2", "offset_rad"):
        config = panels.get_attribute_config(name)
        config.label = f"{name} of our beamline"
        panels.set_attribute_config(config)
    panels.Init()
    assert until(lambda: panels.state() == tango.DevState.ON)
    assert panels.get_attribute_config("reduced_chi2").label == "reduced_chi2 of our beamline"
    assert panels.get_attribute_config("offset_rad").label == "offset_rad of our beamline"
    # the database is everybody's
    for name in ("reduced_chi2", "offset_rad"):
        panels.get_device_db().delete_device_attribute_property(panels.dev_name(), {name: ["label"]})
