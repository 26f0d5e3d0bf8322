"""What the doctor says about a worker and what it needs, with real workers, servers and sockets."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nfphasing_bluesky.core import StreamSettings
from nfphasing_bluesky.storage.catalogs import close_catalog, embedded_catalog
from nfphasing_bluesky.streaming.client import ask, ask_with_keys
from nfphasing_bluesky.streaming.curve import CurveSettings, client_keys, make_keys
from nfphasing_bluesky.streaming.protocol import Verb
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.views import doctor_services as doctor
from tests.storage.tiled_server import KEY, tiled_server
from tests.waiting import free_port, until

TINY = Path(__file__).parents[1] / "streaming" / "tiny.py"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.delenv("TANGO_HOST", raising=False)
    endpoints = {name: f"ipc://{tmp_path}/{name}" for name in ("documents", "results", "control")}
    return WorkerSettings(stream=StreamSettings(data_key="det"), **endpoints)


@pytest.fixture
def keys(tmp_path):
    make_keys(tmp_path / "keys", ("alice",))
    make_keys(tmp_path / "others", ("mallory",))
    return tmp_path


@pytest.fixture
def public(settings, keys):
    """Settings of a worker on all interfaces, with keys."""
    curve = CurveSettings(secret=keys / "keys/worker.key_secret", clients=keys / "keys/clients")
    addresses = {name: f"tcp://*:{free_port()}" for name in ("documents", "results", "control")}
    return WorkerSettings(**{**dict(settings), **addresses, "curve": curve})


@contextlib.contextmanager
def running(settings, answers):
    process = subprocess.Popen([sys.executable, TINY, settings.model_dump_json()])
    try:
        assert until(lambda: process.poll() is not None or _quietly(answers)) and process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def _quietly(answers):
    with contextlib.suppress(ConnectionError):
        return answers()


def found(findings):
    made = list(findings)
    assert all(finding.advice for finding in made if finding.verdict == "bad"), made
    return {finding.subject: finding for finding in made}


def test_a_worker_that_answers_is_all_that_is_said(settings):
    settings = settings.model_copy(update={"model": "tiny-line"})
    with running(settings, lambda: ask(Verb.HEALTH, settings.control).state == "ON") as process:
        said = found(doctor.worker_and_ports(settings))
        assert said.keys() == {"worker"} and said["worker"].verdict == "good"
        assert f"process {process.pid} answers: ON, tiny-line" in said["worker"].found
        with pytest.raises(ConnectionError):
            ask(Verb.LOAD_MODEL, settings.control, 60.0, model="")
        ask(Verb.LOAD_MODEL, settings.control, 60.0, model="nonsense")
        assert until(lambda: found(doctor.worker_and_ports(settings))["worker"].verdict == "doubtful")
        assert "nonsense" in found(doctor.worker_and_ports(settings))["worker"].advice
    assert found(doctor.worker_and_ports(settings)).keys() == {
        "worker", "port of documents", "port of results", "port of control",
    }  # fmt: skip


def test_a_worker_with_keys_is_not_taken_for_somebody_who_is_in_the_way(public, keys):
    free = found(doctor.worker_and_ports(public))
    assert {f.verdict for name, f in free.items() if name.startswith("port")} == {"good"}
    alice, mallory = keys / "keys/alice.key_secret", keys / "others/mallory.key_secret"
    where = public.control.replace("*", "127.0.0.1")
    ours = client_keys(alice, keys / "keys/worker.key")
    with running(public, lambda: ask_with_keys(Verb.HEALTH, where, ours)) as process:
        without = found(doctor.worker_and_ports(public))
        assert without["worker"].verdict == "not checked" and "--secret" in without["worker"].advice
        for name in ("documents", "results", "control"):
            port = without[f"port of {name}"]
            assert port.verdict == "doubtful" and "if not by the worker" in port.advice
        asked = found(doctor.worker_and_ports(public, alice))
        assert asked.keys() == {"worker"} and f"process {process.pid} answers" in asked["worker"].found
        assert asked["worker"].verdict == "good"
        strange = found(doctor.worker_and_ports(public, mallory))
        assert strange["worker"].verdict == "bad" and "CURVE keys" in strange["worker"].found
        assert strange["port of control"].verdict == "doubtful"
        nobody = found(doctor.worker_and_ports(public, keys / "nobody.key_secret"))
        assert nobody["worker"].verdict == "bad" and "nobody.key_secret" in nobody["worker"].found


@pytest.mark.parametrize("host", ["127.0.0.1", "*", "0.0.0.0"])
@pytest.mark.parametrize("name", ["documents", "results", "metrics"])
def test_a_port_that_is_taken_and_then_free(settings, keys, host, name):
    curve = CurveSettings(secret=keys / "keys/worker.key_secret", clients=keys / "keys/clients")
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        port = other.getsockname()[1]
        address = f"127.0.0.1:{port}" if name == "metrics" else f"tcp://{host}:{port}"
        chosen = WorkerSettings(**{**dict(settings), name: address, "curve": curve})
        taken = found(doctor.worker_and_ports(chosen))[f"port of {name}"]
        assert taken.verdict == "bad" and f"set {name} to another" in taken.advice
    assert found(doctor.worker_and_ports(chosen))[f"port of {name}"].verdict == "good"


def test_an_address_that_this_machine_does_not_have(public):
    chosen = public.model_copy(update={"documents": "tcp://192.0.2.1:5577"})
    port = found(doctor.ports(chosen))["port of documents"]
    assert port.verdict == "bad" and "taken" not in port.found and "this machine" in port.advice


def test_an_ipc_socket_that_somebody_has_and_one_that_was_left(settings, tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "results"))
        other.listen()
        assert found(doctor.ports(settings))["port of results"].verdict == "bad"
    assert (tmp_path / "results").exists()
    assert found(doctor.ports(settings))["port of results"].verdict == "good"
    assert (tmp_path / "results").exists()


def test_a_catalog_is_looked_at_and_nothing_is_made(settings, tmp_path):
    folder = tmp_path / "data" / "catalog"
    chosen = settings.model_copy(update={"catalog": str(folder)})
    said = found(doctor.services(chosen, None))
    assert said["tiled"].verdict == "good" and "no catalog yet" in said["tiled"].found
    assert said["files"].verdict == "good" and not (tmp_path / "data").exists()
    close_catalog(embedded_catalog(folder))
    before = sorted(folder.rglob("*"))
    assert "0 derived runs" in doctor.tiled(chosen).found
    assert sorted(folder.rglob("*")) == before


def test_a_catalog_or_files_where_nobody_may_write(settings, tmp_path):
    (tmp_path / "file").write_text("")
    chosen = settings.model_copy(update={"catalog": str(tmp_path / "file" / "catalog")})
    said = found(doctor.services(chosen, None))
    assert said["tiled"].verdict == said["files"].verdict == "bad"
    assert "cannot be written" in said["files"].found


def test_a_tiled_server_that_is_up_and_one_that_is_down(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", KEY)
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)
    with tiled_server(tmp_path) as (uri, _):
        chosen = settings.model_copy(update={"catalog": uri})
        said = found(doctor.services(chosen, None))
        assert said["tiled"].verdict == "good" and "0 derived runs" in said["tiled"].found
        assert said["files"].verdict == "bad" and "server" in said["files"].found
        # nothing was made on it
        assert "0 derived runs" in doctor.tiled(chosen).found
        named = chosen.model_copy(update={"files": tmp_path / "derived"})
        assert doctor.files(named).verdict == "good" and not (tmp_path / "derived").exists()
    said = found(doctor.services(chosen, None))
    assert said["tiled"].verdict == "bad" and uri in said["tiled"].found and KEY not in str(said)


def test_keys_that_are_not_there_and_that_nobody_may_use(public, keys):
    assert doctor.keys(public.curve).found == "alice may connect"
    (keys / "keys/clients/alice.key").unlink()
    assert doctor.keys(public.curve).verdict == "doubtful"
    os.chmod(keys / "keys/worker.key_secret", 0o644)
    said = found(doctor.services(public, None))
    assert said["keys"].verdict == "bad" and "read by others" in said["keys"].found


def test_a_proxy_that_listens_and_one_that_does_not(settings):
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        assert doctor.proxy(endpoint).verdict == "good"
    away = doctor.proxy(endpoint)
    assert away.verdict == "doubtful" and endpoint in away.found and away.advice
