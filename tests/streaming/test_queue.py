import threading
import time

import event_model
import pytest

from nfphasing_bluesky.core import DocumentError, Policy, StreamSettings, TransportError
from nfphasing_bluesky.streaming.frames import FrameIndex
from nfphasing_bluesky.streaming.queue import DROPPED, DocumentQueue
from tests.waiting import until


def make(size, policy, burst=1, **settings):
    return DocumentQueue(size, policy, FrameIndex(StreamSettings(**settings)), burst=burst)


def drain(queue):
    items = []
    while (item := queue.get(0)) is not None:
        items.append(item)
    return items


def starts_to_wait(queue, *items):
    """Put items in another thread; the thread, once it waits for room."""
    producer = threading.Thread(target=lambda: [queue.put(*item) for item in items])
    producer.start()
    assert until(lambda: queue._changed._waiters)
    return producer


def split(items):
    kept = [doc["seq_num"] for name, doc in items if name == "event"]
    dropped = [n for name, doc in items if name == DROPPED for n in doc["seq_nums"]]
    return kept, dropped


@pytest.mark.parametrize("policy", [Policy.LATEST, Policy.SAMPLE])
@pytest.mark.parametrize("n", [5, 50, 500])
def test_every_frame_is_kept_or_on_record_and_nothing_else_is_dropped(raw, policy, n):
    queue = make(10, policy)
    for item in raw.raw_run(n):
        queue.put(*item)
    items = drain(queue)
    kept, dropped = split(items)
    assert sorted(kept + dropped) == list(range(1, n + 1))
    assert kept == sorted(kept) and len(kept) <= 10
    names = [name for name, _ in items if name not in ("event", DROPPED)]
    assert names == ["start", "descriptor", "stop"]
    statistics = queue.statistics()
    assert (statistics.received, statistics.dropped) == (n, len(dropped))
    assert items[-1][0] == "stop" and (not dropped or items[-2][0] == DROPPED)


def test_a_document_has_its_time_of_arrival():
    queue, before = DocumentQueue(4, Policy.BLOCK, lambda name, doc: None), time.monotonic()
    queue.put("start", {"uid": "a"})
    after = time.monotonic()
    assert queue.get() == ("start", {"uid": "a"}) and before <= queue.arrived <= after
    queue.put("stop", {"uid": "b"}, None, 100.0)
    queue.get()
    assert queue.arrived < before - 99


def test_latest_keeps_the_newest(raw):
    queue = make(7, Policy.LATEST)
    for item in raw.raw_run(40):
        queue.put(*item)
    assert split(drain(queue))[0] == list(range(34, 41))


def test_sample_keeps_frames_spread_over_the_scan(raw):
    queue = make(16, Policy.SAMPLE)
    for item in raw.raw_run(400):
        queue.put(*item)
    kept = split(drain(queue))[0]
    gaps = [b - a for a, b in zip(kept, kept[1:], strict=False)]
    assert kept[0] < 60 and kept[-1] > 340 and len(kept) >= 8
    assert max(gaps) <= 64


def test_sample_takes_every_frame_again_once_the_queue_has_drained(raw):
    queue = make(8, Policy.SAMPLE)
    documents = list(raw.raw_run(200))
    for item in documents[:102]:
        queue.put(*item)
    drain(queue)
    kept = []
    for item in documents[102:]:
        queue.put(*item)
        kept += [doc["seq_num"] for name, doc in drain(queue) if name == "event"]
    assert kept[-50:] == list(range(151, 201))


def test_block_waits_for_room_and_loses_nothing(raw):
    queue = make(3, Policy.BLOCK)
    producer = starts_to_wait(queue, *raw.raw_run(60))
    assert queue.statistics().waiting_frames == 3 and producer.is_alive()
    items = []
    while not items or items[-1][0] != "stop":
        items.append(queue.get(240))
    producer.join(240)
    assert split(items) == (list(range(1, 61)), [])


def test_who_had_to_wait_waits_for_room_for_several(raw):
    queue, documents = make(4, Policy.BLOCK, burst=2), list(raw.raw_run(6))
    for item in documents[:6]:  # start, descriptor and four frames
        queue.put(*item)
    producer = starts_to_wait(queue, documents[6])
    drained = [queue.get(240) for _ in range(3)]
    producer.join(0.1)
    assert producer.is_alive() and queue.statistics().waiting_frames == 3
    drained.append(queue.get(240))
    producer.join(240)
    assert not producer.is_alive()
    queue.put(*documents[7])  # room is left, nobody waits
    drained += [queue.get(240) for _ in range(4)]
    assert split(drained) == (list(range(1, 7)), [])


def test_closing_wakes_a_blocked_producer_and_records_its_frame(raw):
    queue = make(1, Policy.BLOCK)
    documents = list(raw.raw_run(2, stop=False))
    for item in documents[:3]:
        queue.put(*item)
    producer = starts_to_wait(queue, documents[3])
    queue.close()
    producer.join(240)
    assert not producer.is_alive()
    (record,) = queue.take_dropped()
    assert record == {"raw_uid": documents[0][1]["uid"], "seq_nums": [2]}
    with pytest.raises(TransportError, match="closed"):
        queue.put(*documents[0])


def test_interleaved_runs_have_separate_records(raw):
    queue = make(4, Policy.LATEST)
    first, second = list(raw.raw_run(10)), list(raw.raw_run(10))
    for pair in zip(first, second, strict=True):
        for item in pair:
            queue.put(*item)
    records = {doc["raw_uid"]: doc["seq_nums"] for name, doc in drain(queue) if name == DROPPED}
    assert set(records) == {first[0][1]["uid"], second[0][1]["uid"]}
    assert sum(map(len, records.values())) == 16


