import time

import event_model
import numpy as np
import pytest
from event_model import DocumentNames, schema_validators

from nfphasing_bluesky.core import Failure, Policy, StreamSettings
from nfphasing_bluesky.documents.orphans import completed
from nfphasing_bluesky.documents.remedy import SOURCE_PLAN
from nfphasing_bluesky.streaming.arrivals import Arrivals
from nfphasing_bluesky.streaming.frames import FrameIndex, FrameSpan
from nfphasing_bluesky.streaming.processor import StreamProcessor
from nfphasing_bluesky.streaming.queue import DocumentQueue


@pytest.fixture
def made(raw, tiny):
    """A processor with its reconstructor, derived documents and outcomes."""

    class Made:
        def __init__(self, reconstructor=None, store=None, **settings):
            self.documents, self.outcomes = [], []
            self.reconstructor = reconstructor or tiny.LineReconstructor()
            self.store = store or raw.MemoryStore()
            self.processor = StreamProcessor(
                StreamSettings(data_key="det", **settings),
                self.store,
                [lambda name, doc: self.documents.append((name, doc))],
                lambda outcome, latency: self.outcomes.append((outcome, latency)),
                self.reconstructor,
            )

        def feed(self, items):
            for item in items:
                self.processor(*item)
            return self

        def ledgers(self):
            ledgers = [d for n, d in self.documents if n == "descriptor" and d["name"] == "ledger"]
            uids = {d["uid"] for d in ledgers}
            return [d["data"] for n, d in self.documents if n == "event" and d["descriptor"] in uids]

        def named(self, name):
            return [d for n, d in self.documents if n == name]

    return Made


def counts(ledger):
    return tuple(ledger[name] for name in ("received", "reconstructed", "dropped", "failed"))


def test_a_run_becomes_a_linked_valid_derived_run(made, raw):
    run = made().feed(items := list(raw.raw_run(10)))
    assert [n for n, _ in run.documents][0] == "start" and [n for n, _ in run.documents][-1] == "stop"
    (start,) = run.named("start")
    assert start["original_run_uid"] == start["raw_uid"] == items[0][1]["uid"]
    for name, doc in run.documents:
        schema_validators[DocumentNames[name]].validate(doc)
    assert counts(run.ledgers()[0]) == (10, 10, 0, 0)
    assert [o.origin.seq_num for o, _ in run.outcomes] == list(range(1, 11))


def test_what_the_start_document_says_in_vain_is_in_the_derived_one(made, raw):
    said = {"nfphasing": {"absolut": True, "contrast_inv_cm2": 3e10}}
    run = made().feed(raw.raw_run(3, md=said))
    (start,) = run.named("start")
    misspelt, contrast = start["nfphasing"]["remarks"]
    assert "did you mean 'absolute'?" in misspelt and "contrast_inv_cm2" in contrast
    assert counts(run.ledgers()[0]) == (3, 3, 0, 0)
    (start,) = made().feed(raw.raw_run(3)).named("start")
    assert "remarks" not in start["nfphasing"]


def test_the_line_is_found(made, raw):
    run = made().feed(raw.raw_run(20))
    offsets = [o.parameters["offset_inv_cm"].mean() for o, _ in run.outcomes]
    assert np.mean(offsets) == pytest.approx(100, abs=0.5)
    (blocks,) = run.store.blocks.values()
    assert sum(len(b["density_mean"]) for b in blocks) == 20


def test_frames_are_batched_up_to_the_batch_size(made, raw):
    run = made(batch_size=8).feed(raw.raw_run(20))
    assert run.reconstructor.batches == [8, 8, 4]


