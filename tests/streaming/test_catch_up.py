"""A worker that takes from the catalog what it has missed, with a real process."""

import time

import numpy as np
import pytest
from bluesky_tiled_plugins import TiledWriter

from nfphasing_bluesky.core import StorageError, StreamSettings
from nfphasing_bluesky.storage.catalogs import RAW, close_catalog, embedded_catalog, runs_of
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.storage.successors import raw_runs_between, whole_density_dataset
from nfphasing_bluesky.streaming.catch_up import CatchUp
from nfphasing_bluesky.streaming.outputs import open_outputs
from nfphasing_bluesky.streaming.protocol import WorkerState
from nfphasing_bluesky.streaming.settings import WorkerSettings
from tests.waiting import until


def store(client, items):
    writer = TiledWriter(runs_of(client, RAW))
    for name, doc in items:
        data = {k: np.asarray(v).tolist() for k, v in doc.get("data", {}).items()}
        writer(name, {**doc, "data": data} if name == "event" else dict(doc))


def uid(items):
    return items[0][1]["uid"]


@pytest.mark.slow
def test_missed_runs_and_lost_frames_are_made_up_for_and_live_ones_are_left_alone(worker, raw, tmp_path):
    """Missed whole, missed in part, seen live: each raw run is reconstructed once and whole."""
    catalog = tmp_path / "catalog"
    missed, half, seen = (list(raw.raw_run(n, seed=n)) for n in (7, 6, 5))
    client = embedded_catalog(catalog)
    try:
        store(client, missed)
        live = worker(
            catalog=str(catalog), catch_up_days=1, catch_up_every_s=0.3, stream={"batch_size": 2}
        ).start()
        assert until(lambda: live.status().statistics["made_up_frames"] == 7), live.log
        live.send([item for number, item in enumerate(half) if number not in (3, 5)])
        live.send(seen)
        assert until(lambda: live.status().counts.reconstructed == 9)
        # two writers of one SQLite file get into each other's way: this one waits until the worker has done
        assert until(lambda: not list((catalog / "backup").iterdir()))
        store(client, seen)
        store(client, half)
        assert until(lambda: live.status().statistics["made_up_frames"] == 9), live.log
        assert until(lambda: len(reconstructions_of(client, half[0][1]["uid"])) == 2)
        assert live.end() == 0

        for items, runs in ((missed, 1), (half, 2), (seen, 1)):
            uid, count = items[0][1]["uid"], len(items) - 3
            assert len(reconstructions_of(client, uid)) == runs
            numbers = np.asarray(whole_density_dataset(client, uid)["raw_seq_num"])
            assert numbers.tolist() == list(range(1, count + 1))
    finally:
        close_catalog(client)


def test_a_run_whose_stop_never_comes_does_not_keep_a_worker_from_catching_up(worker, raw, tmp_path):
    """It is closed as abandoned, with its ledger; what comes of it later is named, and made up for."""
    catalog, silent, other = tmp_path / "catalog", list(raw.raw_run(8)), list(raw.raw_run(3, seed=1))
    client = embedded_catalog(catalog)
    try:
        live = worker(
            catalog=str(catalog),
            catch_up_days=1,
            catch_up_every_s=0.3,
            stream={"abandon_after_s": 1.0, "batch_size": 2},
        ).start()
        live.send(silent[:6])
        live.send(other)
        assert until(lambda: live.status().counts.reconstructed == 7)
        assert until(lambda: live.status().statistics["open_runs"] == 0), live.log
        assert f"run {uid(silent)}: nothing has come of it for" in live.status().reason
        assert live.state() is WorkerState.ON
        (half,) = until(
            lambda: [r for r in reconstructions_of(client, uid(silent)) if r.metadata.get("stop")]
        )
        stop, ledger = half.metadata["stop"], half["ledger"].read()
        assert stop["exit_status"] == "abort" and "abandoned" in stop["reason"]
        assert [int(ledger[n][0]) for n in ("received", "reconstructed", "failed", "lost")] == [4, 4, 0, 0]

        live.send(silent[6:])
        assert until(lambda: "it went on after it was closed as abandoned" in live.status().reason)
        assert until(lambda: live.status().counts.dropped == 4)
        assert until(lambda: not list((catalog / "backup").iterdir()))
        store(client, silent)
        assert until(lambda: live.status().statistics["made_up_frames"] == 4), live.log
        assert live.end() == 0
        numbers = np.asarray(whole_density_dataset(client, uid(silent))["raw_seq_num"])
        assert numbers.tolist() == list(range(1, 9))
    finally:
        close_catalog(client)


