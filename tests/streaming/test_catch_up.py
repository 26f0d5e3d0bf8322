"""A worker that takes from the catalog what it has missed, with a real process."""

import time

import numpy as np
import pytest
from bluesky_tiled_plugins import TiledWriter

from nfphasing_bluesky.storage.catalogs import RAW, close_catalog, embedded_catalog, runs_of
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.storage.successors import raw_runs_between, whole_density_dataset
from nfphasing_bluesky.streaming.settings import WorkerSettings
from tests.waiting import until


def store(client, items):
    writer = TiledWriter(runs_of(client, RAW))
    for name, doc in items:
        data = {k: np.asarray(v).tolist() for k, v in doc.get("data", {}).items()}
        writer(name, {**doc, "data": data} if name == "event" else dict(doc))


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
