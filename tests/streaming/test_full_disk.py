"""A disk that is full for a while: the worker lives, says so, and what was not stored is made up for."""

import resource
from pathlib import Path

import numpy as np
import pytest
from bluesky_tiled_plugins import TiledWriter

from nfphasing_bluesky.storage.catalogs import RAW, close_catalog, embedded_catalog, runs_of
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.storage.successors import whole_density_dataset
from nfphasing_bluesky.streaming.protocol import WorkerState
from nfphasing_bluesky.streaming.replay import replay_missing
from tests.waiting import until

pytestmark = pytest.mark.slow

FULL = (3 * 2**20, resource.RLIM_INFINITY)
"""The catalog's own files stay below; the least of an array file, eight rows of 256 x 256, does not."""
FREE = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
N = 400


def store_raw(client, items):
    writer = TiledWriter(runs_of(client, RAW), batch_size=1000)
    for name, doc in items:
        data = {k: np.asarray(v).tolist() for k, v in doc.get("data", {}).items()}
        writer(name, {**doc, "data": data} if name == "event" else dict(doc))


def limit(live, limits):
    """Let no file of a worker grow further, as a full disk does, or let all grow again."""
    resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, limits)


def most_bytes(pid):
    """The most that a process has had in memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def ledger_of(client, items):
    for run in reconstructions_of(client, items[0][1]["uid"]):
        if run.metadata.get("stop"):
            table = run["ledger"].read()
            return tuple(int(table[name][0]) for name in ("received", "reconstructed", "failed", "lost"))
    return None


@pytest.fixture
def client(tmp_path):
    made = embedded_catalog(tmp_path / "catalog")
    yield made
    close_catalog(made)


def test_a_disk_that_is_full_for_a_whole_run(worker, raw, tiny, tmp_path, client):
    """Memory stays bounded, the ledger says what was not stored, and all of it is made up for afterwards."""
    first, second = list(raw.raw_run(N)), list(raw.raw_run(20, seed=1))
    store_raw(client, first)
    live = worker(
        model="tiny-huge",
        catalog=str(tmp_path / "catalog"),
        reconstruction={"n_samples": 2},
        stream={"batch_size": 8, "queue_size": 32},
    ).start()
    live.send(first[:22])
    assert until(lambda: live.status().counts.reconstructed == 20), live.log
    limit(live, FULL)
    live.send(first[22:62])
    assert until(lambda: live.status().counts.failed == 40), live.status().counts
    before = most_bytes(live.process.pid)
    live.send(first[62:])
    assert until(lambda: live.state() is WorkerState.ON and live.status().counts.pending == 0), live.log
    # the rows that were not kept would take 190 MB, twice, and were once made again with every further block
    assert most_bytes(live.process.pid) - before < 150 * 2**20
    assert "could not be stored" in live.status().reason
    limit(live, FREE)
    live.send(second)
    assert until(lambda: ledger_of(client, second) == (20, 20, 0, 0)), live.log
    assert until(lambda: ledger_of(client, first) == (N, 20, N - 20, 0)), live.log
    assert live.end() == 0

    made = replay_missing(first[0][1]["uid"], live.settings, load=tiny.load)
    assert (made.frames, made.missing, made.reconstructed, made.failed) == (N, N - 20, N - 20, 0)
    together = whole_density_dataset(client, first[0][1]["uid"])
    assert np.asarray(together["raw_seq_num"]).tolist() == list(range(1, N + 1))
    assert np.isfinite(np.asarray(together["latency_s"], float)).all()
    assert np.isfinite(together["density_mean"][:, 0, 0]).all()


def test_a_worker_catches_up_once_there_is_room(worker, raw, tmp_path, client):
    """It does not begin while the disk is full, and one that fills up meanwhile costs no frame for good."""
    items = list(raw.raw_run(300))
    live = worker(
        model="tiny-huge:0.02",
        catalog=str(tmp_path / "catalog"),
        catch_up_days=1,
        catch_up_every_s=0.3,
        reconstruction={"n_samples": 2},
        stream={"batch_size": 8},
    ).start()
    limit(live, FULL)
    store_raw(client, items)
    assert until(lambda: "waits: the disk has no room" in live.log), live.log
    limit(live, FREE)
    assert until(lambda: list((tmp_path / "catalog" / "derived").glob("*.h5"))), live.log
    limit(live, FULL)
    assert until(lambda: "it is tried again in" in live.log), live.log
    limit(live, FREE)
    assert until(lambda: live.status().statistics["made_up_frames"] == 300), live.log
    assert live.end() == 0
    together = whole_density_dataset(client, items[0][1]["uid"])
    assert np.asarray(together["raw_seq_num"]).tolist() == list(range(1, 301))
    assert np.isfinite(together["density_mean"][:, 0, 0]).all()
