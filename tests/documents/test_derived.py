"""The derived run: every document valid, linked, and honest about every frame."""

import json
from dataclasses import replace

import event_model
import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Axis,
    DensityInfo,
    DocumentError,
    Failure,
    Origin,
    StorageError,
    StreamSettings,
    Symmetry,
    settings_sha256,
)
from nfphasing_bluesky.documents import array_stream
from nfphasing_bluesky.documents.derived import DerivedRun
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.documents.sinks import Written


class MemoryStore:
    """An ArrayStore that keeps blocks, and fails for those whose number is in `broken`."""

    def __init__(self, broken=()) -> None:
        self.broken, self.blocks, self.calls, self.closed, self.spec = set(broken), [], 0, 0, None

    def open(self, spec):
        self.spec = spec
        return self

    def append(self, block):
        self.calls += 1
        if self.calls in self.broken:
            raise StorageError("no space left on device")
        start = sum(len(b["density_mean"]) for b in self.blocks)
        self.blocks.append(block)
        stop = start + len(block["density_mean"])
        return Written("file://localhost/a.h5", {name: f"/{name}" for name in block}, start, stop, 64)

    def close(self):
        self.closed += 1

    def rows(self, name):
        return np.concatenate([block[name] for block in self.blocks])


class Sink:
    def __init__(self) -> None:
        self.documents = []

    def __call__(self, name, doc):
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        json.dumps(doc)
        self.documents.append((name, dict(doc)))

    def of(self, name):
        return [doc for kind, doc in self.documents if kind == name]

    def column(self, key):
        return [value for page in self.of("event_page") for value in page["data"][key]]

    def resource(self, data_key):
        """The uid of the stream resource of a data key."""
        return next(doc["uid"] for doc in self.of("stream_resource") if doc["data_key"] == data_key)


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def posteriors(heard, raw_run, reconstructor):
    run = raw_run()
    for rg in (20.0, 25.0, 30.0):
        run.curve(rg)
    router = FrameRouter(heard, StreamSettings())
    for name, doc in run.documents:
        router(name, doc)
    return reconstructor(heard.frames)


RAW = {"uid": "raw-1", "time": 1.0, "scan_id": 42, "data_session": "pass-7", "tiled_access_tags": ["pass-7"]}


def derived(reconstructor, sink, store, raw=RAW, **options):
    return DerivedRun(raw, reconstructor.info, reconstructor.settings, sink, store, **options)


def test_documents_in_order_and_linked(reconstructor, sink, store, posteriors):
    run = derived(reconstructor, sink, store)
    run.add(posteriors)
    ledger = run.close("success", "")
    names = [name for name, _ in sink.documents]
    assert names == [
        "start",
        "descriptor",
        *["stream_resource", "stream_datum"] * 2,
        "event_page",
        "descriptor",
        "event",
        "stop",
    ]
    start = sink.of("start")[0]
    assert start["plan_name"] == "nfphasing"
    assert start["raw_uid"] == start["original_run_uid"] == "raw-1"
    assert (start["scan_id"], start["data_session"], start["tiled_access_tags"]) == (42, "pass-7", ["pass-7"])
    assert start["tiled_specs"] == [{"name": "NFPhasingRun", "version": "1.0"}]
    said = start["nfphasing"]
    assert said["settings_sha256"] == settings_sha256(reconstructor.settings)
    assert (said["model"], said["n_samples"], said["seed"]) == ("guinier", 32, 3)
    assert (said["stream"], said["data_key"]) == ("primary", "saxs")
    assert run.uid == start["uid"] != "raw-1"
    assert (ledger.received, ledger.reconstructed, ledger.unaccounted) == (3, 3, 0)
    assert sink.of("stop")[0]["num_events"] == {"density": 3, "ledger": 1}


def test_numbers_are_the_posteriors(reconstructor, sink, store, posteriors):
    run = derived(reconstructor, sink, store)
    run.add(posteriors)
    for result, rg, rg_std, chi2 in zip(
        posteriors,
        sink.column("rg_angstrom"),
        sink.column("rg_angstrom_std"),
        sink.column("reduced_chi2"),
        strict=True,
    ):
        assert rg == np.median(result.parameters["rg_angstrom"])
        assert rg_std == pytest.approx(result.parameters["rg_angstrom"].std())
        assert chi2 == result.trust.reduced_chi2
    assert np.isnan(sink.column("ess_fraction")).all()
    assert sink.column("probability_compact") == [1.0] * 3
    assert sink.column("raw_seq_num") == [1, 2, 3]
    np.testing.assert_array_equal(store.rows("density_mean"), [p.mean for p in posteriors])
    np.testing.assert_array_equal(store.rows("density_std"), [p.std for p in posteriors])


