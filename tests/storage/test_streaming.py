"""Derived runs as tiled's own subscribers hear of them, from a real server, while they are written."""

import os

import numpy as np
import pytest
from bluesky_tiled_plugins import subscribe_to_streams

from nfphasing_bluesky.documents.derived import DerivedRun
from nfphasing_bluesky.storage.catalogs import PROCESSED, close_catalog, open_catalog, runs_of
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
from nfphasing_bluesky.storage.sink import CatalogSink
from tests.storage.tiled_server import KEY, tiled_server
from tests.waiting import until

CACHE = os.environ.get("NFPHASING_TEST_REDIS", "memory://")
"""Where tiled keeps what it streams; one server needs no Redis for it."""


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", KEY)
    with tiled_server(tmp_path, TILED_STREAMING_CACHE_URI=CACHE) as (uri, _):
        client = open_catalog(uri)
        yield client
        close_catalog(client)


# tiled 0.2.20 opens its web socket in a way that websockets 17 calls deprecated
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_a_subscriber_of_tiled_hears_of_every_block_while_the_run_is_written(client, tmp_path, experiment):
    made, means, numbers = experiment(6), [], []

    def hear(update):
        if update.data_keys == ("density_mean",):
            means.append(np.asarray(update.data()))
        else:
            numbers.extend(update.data()["raw_seq_num"])

    wanted = {"density": ["density_mean", "raw_seq_num"]}
    sink, store = CatalogSink(client, tmp_path / "backup", batch=1), DerivedFiles(tmp_path / "derived")
    with subscribe_to_streams(runs_of(client, PROCESSED), hear, streams=wanted):
        run = DerivedRun(made.start, made.reconstructor.info, made.reconstructor.settings, sink, store)
        for done in (2, 4, 6):
            run.add(made.posteriors[done - 2 : done])
            assert sink.flush(240)
            assert until(lambda n=done: sum(map(len, means)) == n and len(numbers) == n), (means, numbers)
        run.close()
        assert sink.close(240) and sink.problems == ()
    np.testing.assert_array_equal(np.concatenate(means), [p.mean for p in made.posteriors])
    assert numbers == [p.origin.seq_num for p in made.posteriors]
