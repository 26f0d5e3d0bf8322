"""Registering in a database, with our own verb and with Tango's tools."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tango

from nfphasing_bluesky.clients.properties import DEFAULTS

NFPHASING = Path(sys.executable).with_name("nfphasing")


@pytest.fixture
def database(tango_host):
    host, _, port = tango_host.rpartition(":")
    return tango.Database(host, int(port))


def nfphasing(*arguments, **environment):
    program = [NFPHASING] if NFPHASING.exists() else [sys.executable, "-m", "nfphasing_bluesky.cli"]
    return subprocess.run(
        [*program, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_the_verb_writes_server_devices_and_properties(database):
    devices = ("--device", "lab/nfphasing/1", "--device", "lab/nfphasing/2")
    chosen = ("--property", "model_name=saxs1d-pr", "--property", "catalog=/data/a=b")
    done = nfphasing("register", "--server", "NfPhasing/verb", *devices, *chosen)
    assert done.returncode == 0, done.stderr
    assert "NfPhasing verb" in done.stderr
    assert list(database.get_device_class_list("NfPhasing/verb").value_string)[::2] == [
        "dserver/NfPhasing/verb",
        "lab/nfphasing/1",
        "lab/nfphasing/2",
    ]
    stored = database.get_device_property("lab/nfphasing/2", list(DEFAULTS))
    assert list(stored["model_name"]) == ["saxs1d-pr"] and list(stored["catalog"]) == ["/data/a=b"]
    assert list(stored["worker"]) == ["attach"]


@pytest.mark.parametrize(
    "arguments, what",
    [
        (("--device", "lab/nfphasing/1", "--property", "modle=x"), "no properties"),
        (("--device", "nfphasing"), "domain/family/member"),
        (
            ("--device", "lab/nfphasing/1", "--property", "catalog=https://tiled.example?api_key=s3cret"),
            "TILED_API_KEY",
        ),
    ],
)
def test_wrong_words_end_it_with_what_is_expected(tango_host, arguments, what):
    done = nfphasing("register", "--server", "NfPhasing/verb", *arguments)
    assert done.returncode == 1 and what in done.stderr and "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr


def test_a_database_that_is_not_there_is_named():
    done = nfphasing("register", "--server", "NfPhasing/1", "--device", "a/b/c", TANGO_HOST="127.0.0.1:1")
    assert done.returncode == 1 and "127.0.0.1:1" in done.stderr and "tango-db.sh" in done.stderr


def test_servers_that_tango_admin_registered_run(database, require, server, until):
    from tests.services.conftest import REAL_DATABASE

    require(REAL_DATABASE, "Debian's libtango-tools are not installed")
    for instance in ("one", "two"):
        name = f"admin/nfphasing/{instance}"
        subprocess.run(
            ["tango_admin", "--add-server", f"NfPhasing/{instance}", "NfPhasing", name], check=True
        )
        assert name in list(database.get_device_class_list(f"NfPhasing/{instance}").value_string)
    process = subprocess.Popen(
        [sys.executable, "-m", "tango_device.server", "one"], stdout=subprocess.DEVNULL
    )
    try:
        proxy = tango.DeviceProxy("admin/nfphasing/one")
        assert until(lambda: _state(proxy) == tango.DevState.INIT)  # no properties: the defaults hold
        assert until(lambda: "nfphasing serve" in proxy.status())
    finally:
        process.kill()
        process.wait()


def _state(proxy):
    try:
        return proxy.state()
    except tango.DevFailed:
        return None
