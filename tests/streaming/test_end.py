"""Told to end, a worker process ends in time, whatever hangs, and nothing is lost."""

import signal
import time

import numpy as np
import pytest
import zmq
from bluesky_tiled_plugins import TiledWriter

from nfphasing_bluesky.storage.catalogs import RAW, close_catalog, embedded_catalog, runs_of
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.storage.successors import whole_density_dataset
from nfphasing_bluesky.streaming.child import Child
from nfphasing_bluesky.streaming.endpoints import connect
from nfphasing_bluesky.streaming.protocol import WorkerState
from nfphasing_bluesky.streaming.replay import replay_missing
from tests.waiting import until

COUNTS = ("received", "reconstructed", "dropped", "failed")


@pytest.fixture
def beamline(tmp_path, raw):
    """A catalog with a raw run of 60 frames in it."""

    class Beamline:
        folder, items = tmp_path / "catalog", list(raw.raw_run(60))
        client = embedded_catalog(folder)
        uid = items[0][1]["uid"]

        def ended(self):
            """Stop document and ledger of the reconstruction once it has them."""
            for run in reconstructions_of(self.client, self.uid):
                if run.metadata.get("stop"):
                    ledger = run["ledger"].read()
                    return run.metadata["stop"], tuple(int(ledger[name][0]) for name in COUNTS)
            return None

        def store_raw(self):
            writer = TiledWriter(runs_of(self.client, RAW))
            for name, doc in self.items:
                data = {k: np.asarray(v).tolist() for k, v in doc.get("data", {}).items()}
                writer(name, {**doc, "data": data} if name == "event" else dict(doc))

        def make_up(self, live, tiny):
            self.store_raw()
            made = replay_missing(self.uid, live.settings, load=tiny.load)
            numbers = np.asarray(whole_density_dataset(self.client, self.uid)["raw_seq_num"])
            assert numbers.tolist() == list(range(1, 61))
            return made.reconstructed

    made = Beamline()
    yield made
    close_catalog(made.client)


@pytest.mark.slow
def test_frames_that_wait_are_dropped_at_the_limit_and_the_ledger_adds_up(worker, beamline, tiny):
    # a minute of work, and a busy machine's time to store what was done by then
    live = worker(
        model="tiny-line:1.0", catalog=str(beamline.folder), drain_s=6.0, stream={"batch_size": 2}
    ).start()
    live.send(beamline.items[:-1])
    assert until(lambda: live.status().counts.received == 60)
    assert live.end() == 0
    stop, (received, done, dropped, failed) = beamline.ended()
    assert stop["exit_status"] == "abort" and "shut down" in stop["reason"]
    assert received == 60 == done + dropped and dropped > 0 == failed
    assert "frames that waited are dropped" in live.log
    live.settings = live.settings.model_copy(update={"model": "tiny-line"})
    assert beamline.make_up(live, tiny) == 60 - done


@pytest.mark.slow
def test_a_child_that_is_closed_may_work_off_what_has_arrived(worker, beamline, tiny_command):
    # nine seconds of work
    live = worker(
        model="tiny-line:0.15", catalog=str(beamline.folder), drain_s=60.0, stream={"batch_size": 1}
    )
    child = Child(live.settings, tiny_command)
    try:
        assert until(lambda: live.state() is WorkerState.ON)
        live.push = connect(live.context, zmq.PUSH, live.settings.documents)
        live.send(beamline.items[:-1])
        assert until(lambda: live.status().counts.received == 60)
    finally:
        child.close()
    assert beamline.ended()[1] == (60, 60, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_disk_that_does_not_answer_keeps_no_worker_from_ending(worker, beamline, tiny, tmp_path, signals):
    """The next worker closes what it left, and all frames are made up for."""
    hanging = tmp_path / "hang"
    hanging.touch()
    live = worker(catalog=str(beamline.folder), drain_s=1.0, stream={"batch_size": 2})
    live.start(TINY_HANGS_WHILE=str(hanging))
    live.send(beamline.items)
    assert until(hanging.with_suffix(".hanging").exists)
    assert until(lambda: list((beamline.folder / "backup").glob("*.jsonl")))
    if signals == 1:
        assert until(lambda: "storing hangs for" in live.status().reason)
    for _ in range(signals):
        live.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    assert live.process.wait(240) == 1
    assert "the worker does not end" in live.log
    assert beamline.ended() is None

    hanging.unlink()
    live.start()
    stop, ledger = until(beamline.ended)
    assert stop["exit_status"] == "abort" and ledger == (0, 0, 0, 0)
    assert live.end() == 0
    assert beamline.make_up(live, tiny) == 60
