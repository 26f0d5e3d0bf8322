"""Several processes and one catalog behind a real tiled server, which may be gone for a while."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bluesky.callbacks.zmq import Publisher
from bluesky_tiled_plugins import TiledWriter

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.storage.catalogs import RAW, close_catalog, open_catalog, runs_of
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.storage.successors import whole_density_dataset
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.replay import replay_missing
from tests.streaming.processes import Tiled
from tests.waiting import free_port, until

pytestmark = pytest.mark.slow

IMPATIENT = {"TILED_RETRY_ATTEMPTS": "2", "TILED_RETRY_TIMEOUT": "1"}
"""By default tiled's client tries for 45 s to reach a server."""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A tiled server with an empty catalog, a client of it, and where arrays and backups go."""
    for name in ("TILED_SINGLE_USER_API_KEY", "TILED_API_KEY"):
        monkeypatch.setenv(name, "0123456789abcdef")

    class Served:
        files, backup = tmp_path / "arrays", tmp_path / "backup"

        def __init__(self):
            self.files.mkdir()
            self.server = Tiled(tmp_path / "tiled", self.files)
            self.server.start()
            self.client = open_catalog(self.server.uri)
            self.folders = {"catalog": self.server.uri, "files": self.files, "backup": self.backup}

        def store(self, items):
            writer = TiledWriter(runs_of(self.client, RAW))
            for name, doc in items:
                data = {k: np.asarray(v).tolist() for k, v in doc.get("data", {}).items()}
                writer(name, {**doc, "data": data} if name == "event" else dict(doc))

        def ended(self, items):
            """The reconstructions of a run that the catalog has whole."""
            return [run for run in reconstructions_of(self.client, uid(items)) if run.metadata.get("stop")]

        def numbers(self, items):
            """Which frames of a run were reconstructed, over all its reconstructions."""
            found = whole_density_dataset(self.client, uid(items))
            assert np.isfinite(np.asarray(found["latency_s"], float)).all()
            return np.asarray(found["raw_seq_num"]).tolist()

    made = Served()
    yield made
    made.server.kill()
    close_catalog(made.client)


def uid(items):
    return items[0][1]["uid"]


@pytest.mark.timeout(900)
def test_a_server_that_goes_away_while_a_worker_catches_up(served, worker, raw, tiny, tmp_path):
    """What it was at is kept and stored once it is back, and it goes on; replay says so and does the rest."""
    missed, later, half = (list(raw.raw_run(n, seed=n)) for n in (12, 5, 6))
    served.store(missed)
    gate = tmp_path / "go"
    live = worker(model=f"tiny-line:{gate}", catch_up_days=1, catch_up_every_s=0.3, **served.folders).start(
        **IMPATIENT
    )
    assert until(gate.with_suffix(".waiting").exists), live.log
    served.server.kill()
    gate.touch()
    assert until(lambda: live.status().statistics["made_up_frames"] == 12), live.log
    assert until(lambda: "is kept in" in live.status().reason), live.log
    assert len(list(served.backup.glob("*.jsonl"))) == 1
    assert until(lambda: "could not be searched for missed runs" in live.log), live.log
    settings = live.settings.model_copy(update={"catch_up_days": None, "model": "tiny-line"})
    with pytest.raises(StorageError, match="cannot be opened|not reached|Connection|refused"):
        replay_missing(uid(missed), settings, load=tiny.load)

    served.server.start()
    assert until(lambda: not list(served.backup.iterdir())), live.log
    assert len(served.ended(missed)) == 1 and served.numbers(missed) == list(range(1, 13))
    served.store(later)
    assert until(lambda: live.status().statistics["made_up_frames"] == 17), live.log
    assert until(lambda: served.ended(later))
    assert served.numbers(later) == list(range(1, 6))
    assert live.end() == 0

    assert replay_missing(uid(missed), settings, load=tiny.load).missing == 0
    served.store(half)
    made = replay_missing(uid(half), settings, load=tiny.load)
    assert (made.missing, made.reconstructed) == (6, 6) and served.numbers(half) == list(range(1, 7))


@pytest.mark.timeout(900)
def test_two_workers_on_one_proxy_and_one_catalog(served, worker, raw, tmp_path):
    """Each reconstructs every run, into a derived run of its own; read as one, each frame is there once."""
    ports = free_port(), free_port()
    command = [str(Path(sys.executable).with_name("bluesky-0MQ-proxy")), *map(str, ports)]
    proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers = [
        worker(
            proxy=f"tcp://127.0.0.1:{ports[1]}",
            **served.folders,
            **{name: f"ipc://{tmp_path}/{name}-{n}" for name in ("documents", "results", "control")},
        ).start()
        for n in range(2)
    ]
    publisher, sent = Publisher(f"127.0.0.1:{ports[0]}", serializer=wire.pack), []

    def all_have_heard():
        """Publish whole runs until one reaches everybody: a proxy drops what comes while it connects."""
        sent.append(list(raw.raw_run(4, seed=len(sent))))
        for item in sent[-1]:
            publisher(*item)
        return until(lambda: next((r for r in sent if len(served.ended(r)) == 2), None), 5)

    try:
        items = until(all_have_heard)
        assert items, [one.log for one in workers]
        runs = served.ended(items)
        assert len({run.metadata["start"]["uid"] for run in runs}) == 2
        assert all(run.metadata["stop"]["exit_status"] == "success" for run in runs)
        served.store(items)
        assert served.numbers(items) == [1, 2, 3, 4]
        assert [one.end() for one in workers] == [0, 0]
    finally:
        publisher.close()
        proxy.kill()
        proxy.wait()
