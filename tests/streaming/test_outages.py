"""What goes away, stands still or changes while a worker runs, with real processes on both sides."""

import json
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zmq

from nfphasing_bluesky.storage.catalogs import close_catalog, open_catalog
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.streaming.client import Listener, ask
from nfphasing_bluesky.streaming.endpoints import connect
from nfphasing_bluesky.streaming.protocol import Verb, WorkerState
from tests.streaming.processes import Tiled
from tests.waiting import until

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
SUBSCRIBER = """
import sys, time
from nfphasing_bluesky.streaming.client import Listener
listener = Listener(sys.argv[1], on_frame=lambda result: None).start()
while listener.silence_s > 1:
    time.sleep(0.05)
print("listening", flush=True)
time.sleep(600)
"""
SLOW = """
import json, sys, time
from pathlib import Path
from nfphasing_bluesky.streaming.client import Listener
hurry, ids = Path(sys.argv[2]), []
def take(result):
    ids.append(result.frame_id)
    if not hurry.exists():
        time.sleep(0.2)
listener = Listener(sys.argv[1], on_frame=take).start()
while listener.silence_s > 1:
    time.sleep(0.05)
print("listening", flush=True)
while not hurry.exists():
    time.sleep(0.05)
before = -1
while len(ids) != before:
    before = len(ids)
    time.sleep(5)
print("caught up", flush=True)
while not ids or ids[-1] != 4010:
    time.sleep(0.05)
print(json.dumps(ids), flush=True)
"""