def test_a_latency_is_counted_from_the_arrival_of_the_frame(made, raw):
    """In the events, in the ledger and in what Tango is told alike; also of frames that waited for others."""
    run, now = made(batch_size=4), time.monotonic()
    for number, (name, doc) in enumerate(raw.raw_run(6)):
        run.processor(name, doc, now - 100.0 * number)
    told = [latency for _, latency in run.outcomes]
    events = [i for n, d in run.documents if n == "event_page" for i in d["data"].get("latency_s", ())]
    assert events == told == [outcome.latency_s for outcome, _ in run.outcomes]
    # the first event is the third document
    assert [latency // 100 for latency in told] == [2, 3, 4, 5, 6, 7]
    assert run.ledgers()[0]["latency_p50_s"] == pytest.approx(np.median(told))


def test_arrivals_of_frames_out_of_order():
    arrivals = Arrivals()
    for first, at in ((1, 10.0), (21, 30.0), (11, 20.0)):
        arrivals.add(FrameSpan("uid", tuple(range(first, first + 5))), at)
    assert [arrivals.of(n, 99.0) for n in (1, 5, 6, 12, 25, 26)] == [10.0, 10.0, 99.0, 20.0, 30.0, 99.0]


def test_a_deadline_flushes_a_partial_batch(made, raw):
    run = made(batch_size=64, deadline_s=0.0)
    assert run.processor.due_in_s() == float("inf")
    run.feed(list(raw.raw_run(3))[:-1])
    assert run.processor.due_in_s() == 0 and not run.outcomes
    run.processor.poll()
    assert len(run.outcomes) == 3 and run.processor.due_in_s() == float("inf")


def nan(values):
    return np.full_like(values, np.nan)


def test_a_frame_that_makes_the_model_raise_fails_alone(made, raw):
    run = made().feed(raw.raw_run(9, poison={4: nan}))
    assert counts(run.ledgers()[0]) == (9, 8, 0, 1)
    (failure,) = [o for o, _ in run.outcomes if isinstance(o, Failure)]
    assert failure.origin.seq_num == 4 and "NaN reached the model" in failure.reason


@pytest.mark.parametrize(
    "spoil", [lambda v: -v, lambda v: v[:5], lambda v: v.reshape(4, 5), lambda v: "text", lambda v: None]
)
def test_spoilt_frames_become_failures_with_a_reason(made, raw, spoil):
    run = made().feed(raw.raw_run(5, poison={2: spoil}))
    assert counts(run.ledgers()[0]) == (5, 4, 0, 1)
    (failure,) = [o for o, _ in run.outcomes if isinstance(o, Failure)]
    assert failure.reason


def test_a_reconstructor_that_answers_too_few_loses_nothing(made, raw, tiny):
    class Short(tiny.LineReconstructor):
        def __call__(self, frames):
            return super().__call__(frames)[: 1 if len(frames) > 1 else None]

    run = made(reconstructor=Short()).feed(raw.raw_run(6))
    assert counts(run.ledgers()[0]) == (6, 6, 0, 0)


def test_a_wrong_data_key_fails_every_frame_and_says_what_there_is(made, raw):
    run = made().feed(raw.raw_run(4, data_key="other"))
    assert counts(run.ledgers()[0]) == (4, 0, 0, 4)
    assert "other" in run.outcomes[0][0].reason


def test_missing_files_fail_every_frame(made, raw, monkeypatch):
    run = made()
    run.processor._router._wait_s = 0.0
    run.feed(raw.stream_run([(0, 3), (3, 5)]))
    assert counts(run.ledgers()[0]) == (5, 0, 0, 5)
    assert "nowhere.h5" in run.outcomes[0][0].reason


def test_interleaved_runs_have_derived_runs_of_their_own(made, raw):
    first, second = list(raw.raw_run(7, seed=1)), list(raw.raw_run(5, seed=2))
    second += [None] * (len(first) - len(second))
    run = made(batch_size=4)
    run.feed(item for pair in zip(first, second, strict=True) for item in pair if item)
    assert sorted(counts(ledger) for ledger in run.ledgers()) == [(5, 5, 0, 0), (7, 7, 0, 0)]
    assert len({d["uid"] for d in run.named("start")}) == 2


def test_event_pages_are_taken(made, raw):
    items = list(raw.raw_run(6))
    page = event_model.pack_event_page(*[d for n, d in items if n == "event"])
    run = made().feed([*items[:2], ("event_page", page), items[-1]])
    assert counts(run.ledgers()[0]) == (6, 6, 0, 0)


def test_a_run_without_stop_is_ended_as_aborted(made, raw):
    run = made().feed(raw.raw_run(3, stop=False))
    run.processor.close("the worker was shut down")
    (stop,) = run.named("stop")
    assert stop["exit_status"] == "abort" and "shut down" in stop["reason"]
    assert counts(run.ledgers()[0]) == (3, 3, 0, 0) and run.processor.open_runs == 0


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = [1000.0]
    monkeypatch.setattr("nfphasing_bluesky.streaming.silence.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("another", "patience_s"), [(True, 100.0), (False, 2400.0)])
def test_a_run_that_falls_silent_is_ended_once_it_is_not_worth_waiting_for(
    made, raw, clock, another, patience_s
):
    run, missed = made(abandon_after_s=100), []
    run.processor._on_missed = lambda raw_uid, why: missed.append((raw_uid, why))
    silent, other = list(raw.raw_run(5)), list(raw.raw_run(2, seed=1))
    run.feed(silent[:4])
    clock[0] += 1
    run.feed(other if another else [])
    clock[0] += patience_s - 2
    run.processor.abandon()
    assert run.processor.open_runs == 1 and missed == []
    clock[0] += 2
    run.processor.abandon()
    assert run.processor.open_runs == 0
    (stop,) = [doc for doc in run.named("stop") if doc["exit_status"] == "abort"]
    assert "abandoned: nothing has come of it for" in stop["reason"]
    assert counts(run.ledgers()[-1]) == (2, 2, 0, 0)
    uid = silent[0][1]["uid"]
    assert [raw_uid for raw_uid, _ in missed] == [uid] and f"replay {uid} --missing" in missed[0][1]

    run.feed(silent[4:])
    assert run.processor.discarded == 3 and len(run.ledgers()) == 1 + another
    assert [raw_uid for raw_uid, _ in missed] == [uid, uid]
    assert missed[1][1].startswith("it went on after it was closed as abandoned; `nfphasing replay")


@pytest.mark.parametrize(("events", "named"), [(2, 1), (3, 2)])
def test_the_late_stop_of_an_abandoned_run_tells_whether_anything_was_lost(made, raw, clock, events, named):
    run, missed = made(abandon_after_s=1), []
    run.processor._on_missed = lambda raw_uid, why: missed.append(raw_uid)
    items = list(raw.raw_run(events))
    run.feed(items[:4])
    clock[0] += 25
    run.processor.abandon()
    run.feed(items[-1:])
    assert len(missed) == named and len(run.named("stop")) == 1


@pytest.mark.parametrize("status", ["abort", "fail"])
def test_the_exit_status_of_the_raw_run_is_kept(made, raw, status):
    assert made().feed(raw.raw_run(2, status=status)).named("stop")[0]["exit_status"] == status


def test_derived_runs_are_never_processed(made, raw):
    run = made()
    documents = made().feed(raw.raw_run(3)).documents
    assert not run.feed(documents).documents


def test_the_queue_and_the_processor_agree_on_every_frame(made, raw):
    settings = StreamSettings(data_key="det")
    queue = DocumentQueue(6, Policy.LATEST, FrameIndex(settings))
    for item in raw.raw_run(50):
        queue.put(*item)
    run = made()
    while (item := queue.get(0)) is not None:
        run.processor(*item)
    assert counts(run.ledgers()[0]) == (50, 6, 44, 0)


def test_dropped_frames_of_files_are_in_the_ledger(made, raw):
    settings = StreamSettings(data_key="det")
    queue = DocumentQueue(1, Policy.LATEST, FrameIndex(settings))
    for item in raw.stream_run([(0, 3), (3, 5)]):
        queue.put(*item)
    run = made()
    run.processor._router._wait_s = 0.0
    while (item := queue.get(0)) is not None:
        run.processor(*item)
    assert counts(run.ledgers()[0]) == (5, 0, 3, 2)


def lost(documents, raw, numbers):
    """The documents without the events of these numbers."""
    return [(n, d) for n, d in documents if n != "event" or d["seq_num"] not in numbers]


@pytest.mark.parametrize("numbers", [{1}, {3, 4, 7}, {10}, set(range(1, 11))])
def test_frames_that_never_arrive_are_counted_as_lost_and_named(made, raw, numbers):
    run = made()
    missed = []
    run.processor._on_missed = lambda uid, why: missed.append((uid, why))
    items = list(raw.raw_run(10))
    run.feed(lost(items, raw, numbers))
    (ledger,), (stop,) = run.ledgers(), run.named("stop")
    assert counts(ledger) == (10 - len(numbers), 10 - len(numbers), 0, 0)
    assert ledger["lost"] == len(numbers) and stop["exit_status"] == "fail"
    assert f"{len(numbers)} frames never arrived" in stop["reason"]
    assert f"nfphasing replay {items[0][1]['uid']} --missing" in stop["reason"]
    ((missed_uid, why),) = missed
    assert missed_uid == items[0][1]["uid"] and f"{len(numbers)} of its frames never arrived" in why
    assert f"nfphasing replay {missed_uid} --missing" in why
    if numbers == {3, 4, 7}:
        assert "(3 to 4, 7)" in stop["reason"]


def test_nobody_is_sent_to_a_catalog_for_frames_that_none_has(made, raw):
    """Those of a Tango device's image attribute, whose documents are made for the worker alone."""
    run = made()
    missed = []
    run.processor._on_missed = lambda uid, why: missed.append(why)
    documents = list(raw.raw_run(5))
    start = {**documents[0][1], "plan_name": SOURCE_PLAN, "source": "tango:test/detector/1/image"}
    run.feed(lost([("start", start), *documents[1:]], raw, {2}))
    (derived,), (stop,) = run.named("start"), run.named("stop")
    assert derived["nfphasing"]["source"] == "tango:test/detector/1/image"
    for words in (missed[0], stop["reason"]):
        assert "replay" not in words and "no catalog has the frames of tango:test/detector/1/image" in words
    killed = completed([item for item in run.documents if item[0] != "stop"])
    assert "no catalog has the frames of tango:test/detector/1/image" in killed[-1][1]["reason"]
    assert "replay" not in killed[-1][1]["reason"]


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ({"num_events": {"primary": 2**64 - 1}}, 2**40 - 3),
        ({"num_events": {"primary": "many"}}, 0),
        ({"num_events": [3]}, 0),
        ({"exit_status": "weird", "reason": ["?"]}, 0),
        ({"exit_status": {}, "reason": None}, 0),
    ],
)
def test_whatever_a_stop_document_says_the_derived_run_ends(made, raw, said, lost):
    run = made()
    *documents, (name, stop) = raw.raw_run(3)
    run.feed([*documents, (name, {**stop, **said})])
    (ledger,), (derived,) = run.ledgers(), run.named("stop")
    assert counts(ledger) == (3, 3, 0, 0) and ledger["lost"] == lost
    assert derived["exit_status"] == ("fail" if lost or "exit_status" in said else "success")
    assert run.processor.open_runs == 0