@pytest.fixture
def catching(tmp_path, tiny):
    """What catches up from a catalog in this process; `go` steps it until a condition holds."""
    outputs = open_outputs(tmp_path / "catalog")

    class Catching:
        client, model = outputs.owned_catalog, tiny.INFO

        def __init__(self):
            settings = WorkerSettings(
                catalog="unused",
                catch_up_days=1,
                catch_up_every_s=0.05,
                stream=StreamSettings(data_key="det"),
            )
            self.catch_up = CatchUp(settings, outputs, lambda: True, lambda: self.model)

        def go(self, get, condition):
            def stepped():
                self.catch_up.step(get)
                return condition()

            return until(stepped)

        def reconstructions(self, *runs):
            """The exit status of every reconstruction of some runs."""
            assert outputs.flush(240)
            found = [reconstructions_of(self.client, uid(items)) for items in runs]
            return [[run.metadata["stop"]["exit_status"] for run in those] for those in found]

    made = Catching()
    yield made
    made.catch_up.close()
    outputs.close()


def test_what_fails_for_a_while_is_tried_again_and_more_seldom(catching, raw, tiny, caplog):
    items, calls = list(raw.raw_run(4)), []
    store(catching.client, items)

    def get(settings):
        calls.append(time.monotonic())
        if len(calls) == 1:
            raise StorageError("the file server is away")
        reconstructor = tiny.LineReconstructor(settings)
        if len(calls) == 2:
            reconstructor.settings = None  # nothing that anybody foresaw
        return reconstructor

    assert catching.go(get, lambda: catching.catch_up.frames == 4)
    assert len(calls) == 3 and calls[2] - calls[1] > 0.2 > 0.1 < calls[1] - calls[0]
    assert "the file server is away; it is tried again in 0.1 s" in caplog.text
    assert "it is tried again in 0.2 s" in caplog.text and "Traceback" in caplog.text
    assert catching.reconstructions(items) == [["success"]]


def test_what_never_works_is_given_up_and_said(catching, raw, caplog, monkeypatch):
    monkeypatch.setattr("nfphasing_bluesky.streaming.catch_up.MOST_TRIES", 3)
    items, calls = list(raw.raw_run(4)), []
    store(catching.client, items)

    def get(settings):
        calls.append(1)
        raise StorageError("the file server is away")

    assert catching.go(get, lambda: f"last try; `nfphasing replay {uid(items)} --missing`" in caplog.text)
    assert len(calls) == 3 and caplog.text.count("is not made up for") == 3


@pytest.mark.slow
def test_runs_that_are_not_for_the_model_are_left_out(catching, raw, tiny, caplog):
    """Named are a model, a modality, a data key that the stream lacks, and a run without frames."""
    caplog.set_level("INFO", "nfphasing_bluesky")
    others = [
        list(raw.raw_run(2, md={"nfphasing": {"model": "tiny-image"}})),
        list(raw.raw_run(2, md={"nfphasing": {"modality": "plane"}})),
        list(raw.raw_run(2, data_key="other")),
        list(raw.raw_run(2, stream="baseline")),
    ]
    mine = list(raw.raw_run(3, md={"nfphasing": {"model": "tiny-line", "modality": "line"}}))
    for items in (*others, mine):
        store(catching.client, items)
    assert catching.go(tiny.LineReconstructor, lambda: caplog.text.count("left out") == 4)
    assert catching.go(tiny.LineReconstructor, lambda: catching.catch_up.frames == 3)
    for why in (
        "asks for model 'tiny-image', the worker has 'tiny-line'",
        "asks for modality 'plane', the worker has 'line'",
        "data key 'det' is not in stream 'primary'",
        "no frame in stream 'primary'",
    ):
        assert why in caplog.text
    catching.model = tiny.IMAGE_INFO

    def get(settings):
        return tiny.LineReconstructor(settings, tiny.IMAGE_INFO)

    assert catching.go(get, lambda: catching.catch_up.frames == 7), caplog.text
    assert catching.reconstructions(*others, mine) == [["success"], ["success"], [], [], ["success"]]


def test_only_runs_that_have_ended_long_enough_are_found(raw, tmp_path):
    client = embedded_catalog(tmp_path / "catalog")
    try:
        whole, open_ = list(raw.raw_run(2)), list(raw.raw_run(2, stop=False))
        store(client, whole)
        store(client, open_)
        now, uid = time.time(), whole[0][1]["uid"]
        assert raw_runs_between(client, now - 100, now + 1) == [uid]
        assert raw_runs_between(client, now - 100, whole[-1][1]["time"] - 1) == []
        assert raw_runs_between(client, now + 100, now + 200) == []
    finally:
        close_catalog(client)


def test_a_catalog_is_needed():
    with pytest.raises(ValueError, match="catch_up_days without catalog"):
        WorkerSettings(catch_up_days=1)