def ended(client, items):
    """Return the ledger of a run's reconstruction once the catalog has it whole."""
    for run in reconstructions_of(client, items[0][1]["uid"]):
        if run.metadata.get("stop"):
            table = run["ledger"].read()
            return tuple(int(table[name][0]) for name in ("received", "reconstructed", "failed", "lost"))
    return None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tiled_server_that_is_gone_and_comes_back(worker, raw, tmp_path, monkeypatch):
    """Runs go on while it is away, are kept in the backup folder, and are in the catalog afterwards."""
    monkeypatch.setenv("TILED_SINGLE_USER_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("TILED_API_KEY", "0123456789abcdef")
    files, backup = tmp_path / "arrays", tmp_path / "backup"
    files.mkdir()
    server, client = Tiled(tmp_path / "tiled", files), None
    runs = [list(raw.raw_run(4, seed=seed)) for seed in range(3)]
    try:
        server.start()
        # by default tiled's client tries for 45 s to reach a server
        impatient = {"TILED_RETRY_ATTEMPTS": "2", "TILED_RETRY_TIMEOUT": "1"}
        live = worker(catalog=server.uri, files=files, backup=backup, log="json").start(**impatient)
        client = open_catalog(server.uri)
        live.send(runs[0])
        assert until(lambda: ended(client, runs[0]) and not list(backup.iterdir()))
        server.kill()
        live.send(runs[1])
        assert until(lambda: live.status().counts.reconstructed == 8)
        assert until(lambda: "is kept in" in live.status().reason)
        lines = [json.loads(line) for line in live.log.splitlines() if line.startswith("{")]
        failed = {line.get("raw_uid") for line in lines if "catalog failed at" in line["message"]}
        assert failed == {runs[1][0][1]["uid"]}
        assert len(list(backup.glob("*.jsonl"))) == 1 and "0123456789abcdef" not in live.log
        server.start()
        live.send(runs[2])
        assert until(lambda: not list(backup.iterdir())), live.log
        assert [ended(client, run) for run in runs] == [(4, 4, 0, 0)] * 3
        assert len(reconstructions_of(client, runs[1][0][1]["uid"])) == 1
        assert live.end() == 0
    finally:
        server.kill()
        if client is not None:
            close_catalog(client)


def test_a_subscriber_that_is_stopped_holds_nobody_up(worker, raw):
    """Messages for it go to waste; the worker, its memory and other subscribers don't notice."""
    live, heard = worker(stream={"batch_size": 32}).start(), []
    stuck = subprocess.Popen(
        [sys.executable, "-c", SUBSCRIBER, live.settings.results], stdout=subprocess.PIPE, text=True
    )
    listener = Listener(live.settings.results, on_frame=lambda result: heard.append(result.seq_num)).start()
    try:
        assert stuck.stdout.readline() == "listening\n"
        assert until(lambda: listener.silence_s < 1)
        stuck.send_signal(signal.SIGSTOP)
        size = []
        for number in range(4):
            live.send(raw.raw_run(300, seed=number))
            assert until(lambda n=number: live.status().counts.reconstructed == 300 * (n + 1))
            size.append(resident_bytes(live.process.pid))
        assert until(lambda: len(heard) == 1200)
        assert size[-1] - size[1] < 25 * 2**20
    finally:
        listener.close()
        stuck.kill()
        stuck.wait()
        stuck.stdout.close()


@pytest.mark.slow
def test_a_subscriber_that_is_slow_holds_nobody_up_and_sees_what_it_missed(worker, raw, tmp_path):
    """It takes a frame in 0.2 s while the worker does thousands; gaps in `frame_id` show what it missed."""
    live, heard, hurry = worker(stream={"batch_size": 32}).start(), [], tmp_path / "hurry"
    command = [sys.executable, "-c", SLOW, live.settings.results, str(hurry)]
    slow = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    listener = Listener(live.settings.results, on_frame=lambda result: heard.append(result.frame_id)).start()
    try:
        assert slow.stdout.readline() == "listening\n"
        assert until(lambda: listener.silence_s < 1)
        size = []
        for number in range(10):
            live.send(raw.raw_run(400, seed=number))
            assert until(lambda n=number: len(heard) == 400 * (n + 1))
            size.append(resident_bytes(live.process.pid))
        assert size[-1] - size[5] < 25 * 2**20
        assert until(lambda: live.state() is WorkerState.ON)
        hurry.touch()
        assert slow.stdout.readline() == "caught up\n"
        live.send(raw.raw_run(10, seed=10))
        found = json.loads(slow.stdout.readline())
    finally:
        listener.close()
        slow.kill()
        slow.wait()
        slow.stdout.close()
    assert heard == list(range(1, 4011))
    assert found == sorted(set(found)) and found[0] == 1 and found[-10:] == list(range(4001, 4011))
    assert 0 < found[-1] - len(found) < 4000


def test_a_message_of_two_gigabytes_is_refused_by_its_size(worker, raw):
    """Nothing is allocated for it; the run that it falls into comes through whole."""
    live = worker().start()
    items = list(raw.raw_run(8))
    live.send(items[:5])
    assert until(lambda: live.status().counts.reconstructed == 3)
    before = resident_bytes(live.process.pid)
    stranger = connect(live.context, zmq.PUSH, live.settings.documents)
    ended = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        # pages that nobody has written to take no memory here either
        stranger.send(mmap.mmap(-1, 2**31), copy=False)
        assert ended.poll(240_000), "the worker goes on listening to it"
        live.send(items[5:])
        assert until(lambda: live.status().counts.reconstructed == 8)
        assert resident_bytes(live.process.pid) - before < 100 * 2**20
        assert until(lambda: live.state() is WorkerState.ON)
        assert live.status().statistics["frames_lost"] == 0
    finally:
        stranger.disable_monitor()
        ended.close(linger=0)
        stranger.close(linger=0)


def test_a_clock_that_jumps_in_a_run_that_does_not_end(worker, raw, tmp_path, require):
    """An hour ahead and a day back: frames keep their times to the result, and it ends when it is told to."""
    require(FAKETIME.exists(), "Debian's package libfaketime is not installed")
    shift, heard = tmp_path / "shift", []
    shift.write_text("+0\n")
    live = worker(stream={"batch_size": 4, "deadline_s": 0.02}).start(
        LD_PRELOAD=str(FAKETIME),
        FAKETIME_TIMESTAMP_FILE=str(shift),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    items = list(raw.raw_run(30, stop=False))
    documents, offsets = [], []

    def stored() -> int:
        return sum(len(doc["time"]) for name, doc in list(documents) if name == "event_page")

    listener = Listener(
        live.settings.results,
        on_status=lambda status: offsets.append(status.time),
        on_frame=heard.append,
        on_document=lambda *item: documents.append(item),
    ).start()
    try:
        assert until(lambda: listener.silence_s < 1)
        live.send(items[:12])
        assert until(lambda: len(heard) == stored() == 10)
        for jump, count in (("+3600\n", 20), ("-86400\n", 30)):
            offsets.clear()
            (tmp_path / "next").write_text(jump)
            os.replace(tmp_path / "next", shift)  # never half written
            live.send(items[count - 8 : count + 2])
            # a frame has the time at which it is stored, which may be after it was heard of
            assert until(lambda n=count: len(heard) == stored() == n), (len(heard), live.log)
            assert until(lambda: len(offsets) > 2)
        assert all(0 <= result.latency_s < 600 for result in heard)
        assert live.status().state is WorkerState.RUNNING
        assert live.status().statistics["uptime_s"] < 3600
        assert live.end() == 0
        assert until(lambda: documents and documents[-1][0] == "stop")
        stop = documents[-1][1]
        assert stop["exit_status"] == "abort" and "shut down" in stop["reason"]
        (ledger,) = [doc["data"] for name, doc in documents if name == "event"]
        assert (ledger["received"], ledger["reconstructed"], ledger["dropped"]) == (30, 30, 0), live.log
        pages = [doc for name, doc in documents if name == "event_page"]
        times = [time for page in pages for time in page["time"]]
        assert times[15] - times[0] > 3000 and times[-1] - times[15] < -80_000
        latencies = [value for page in pages for value in page["data"]["latency_s"]]
        for name, value in zip((50, 90, 99), np.percentile(latencies, (50, 90, 99)), strict=True):
            assert ledger[f"latency_p{name}_s"] == pytest.approx(value)
    finally:
        listener.close()


def test_a_model_that_is_replaced_while_it_is_in_use(worker, raw, tmp_path):
    """Seen and named; what was loaded goes on until it is told to load, also where nothing is left."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "version").write_text("1")
    live = worker(model=str(folder)).start()
    assert live.status().reason == "" and live.status().model.version == "1"
    (tmp_path / "new").write_text("2")
    os.replace(tmp_path / "new", folder / "version")
    assert until(lambda: "were replaced since it was loaded" in live.status().reason)
    live.send(raw.raw_run(5))
    assert until(lambda: live.status().counts.reconstructed == 5)
    assert live.status().model.version == "1"
    ask(Verb.LOAD_MODEL, live.settings.control, 60, model=str(folder))
    assert until(lambda: live.status().model.version == "2" and live.status().reason == "")
    (folder / "version").unlink()
    folder.rmdir()
    assert until(lambda: "are gone since it was loaded" in live.status().reason)
    ask(Verb.LOAD_MODEL, live.settings.control, 60, model=str(folder))
    assert until(lambda: "stays in use" in live.status().reason and "was not loaded" in live.status().reason)
    live.send(raw.raw_run(5, seed=1))
    assert until(lambda: live.status().counts.reconstructed == 10)
    assert "were replaced" in live.log and "are gone" in live.log


def resident_bytes(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