def test_a_lost_descriptor_loses_every_frame(made, raw):
    run = made().feed([item for item in raw.raw_run(4) if item[0] != "descriptor"])
    assert run.ledgers()[0]["lost"] == 4 and run.named("stop")[0]["exit_status"] == "fail"


def test_events_without_frames_are_not_lost(made, raw):
    """A stream of motor positions alone, when no data key was asked for."""
    run = made(stream="primary")
    start = event_model.compose_run()
    keys = {"x": {"source": "test", "dtype": "number", "shape": []}}
    bundle = start.compose_descriptor(name="primary", data_keys=keys)
    run.processor = StreamProcessor(
        StreamSettings(), run.store, run.processor._sinks, reconstructor=run.reconstructor
    )
    run.feed([("start", start.start_doc), ("descriptor", bundle.descriptor_doc)])
    run.feed([("event", bundle.compose_event(data={"x": 1.0}, timestamps={"x": 0.0}))])
    run.feed([("stop", start.compose_stop())])
    assert run.ledgers()[0]["lost"] == 0 and run.named("stop")[0]["exit_status"] == "success"


def test_a_run_whose_beginning_was_missed_is_named_at_its_end(made, raw):
    run = made()
    missed = []
    run.processor._on_missed = lambda uid, why: missed.append((uid, why))
    items = list(raw.raw_run(3))
    run.feed(items[2:])
    ((missed_uid, why),) = missed
    assert missed_uid == items[0][1]["uid"] and "its beginning was not received" in why and not run.documents
    assert f"nfphasing replay {missed_uid} --missing" in why
    derived = list(made().feed(raw.raw_run(1)).documents)
    run.feed(derived)
    assert len(missed) == 1