def test_events_of_other_streams_are_no_frames(raw):
    queue = make(2, Policy.LATEST)
    for item in raw.raw_run(30, stream="baseline"):
        queue.put(*item)
    assert len(split(drain(queue))[0]) == 30 and queue.statistics().received == 0


def test_derived_runs_carry_no_frames(raw):
    queue = make(2, Policy.LATEST)
    for item in raw.raw_run(30, md={"original_run_uid": "x"}):
        queue.put(*item)
    assert queue.statistics().received == 0


def test_stream_datum_ranges_are_counted_and_dropped_whole(raw):
    queue = make(1, Policy.LATEST, data_key="det")
    for item in raw.stream_run([(0, 4), (4, 10), (10, 11)]):
        queue.put(*item)
    items = drain(queue)
    assert [doc["seq_nums"] for name, doc in items if name == DROPPED] == [list(range(1, 11))]
    assert queue.statistics().received == 11
    assert [doc["indices"]["stop"] for name, doc in items if name == "stream_datum"] == [11]
    assert "stream_resource" in [name for name, _ in items]


@pytest.mark.parametrize("stop", [1_000_005, 858_993_459, 2**62, None, 4.0])
def test_rows_that_nobody_can_have_written_take_no_memory(raw, stop):
    queue = make(5, Policy.BLOCK, data_key="det")
    for name, doc in raw.stream_run([(0, 4), (4, 10)]):
        if name == "stream_datum" and doc["indices"]["start"] == 0:
            with pytest.raises(DocumentError, match="rows"):
                queue.put(name, {**doc, "indices": {"start": 0, "stop": stop}})
        else:
            queue.put(name, doc)
    assert queue.statistics().received == 6


def test_event_pages_count_every_event(raw):
    documents = list(raw.raw_run(6))
    page = event_model.pack_event_page(*[doc for name, doc in documents if name == "event"])
    queue = make(5, Policy.BLOCK)
    for item in [*documents[:2], ("event_page", page), documents[-1]]:
        queue.put(*item)
    assert queue.statistics().received == 6 and queue.statistics().waiting_frames == 1


def test_a_consumer_that_hangs_costs_the_producer_its_patience_once(raw):
    queue = DocumentQueue(2, Policy.BLOCK, FrameIndex(StreamSettings()), patience_s=0.2)
    waits, wait_for = [], queue._changed.wait_for
    queue._changed.wait_for = lambda room, patience: waits.append(patience) or wait_for(room, patience)
    for item in raw.raw_run(40):
        queue.put(*item)
    assert waits == [0.2] + 37 * [0.0]
    assert split(drain(queue)) == ([1, 2], list(range(3, 41)))


CURVE_BYTES = 3 * 20 * 8


def light(policy, most, size=1000, **options):
    """A queue that is full with `most` curves by their bytes alone."""
    return DocumentQueue(size, policy, FrameIndex(StreamSettings()), most_bytes=most * CURVE_BYTES, **options)


@pytest.mark.parametrize("policy", [Policy.LATEST, Policy.SAMPLE])
@pytest.mark.parametrize("md", [{}, {"nfphasing": {"accumulate": True}}])
def test_no_more_bytes_wait_than_may_and_every_drop_is_on_record(raw, policy, md):
    queue = light(policy, 5)
    for item in raw.raw_run(60, md=md):
        queue.put(*item)
        assert queue.statistics().waiting_frames <= 5
    kept, dropped = split(drain(queue))
    assert sorted(kept + dropped) == list(range(1, 61)) and 1 <= len(kept) <= 5


@pytest.mark.parametrize("md", [{}, {"nfphasing": {"accumulate": True}}])
@pytest.mark.parametrize("burst", [1, 500])
def test_block_waits_for_bytes_too_also_with_what_later_frames_need(raw, md, burst):
    queue = light(Policy.BLOCK, 4, burst=burst)
    producer = starts_to_wait(queue, *raw.raw_run(30, md=md))
    assert queue.statistics().waiting_frames == 4 and producer.is_alive()
    items = []
    while not items or items[-1][0] != "stop":
        items.append(queue.get(240))
    producer.join(240)
    assert split(items) == (list(range(1, 31)), [])


def test_block_waits_for_room_with_what_later_frames_need(raw):
    queue = make(3, Policy.BLOCK)
    producer = starts_to_wait(queue, *list(raw.raw_run(4, md={"nfphasing": {"accumulate": True}}))[:-1])
    assert queue.statistics().waiting_frames == 3
    queue.close()
    producer.join(240)
    (record,) = queue.abandon()
    assert record["seq_nums"] == [1, 2, 3, 4]


def test_a_document_that_is_larger_than_all_that_may_wait_is_taken_alone(raw):
    queue = light(Policy.BLOCK, 0.5)
    documents = list(raw.raw_run(2))
    for item in documents[:3]:
        queue.put(*item)
    producer = starts_to_wait(queue, documents[3])
    assert [queue.get(240)[0] for _ in range(4)] == ["start", "descriptor", "event", "event"]
    producer.join(240)


def test_images_as_lists_of_numbers_count_too(raw):
    queue = DocumentQueue(1000, Policy.LATEST, FrameIndex(StreamSettings(data_key="det")), most_bytes=50_000)
    for name, doc in raw.raw_run(10):
        if name == "event":
            doc = {**doc, "data": {**doc["data"], "det": [[1.0] * 20] * 20}}
        queue.put(name, doc)
    assert split(drain(queue))[0] == [8, 9, 10]


def test_bytes_that_somebody_knows_are_counted_instead_of_those_in_arrays(raw):
    queue = light(Policy.LATEST, 4)
    for name, doc in raw.raw_run(10):
        queue.put(name, doc, 2 * CURVE_BYTES)
    assert split(drain(queue))[0] == [9, 10]