def test_the_heaviest_answers_are_kept_where_a_model_gives_several(reconstructor, sink, store, posteriors):
    reconstructor.info = replace(reconstructor.info, answers=3)
    one = posteriors[0]
    answers = np.repeat([0, 1], [20, 12])
    samples = np.where(answers[:, None], 2, 1) * one.mean + 1e-6 * one.samples
    both = replace(one, samples=samples, symmetry=Symmetry(), answers=answers)
    run = derived(reconstructor, sink, store)
    run.add([both, Failure(Origin(seq_num=2), "dark")])
    keys = sink.of("descriptor")[0]["data_keys"]
    assert keys["mode_mean"]["shape"] == [3, 48] and keys["mode_mean"]["dims"] == ["mode", "r"]
    np.testing.assert_allclose(store.rows("mode_weight")[0], [20 / 32, 12 / 32, 0])
    mean = store.rows("mode_mean")[0]
    np.testing.assert_allclose(mean[1], 2 * mean[0], atol=1e-4)
    assert np.isnan(mean[2]).all() and np.isnan(store.rows("mode_weight")[1]).all()


def test_axes_and_units_are_declared(reconstructor, sink, store, posteriors):
    run = derived(reconstructor, sink, store, store_samples=True)
    run.add(posteriors)
    descriptor = sink.of("descriptor")[0]
    keys = descriptor["data_keys"]
    assert keys["density_mean"]["dims"] == ["r"] and keys["density_mean"]["units"] == "1/angstrom"
    assert keys["density_samples"]["shape"] == [32, 48] and keys["density_samples"]["dims"] == ["draw", "r"]
    assert keys["rg_angstrom_std"]["units"] == "angstrom" and keys["verdict"]["dtype"] == "string"
    device = descriptor["configuration"]["nfphasing"]
    assert device["data"]["r"] == posteriors[0].density.axes[0].values.tolist()
    assert device["data_keys"]["r"]["units"] == "angstrom" and device["data"]["quantity"] == "p(r)"
    assert store.spec.axes["r"][1] == "angstrom" and store.spec.metadata["raw_uid"] == "raw-1"
    np.testing.assert_allclose(store.rows("density_samples")[1], posteriors[1].samples, rtol=1e-6)


def test_blocks_of_64_and_sequence_numbers(reconstructor, sink, store, posteriors):
    run = derived(reconstructor, sink, store)
    run.add(posteriors * 50)
    run.add(posteriors)
    run.close()
    means = [
        d for d in sink.of("stream_datum") if d["stream_resource"] == sink.of("stream_resource")[0]["uid"]
    ]
    assert [(d["indices"]["start"], d["indices"]["stop"]) for d in means] == [
        (0, 64),
        (64, 128),
        (128, 150),
        (150, 153),
    ]
    assert [(d["seq_nums"]["start"], d["seq_nums"]["stop"]) for d in means][-1] == (151, 154)
    assert [n for page in sink.of("event_page") for n in page["seq_num"]] == list(range(1, 154))


def test_a_failed_frame_is_an_event_too(reconstructor, sink, store, posteriors):
    failure = Failure(Origin("saxs", "raw-1", "primary", "saxs", 2, 8.0), "all points are masked")
    run = derived(reconstructor, sink, store)
    run.add([posteriors[0], failure, posteriors[2]])
    ledger = run.close("abort", "user")
    assert sink.column("verdict")[1] == "ALARM" and sink.column("reason")[1] == "all points are masked"
    assert np.isnan(sink.column("rg_angstrom")[1]) and sink.column("raw_seq_num") == [1, 2, 3]
    assert np.isnan(store.rows("density_mean")[1]).all() and np.isfinite(store.rows("density_mean")[2]).all()
    assert (ledger.reconstructed, ledger.failed) == (2, 1)
    stop = sink.of("stop")[0]
    assert (stop["exit_status"], stop["reason"]) == ("abort", "user")


def test_ledger_counts_and_percentiles(reconstructor, sink, store, posteriors):
    timed = [replace(posteriors[0], latency_s=float(n)) for n in range(1, 101)]
    run = derived(reconstructor, sink, store)
    run.add(timed)
    run.close(received=130, dropped=30)
    data = sink.of("event")[0]["data"]
    assert (data["received"], data["reconstructed"], data["dropped"], data["failed"]) == (130, 100, 30, 0)
    for p in (50, 90, 99):
        assert data[f"latency_p{p}_s"] == pytest.approx(np.percentile(np.arange(1, 101), p))
    assert sink.of("stop")[0]["exit_status"] == "success"


def test_frames_that_vanish_are_confessed(reconstructor, sink, store, posteriors):
    run = derived(reconstructor, sink, store)
    run.add(posteriors)
    run.close("success", "", received=5)
    stop = sink.of("stop")[0]
    assert stop["exit_status"] == "fail" and "2 of 5 frames are unaccounted for" in stop["reason"]