def test_a_sink_that_raises_is_named_and_loses_no_frame(made, raw):
    run = made()

    def broken(name, doc):
        raise OSError("disk full")

    run.processor._sinks += (broken,)
    run.feed(raw.raw_run(3))
    assert "disk full" in run.processor.trouble and "broken" in run.processor.trouble
    assert counts(run.ledgers()[0]) == (3, 3, 0, 0)


def test_arrays_that_cannot_be_stored_are_failures_in_the_ledger_and_trouble(made, raw):
    run = made(store=raw.MemoryStore(broken=True)).feed(raw.raw_run(3))
    assert counts(run.ledgers()[0]) == (3, 0, 0, 3)
    assert (run.processor.reconstructed, run.processor.failed) == (0, 3)
    assert "could not be stored" in run.processor.trouble


def test_a_model_change_concerns_the_next_run_only(made, raw, tiny):
    run = made(batch_size=2)
    items = list(raw.raw_run(4))
    run.feed(items[:4])
    newer = tiny.LineReconstructor()
    run.processor.use(newer)
    run.feed(items[4:])
    assert not newer.batches
    run.feed(raw.raw_run(2))
    assert newer.batches == [2]


def test_frames_of_runs_that_are_not_followed_count_as_discarded(made, raw):
    run = made()
    run.processor.use(None)
    run.feed(raw.raw_run(4))
    assert run.processor.discarded == 4 and not run.documents


def test_the_same_run_gives_the_same_numbers_however_it_is_batched(made, raw):
    items = list(raw.raw_run(9))
    means = []
    for size in (1, 4, 64):
        run = made(batch_size=size).feed(items)
        means.append(np.stack([o.mean for o, _ in run.outcomes]))
    np.testing.assert_array_equal(means[0], means[1])
    np.testing.assert_array_equal(means[0], means[2])
