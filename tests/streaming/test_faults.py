"""Faults of a beamline, with real processes. Few tests, much in each: a process takes seconds to start."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bluesky.callbacks.zmq import Publisher
from bluesky_tiled_plugins import TiledWriter

from nfphasing_bluesky.storage.catalogs import RAW, close_catalog, embedded_catalog, runs_of
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.storage.successors import whole_density_dataset
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.protocol import WorkerState
from nfphasing_bluesky.streaming.replay import replay_missing
from tests.waiting import free_port, until


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_scan_loses_nothing(worker, raw, tiny, tmp_path):
    """Killed and started again: the half run is closed as such, the rest is made up for, once."""
    catalog, items = tmp_path / "catalog", list(raw.raw_run(12))
    uid = items[0][1]["uid"]
    client = embedded_catalog(catalog)
    try:
        writer = TiledWriter(runs_of(client, RAW))
        for name, doc in items:
            data = {k: np.asarray(v).tolist() for k, v in doc.get("data", {}).items()}
            writer(name, {**doc, "data": data} if name == "event" else dict(doc))
        live = worker(catalog=str(catalog), log="json").start()
        live.send(items[:7])
        assert until(lambda: live.status().counts.reconstructed == 5)
        assert until(lambda: list((catalog / "backup").glob("*.jsonl")))
        live.end(signal.SIGKILL)
        assert [run for run in reconstructions_of(client, uid) if run.metadata.get("stop")] == []

        live.start()
        live.send(items[7:])
        assert until(lambda: "its beginning was not received" in live.status().reason)
        assert f"nfphasing replay {uid} --missing" in live.status().reason
        (half,) = until(lambda: [r for r in reconstructions_of(client, uid) if r.metadata.get("stop")])
        stop, ledger = half.metadata["stop"], half["ledger"].read()
        assert stop["exit_status"] == "abort" and "5 frames, the last is 5" in stop["reason"]
        assert [int(ledger[n][0]) for n in ("received", "reconstructed", "failed")] == [5, 5, 0]
        assert np.isfinite(np.asarray(half["density"]["density_mean"].read())).all()
        lines = [json.loads(line) for line in live.log.splitlines() if line.startswith("{")]
        assert any("left open by a killed process" in line["message"] for line in lines)
        assert live.end() == 0

        settings = live.settings
        made = replay_missing(uid, settings, load=tiny.load)
        assert (made.frames, made.missing, made.reconstructed) == (12, 7, 7)
        again = replay_missing(uid, settings, load=tiny.load)
        assert again.derived_uid == "" and again.missing == 0
        together = whole_density_dataset(client, uid)
        assert np.asarray(together["raw_seq_num"]).tolist() == list(range(1, 13))
        assert list((catalog / "backup").iterdir()) == []
    finally:
        close_catalog(client)


def test_two_workers_on_one_source_and_a_taken_port(worker, raw, tiny_command, tmp_path):
    """The second ends with an error that says why; the first goes on, through garbage and pickles too."""
    port = free_port()
    first = worker(documents=f"tcp://127.0.0.1:{port}", metrics=f"127.0.0.1:{free_port()}").start()
    second = worker(documents=f"tcp://127.0.0.1:{port}").start()
    assert second.process.wait(120) == 1
    assert "in use" in second.log and "another worker" in second.log
    for message in (b"garbage", b" event \x80\x04\x95.", b" start " + os.urandom(100)):
        first.push.send(message)
    first.send(raw.raw_run(5))
    assert until(lambda: first.status().counts.reconstructed == 5)
    assert until(lambda: first.state() is WorkerState.ON)
    found = first.status()
    assert found.statistics["messages_refused"] == 3 and found.statistics["latency_p50_s"] > 0
    lines = Path(tmp_path / "worker-1.log").read_text().splitlines()
    refused = [line for line in lines if "a message was refused" in line]
    assert len(refused) == 3 and "it is a pickle, which is refused: set serializer=wire.pack" in refused[1]

    import httpx

    page = httpx.get(f"http://{first.settings.metrics}/metrics").text
    for line in (
        'nfphasing_frames_total{outcome="reconstructed"} 5.0',
        'nfphasing_state{state="ON"} 1.0',
        "nfphasing_messages_refused_total 3.0",
        "nfphasing_latency_seconds_count 5.0",
        "nfphasing_waiting_frames 0.0",
    ):
        assert line in page.splitlines(), page


def test_a_publisher_that_pickles_floods_no_log(worker, raw):
    """A few lines say what to do, the status counts all of it, and the run beside it comes through."""
    live, items = worker().start(), list(raw.raw_run(20))
    live.send(items[:5])
    for _ in range(3000):
        live.push.send(b" event " + pickle.dumps({"data": {"det": 1.0}}))
    live.send(items[5:])
    assert until(lambda: live.status().counts.reconstructed == 20)
    assert live.status().statistics["messages_refused"] == 3000
    refused = [line for line in live.log.splitlines() if "a message was refused" in line]
    assert 5 <= len(refused) < 300 and all("set serializer=wire.pack" in line for line in refused)


def test_json_lines_say_of_which_run_a_failed_frame_is(worker, raw):
    """A model that raises, and a document that breaks its schema."""
    live = worker(log="json").start()
    items = list(raw.raw_run(4, poison={2: lambda values: values * np.nan}))
    live.send(items[:-1])
    live.send([("descriptor", {"run_start": items[0][1]["uid"], "name": "primary"})])
    live.send(items[-1:])
    assert until(lambda: live.status().counts.failed == 1 and live.state() is WorkerState.ON)
    lines = [json.loads(line) for line in live.log.splitlines() if line.startswith("{")]
    for words in ("NaN reached the model", "does not follow its schema"):
        assert {line.get("raw_uid") for line in lines if words in line["message"]} == {items[0][1]["uid"]}


def test_a_proxy_that_is_restarted(worker, raw, tmp_path):
    """The worker hears the new one without being told; what was published in between shows as lost."""
    ports = free_port(), free_port()
    command = [str(Path(sys.executable).with_name("bluesky-0MQ-proxy")), *map(str, ports)]
    proxies = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    listening = worker(proxy=f"tcp://127.0.0.1:{ports[1]}").start()
    publisher = Publisher(f"127.0.0.1:{ports[0]}", serializer=wire.pack)
    try:

        def seen(n):
            """Publish whole runs until one comes through, as a proxy drops what it gets while it connects."""
            for item in raw.raw_run(n):
                publisher(*item)
            time.sleep(0.2)
            return listening.status().counts.reconstructed >= n

        assert until(lambda: seen(3))
        items = list(raw.raw_run(6))
        for item in items[:4]:
            publisher(*item)
        assert until(lambda: listening.state() is WorkerState.RUNNING)
        proxies[0].kill()
        proxies[0].wait()
        publisher(*items[4])
        proxies.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

        def ended():
            publisher(*items[-1])
            time.sleep(0.2)
            return listening.state() is WorkerState.ON

        assert until(ended)
        assert until(lambda: listening.status().statistics["frames_lost"] > 0)
        assert until(lambda: f"nfphasing replay {items[0][1]['uid']} --missing" in listening.status().reason)
    finally:
        publisher.close()
        for proxy in proxies:
            proxy.kill()
            proxy.wait()
