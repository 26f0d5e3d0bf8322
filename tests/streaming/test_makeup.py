"""What was lost, dropped or failed live is made up for from the raw catalog, once."""

import numpy as np
import pytest
from bluesky_tiled_plugins import TiledWriter

from nfphasing_bluesky.core import ModelError, ReconstructionSettings, StorageError, StreamSettings
from nfphasing_bluesky.storage.catalogs import RAW, runs_of
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.storage.successors import chain_of, whole_density_dataset
from nfphasing_bluesky.streaming.makeup import make_up
from nfphasing_bluesky.streaming.outputs import Outputs, open_outputs
from nfphasing_bluesky.streaming.processor import StreamProcessor
from nfphasing_bluesky.streaming.queue import DROPPED

SETTINGS = ReconstructionSettings(n_samples=32, seed=5)
STREAM = StreamSettings(data_key="det")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """An embedded catalog and what writes to it: opening one takes seconds."""
    made = open_outputs(tmp_path_factory.mktemp("catalog"))
    yield made
    made.close()


@pytest.fixture
def beamline(outputs, raw, tiny):
    """Raw runs in the catalog, live reconstructions that miss some frames, and what makes up for these."""

    class Beamline:
        catalog = outputs.owned_catalog
        calls = 0

        def scan(self, n=10, **options):
            items = list(raw.raw_run(n, **options))
            writer = TiledWriter(runs_of(self.catalog, RAW))
            for name, doc in items:
                if name == "event":
                    doc = {**doc, "data": {k: np.asarray(v).tolist() for k, v in doc["data"].items()}}
                writer(name, dict(doc))
            return items

        def live(self, items, lose=(), drop=(), settings=SETTINGS):
            processor = StreamProcessor(
                STREAM, outputs.arrays, outputs.sinks, reconstructor=tiny.LineReconstructor(settings)
            )
            for name, doc in items:
                if name == "event" and doc["seq_num"] in (*lose, *drop):
                    continue
                if name == "stop" and drop:
                    processor(DROPPED, {"raw_uid": items[0][1]["uid"], "seq_nums": list(drop)})
                processor(name, doc)
            processor.close("the worker was shut down")
            assert outputs.flush(240)

        def in_memory(self, items):
            outcomes = []
            processor = StreamProcessor(
                STREAM,
                raw.MemoryStore(),
                on_outcome=lambda outcome, _: outcomes.append(outcome),
                reconstructor=tiny.LineReconstructor(SETTINGS),
            )
            for item in items:
                processor(*item)
            return outcomes

        def make_up(self, uid, info=None, settings=None, outputs=outputs):
            def get(wanted):
                self.calls += 1
                return tiny.LineReconstructor(settings or wanted or SETTINGS, info or tiny.INFO)

            return make_up(self.catalog, uid, outputs, get, STREAM)

        def ledger(self, uid):
            ledger = runs_of(self.catalog, "processed")[uid]["ledger"].read()
            names = ("received", "reconstructed", "dropped", "failed", "lost")
            return tuple(int(ledger[name][0]) for name in names)

    return Beamline()


def test_lost_and_dropped_frames_get_the_numbers_that_they_would_have_got_live(beamline):
    items = beamline.scan(10)
    uid = items[0][1]["uid"]
    beamline.live(items, lose=(3, 4), drop=(8,))
    (first,) = reconstructions_of(beamline.catalog, uid)
    assert beamline.ledger(first.metadata["start"]["uid"]) == (8, 7, 1, 0, 2)
    made = beamline.make_up(uid)
    assert (made.frames, made.missing, made.reconstructed, made.failed) == (10, 3, 3, 0)
    assert beamline.ledger(made.derived_uid) == (3, 3, 0, 0, 0)
    start = runs_of(beamline.catalog, "processed")[made.derived_uid].metadata["start"]
    assert start["nfphasing"]["successor_of"] == first.metadata["start"]["uid"] == made.predecessor
    assert start["original_run_uid"] == uid

    again = beamline.make_up(made.derived_uid)
    assert (again.derived_uid, again.missing) == ("", 0) and "nothing is left" in again.in_words()
    assert beamline.calls == 1 and len(reconstructions_of(beamline.catalog, uid)) == 2

    together = whole_density_dataset(beamline.catalog, uid)
    assert np.asarray(together["raw_seq_num"]).tolist() == list(range(1, 11))
    frames = [outcome.mean for outcome in beamline.in_memory(items)]
    np.testing.assert_array_equal(together["density_mean"], np.asarray(frames))


