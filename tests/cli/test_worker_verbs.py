"""The verbs about a worker as the real program: keys, serve until a signal, status, replay, report."""

import json
import re
import signal
import subprocess

import numpy as np
import pytest
import zmq
from bluesky_tiled_plugins import TiledWriter

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.storage.catalogs import RAW, close_catalog, embedded_catalog, runs_of
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.client import ask
from nfphasing_bluesky.streaming.endpoints import connect
from nfphasing_bluesky.streaming.protocol import Verb
from tests.cli.conftest import PROGRAM, finish
from tests.streaming.documents import raw_run
from tests.waiting import free_port, until

LINE = r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "


def nfphasing(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def serving(start, tmp_path):
    """Run `nfphasing serve worker.toml` with a shipped model: the process, where to ask, where to push."""
    endpoints = {name: f"ipc://{tmp_path}/{name}" for name in ("documents", "results", "control")}
    lines = [f'{name} = "{endpoint}"' for name, endpoint in endpoints.items()]
    lines += ['model = "saxs1d-particles"', f'catalog = "{tmp_path / "catalog"}"', "drain_s = 120"]
    lines += ["[reconstruction]", "n_samples = 16", "[stream]", 'data_key = "det"']
    (tmp_path / "worker.toml").write_text("\n".join(lines))
    process = start("serve", tmp_path / "worker.toml")
    context = zmq.Context()
    push = connect(context, zmq.PUSH, endpoints["documents"])
    assert until(lambda: process.poll() is not None or _state(endpoints["control"]) == "ON")
    yield process, endpoints["control"], push
    context.destroy(linger=0)


def _state(endpoint):
    try:
        return ask(Verb.HEALTH, endpoint).state
    except TransportError:
        return None


def store_raw(client, items):
    """Store a raw run, as a beamline's own writer does."""
    writer = TiledWriter(runs_of(client, RAW))
    for name, doc in items:
        data = {k: np.asarray(v).tolist() for k, v in doc.get("data", {}).items()}
        writer(name, {**doc, "data": data} if name == "event" else dict(doc))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_a_scan_under_load_to_the_page_to_keep(serving, tmp_path):
    process, control, push = serving
    client = embedded_catalog(tmp_path / "catalog")
    try:
        items = list(raw_run(60, poison={5: lambda v: np.full_like(v, np.nan)}))
        uid = items[0][1]["uid"]
        store_raw(client, items)
        for item in items[:40]:
            push.send(wire.pack_document(*item))
        assert until(lambda: ask(Verb.HEALTH, control, 60.0).counts.received > 10)

        asked = nfphasing("status", "--endpoint", control, "--json")
        assert asked.returncode == 0, asked.stderr
        said = json.loads(asked.stdout)
        assert said["pid"] == process.pid and said["model"] == "saxs1d-particles" and said["received"] > 10
        in_words = nfphasing("status", "--endpoint", control)
        assert re.search(r"(?m)^model +saxs1d-particles$", in_words.stdout)

        # it ends with what has arrived, and closes the run as one that was cut
        assert until(lambda: ask(Verb.HEALTH, control, 60.0).counts.received == 38)
        process.send_signal(signal.SIGTERM)
        done = finish(process)
        assert done.status == 0, done.err
        assert re.search(LINE + r"INFO tiled\.", done.err), done.err
        (run,) = reconstructions_of(client, uid)
        ledger = {
            n: int(run["ledger"].read()[n][0]) for n in ("received", "reconstructed", "dropped", "failed")
        }
        assert ledger["received"] == 38 == sum(ledger.values()) - 38 and ledger["failed"] == 1
        assert run.metadata["stop"]["exit_status"] != "success"
        away = nfphasing("status", "--endpoint", control)
        assert away.returncode == 1 and "nfphasing serve" in away.stderr and "Traceback" not in away.stderr
    finally:
        close_catalog(client)

    replay = ("replay", uid, "--missing", "--settings", tmp_path / "worker.toml", "--json")
    made = nfphasing(*replay)
    # the frame that is nothing but NaN fails again, and the exit status says so
    assert made.returncode == 1, made.stderr
    said = json.loads(made.stdout)
    assert (said["frames"], said["reconstructed"], said["failed"]) == (60, 60 - 38 + ledger["dropped"], 1)
    again = nfphasing(*replay)
    assert json.loads(again.stdout)["reconstructed"] == 0, again.stderr

    page = tmp_path / "report.html"
    written = nfphasing("report", uid[:8], "--catalog", tmp_path / "catalog", "--output", page)
    assert written.returncode == 0 and str(page) in written.stderr, written.stderr
    html = page.read_text()
    assert uid in html and "saxs1d-particles" in html and "data:image/png;base64," in html
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "@media print" in style and "print-color-adjust: exact" in style
    assert not re.search(r"""(?:src|href)=["']?https?:""", html)


def test_keys_that_the_program_made_let_the_program_in(start, tmp_path):
    folder = tmp_path / "keys"
    made = nfphasing("keys", folder, "--client", "alice")
    assert made.returncode == 0 and "alice.key_secret" in made.stderr, made.stderr
    assert nfphasing("keys", folder, "--client", "alice").stderr == ""
    ports = {name: free_port() for name in ("documents", "results", "control")}
    lines = [f'{name} = "tcp://*:{port}"' for name, port in ports.items()]
    # what it prints is what goes into the file
    (tmp_path / "worker.toml").write_text("\n".join([*lines, made.stdout]))
    process = start("serve", tmp_path / "worker.toml")
    control = ("status", "--endpoint", f"tcp://127.0.0.1:{ports['control']}", "--json")
    ours = ("--secret", folder / "alice.key_secret", "--server", folder / "worker.key")

    def asked():
        done = nfphasing(*control, *ours)
        return json.loads(done.stdout) if done.returncode == 0 else process.poll()

    said = until(asked)
    assert isinstance(said, dict) and said["pid"] == process.pid and said["state"] == "STANDBY"
    stranger = nfphasing(*control)
    assert stranger.returncode == 1 and "CURVE keys" in stranger.stderr
    secrets = [
        path.read_text().split('secret-key = "')[1].split('"')[0] for path in folder.glob("*.key_secret")
    ]
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.status == 0, done.err
    turned_away = r"WARNING nfphasing_bluesky\.streaming\.doorman: .*a peer was turned away"
    assert re.search(LINE + turned_away, done.err), done.err
    assert len(secrets) == 2 and not any(secret in done.err + made.stdout for secret in secrets)


def test_a_file_with_a_secret_at_a_wrong_place(tmp_path):
    (tmp_path / "worker.toml").write_text('api_key = "s3cret"\n')
    for verb in (("serve",), ("doctor", "--settings"), ("replay", "uid", "--missing", "--settings")):
        done = nfphasing(*verb, tmp_path / "worker.toml")
        assert done.returncode == 1 and "api_key: there is no such key" in done.stderr
        assert "s3cret" not in done.stderr + done.stdout


def test_log_lines_for_programs(start, tmp_path):
    endpoints = {name: f"ipc://{tmp_path}/{name}" for name in ("documents", "results", "control")}
    settings = {**endpoints, "catalog": str(tmp_path / "catalog"), "log": "json"}
    process = start("serve", json.dumps(settings))
    assert until(lambda: process.poll() is not None or _state(endpoints["control"]) == "STANDBY")
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.status == 0, done.err
    lines = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    said = [line["message"] for line in lines if "ends it" in line["message"]]
    assert said == [
        f"no model yet (`nfphasing status --load MODEL`); documents at {endpoints['documents']}, results at "
        f"{endpoints['results']}, control at {endpoints['control']}; Ctrl-C ends it"
    ]
    assert any(line["level"] == "INFO" and line["logger"].startswith("tiled") for line in lines), done.err
    assert all(line["time"] and line["pid"] == process.pid for line in lines)
    assert not re.search(LINE, done.err)