def test_a_run_without_frames_is_closed_properly(reconstructor, sink, store):
    run = derived(reconstructor, sink, store, data_key="eiger")
    run.close("fail", "beam lost")
    assert [name for name, _ in sink.documents] == ["start", "descriptor", "event", "stop"]
    assert sink.of("start")[0]["nfphasing"]["data_key"] == "eiger"
    data = sink.of("event")[0]["data"]
    assert data["received"] == 0 and np.isnan(data["latency_p50_s"])


def test_closing_twice_and_adding_after_the_end(reconstructor, sink, store, posteriors):
    run = derived(reconstructor, sink, store)
    run.add(posteriors)
    assert run.close() is run.close()
    assert store.closed == 1 and len(sink.of("stop")) == 1
    with pytest.raises(DocumentError, match="closed"):
        run.add(posteriors)


def test_another_axis_or_unit_in_the_same_run_fails_that_frame(reconstructor, sink, store, posteriors):
    axis = posteriors[0].density.axes[0]
    stretched = replace(
        posteriors[1], density=DensityInfo("p(r)", "1/angstrom", (Axis("r", 2 * axis.values, "nm"),))
    )
    scaled = replace(posteriors[1], density=DensityInfo("p(r)", "1/cm", (axis,)))
    longer = replace(posteriors[1], mean=np.zeros(50))
    run = derived(reconstructor, sink, store)
    run.add([posteriors[0], stretched, scaled, longer])
    reasons = sink.column("reason")
    assert "axis 'r'" in reasons[1] and "1/cm" in reasons[2] and "(50,)" in reasons[3]
    assert run.ledger.failed == 3


def test_arrays_that_cannot_be_kept_do_not_shift_later_ones(reconstructor, sink, posteriors):
    store = MemoryStore(broken=[2])
    run = derived(reconstructor, sink, store)
    for result in posteriors:
        run.add([result])
    ledger = run.close()
    rows = store.rows("density_mean")
    np.testing.assert_array_equal(rows[0], posteriors[0].mean)
    assert np.isnan(rows[1]).all()
    np.testing.assert_array_equal(rows[2], posteriors[2].mean)
    assert "not stored: no space left" in sink.column("reason")[1]
    of_mean = [
        doc for doc in sink.of("stream_datum") if doc["stream_resource"] == sink.resource("density_mean")
    ]
    assert [(doc["indices"]["start"], doc["indices"]["stop"]) for doc in of_mean] == [(0, 1), (1, 2), (2, 3)]
    assert [(doc["seq_nums"]["start"], doc["seq_nums"]["stop"]) for doc in of_mean] == [
        (1, 2),
        (2, 3),
        (3, 4),
    ]
    assert (ledger.reconstructed, ledger.failed) == (2, 1)


def test_arrays_owed_at_the_end_are_filled_up(reconstructor, sink, posteriors):
    store = MemoryStore(broken=[3])
    run = derived(reconstructor, sink, store)
    for result in posteriors:
        run.add([result])
    run.close()
    assert len(store.rows("density_mean")) == 3 and np.isnan(store.rows("density_mean")[2]).all()


def test_rows_that_are_owed_for_long_are_filled_up_a_few_at_a_time(
    reconstructor, sink, posteriors, monkeypatch
):
    monkeypatch.setattr(array_stream, "_FILLING_BYTES", 5 * 2 * 8 * posteriors[0].mean.size)
    store = MemoryStore(broken=range(2, 25))
    run = derived(reconstructor, sink, store)
    for result in posteriors[:1] * 26:
        run.add([result])
    ledger = run.close()
    assert [len(block["density_mean"]) for block in store.blocks] == [1, 5, 5, 5, 5, 3, 1, 1]
    lacking = np.isnan(store.rows("density_mean")).all(1)
    assert lacking.tolist() == [False] + 23 * [True] + 2 * [False]
    assert (ledger.reconstructed, ledger.failed) == (3, 23)


def test_the_same_settings_and_seed_give_the_same_rows(reconstructor, heard, raw_run):
    pages = []
    for _ in range(2):
        sink, store = Sink(), MemoryStore()
        run = raw_run()
        run.curve(33.0)
        router = FrameRouter(heard)
        for name, doc in run.documents:
            router(name, doc)
        derived_run = derived(reconstructor, sink, store)
        derived_run.add(reconstructor(heard.frames[-1:]))
        pages.append((sink.column("rg_angstrom"), store.rows("density_mean")))
    assert pages[0][0] == pages[1][0]
    np.testing.assert_array_equal(pages[0][1], pages[1][1])