def test_frames_that_fail_again_are_not_tried_a_third_time(beamline):
    items = beamline.scan(6, poison={2: lambda v: -v})
    beamline.live(items, lose=(5,))
    made = beamline.make_up(items[0][1]["uid"])
    assert (made.missing, made.reconstructed, made.failed) == (2, 1, 1)
    assert beamline.ledger(made.derived_uid) == (2, 1, 0, 1, 0)
    assert beamline.make_up(items[0][1]["uid"]).missing == 0 and beamline.calls == 1
    together = whole_density_dataset(beamline.catalog, items[0][1]["uid"])
    assert np.isnan(np.asarray(together["latency_s"])).tolist() == [False, True, False, False, False, False]


def test_frames_that_a_full_disk_took_are_made_up_for_once_there_is_room(beamline, outputs, raw):
    items = beamline.scan(6)
    uid = items[0][1]["uid"]
    beamline.live(items, lose=(2, 5))
    full = Outputs(raw.MemoryStore(broken=True), outputs.sinks, outputs.catalog_sink, outputs.owned_catalog)
    made = beamline.make_up(uid, outputs=full)
    assert (made.missing, made.reconstructed, made.failed) == (2, 0, 2)
    assert chain_of(beamline.catalog, uid).given_up == set()
    made = beamline.make_up(uid)
    assert (made.missing, made.reconstructed, made.failed) == (2, 2, 0)
    assert np.isfinite(whole_density_dataset(beamline.catalog, uid)["density_mean"]).all()


def test_a_run_that_nobody_reconstructed_live_is_made_in_whole(beamline):
    items = beamline.scan(4)
    made = beamline.make_up(items[0][1]["uid"])
    assert (made.predecessor, made.missing, made.reconstructed) == ("", 4, 4)
    (run,) = reconstructions_of(beamline.catalog, items[0][1]["uid"])
    assert run.metadata["stop"]["exit_status"] == "success"
    assert chain_of(beamline.catalog, made.derived_uid).reconstructed == {1, 2, 3, 4}


def test_another_model_or_other_settings_are_refused(beamline, tiny):
    items = beamline.scan(3)
    beamline.live(items, lose=(2,))
    from dataclasses import replace

    with pytest.raises(ModelError, match="with sha256 000000000000, found tiny-line with 222222222222"):
        beamline.make_up(items[0][1]["uid"], info=replace(tiny.INFO, sha256="2" * 64))
    with pytest.raises(ModelError, match="other reconstruction settings"):
        beamline.make_up(items[0][1]["uid"], settings=SETTINGS.model_copy(update={"seed": 6}))
    assert len(reconstructions_of(beamline.catalog, items[0][1]["uid"])) == 1


def test_what_is_not_there_is_named(beamline, raw):
    with pytest.raises(StorageError, match="no run 'nonsense'"):
        beamline.make_up("nonsense")
    items = list(raw.raw_run(3))
    beamline.live(items)
    with pytest.raises(StorageError, match="not in .*; was it stored"):
        beamline.make_up(chain_of(beamline.catalog, _derived(beamline, items)).uid)


def _derived(beamline, items):
    (run,) = reconstructions_of(beamline.catalog, items[0][1]["uid"])
    return run.metadata["start"]["uid"]
