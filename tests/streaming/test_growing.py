"""Frames that grow, on their way: no point is lost, and what has been overtaken may be left out."""

import event_model
import numpy as np
import pytest

from nfphasing_bluesky.core import Policy, StreamSettings
from nfphasing_bluesky.streaming.frames import FrameIndex
from nfphasing_bluesky.streaming.processor import StreamProcessor
from nfphasing_bluesky.streaming.queue import DocumentQueue

POINTS = {"intensity": "det", "q": "q", "sigma": "error", "units": "1/angstrom", "first": 3}
NUMBER = {"source": "sim", "dtype": "number", "shape": []}


def point_run(n: int):
    """Yield the documents of a scan of n points along a line."""
    run = event_model.compose_run(metadata={"nfphasing": {"points": POINTS}})
    yield "start", run.start_doc
    keys = {name: dict(NUMBER) for name in ("det", "q", "error")}
    bundle = run.compose_descriptor(name="primary", data_keys=keys)
    yield "descriptor", bundle.descriptor_doc
    rng = np.random.default_rng(0)
    for i in range(n):
        data = {"det": 100 + i + rng.normal(), "q": 0.01 * (i + 1), "error": 1.0}
        yield "event", bundle.compose_event(data=data, timestamps=dict.fromkeys(keys, float(i)))
    yield "stop", run.compose_stop()


@pytest.fixture
def derived(raw, tiny):
    """Run documents through a processor; returns it, the derived documents and the reconstructor."""

    def run(items, **settings):
        documents, line = [], tiny.LineReconstructor()
        processor = StreamProcessor(
            StreamSettings(**settings),
            raw.MemoryStore(),
            [lambda name, doc: documents.append((name, doc))],
            reconstructor=line,
        )
        for item in items:
            processor(*item)
        return processor, documents, line

    return run


def ledger(documents) -> dict:
    (descriptor,) = [d for n, d in documents if n == "descriptor" and d["name"] == "ledger"]
    (event,) = [d for n, d in documents if n == "event" and d["descriptor"] == descriptor["uid"]]
    return {name: int(event["data"][name]) for name in ("received", "reconstructed", "dropped", "failed")}


def rows(documents, name) -> list:
    return [
        value for n, d in documents if n == "event_page" and name in d["data"] for value in d["data"][name]
    ]


def test_the_band_shrinks_as_points_arrive(derived):
    _, documents, line = derived(point_run(30))
    assert sum(line.batches) == 28
    assert rows(documents, "raw_seq_num") == list(range(3, 31))
    spread = rows(documents, "offset_inv_cm_std")
    assert spread[-1] < 0.5 * spread[0]
    assert ledger(documents) == {"received": 28, "reconstructed": 28, "dropped": 0, "failed": 0}


def test_latest_reconstructs_the_newest_and_counts_the_others(derived):
    processor, documents, line = derived(point_run(30), policy=Policy.LATEST)
    assert sum(line.batches) == 1 and rows(documents, "raw_seq_num") == [30]
    assert ledger(documents) == {"received": 28, "reconstructed": 1, "dropped": 27, "failed": 0}
    assert (processor.reconstructed, processor.discarded) == (1, 27)


@pytest.mark.parametrize("policy", list(Policy))
def test_no_point_is_dropped_in_the_queue(policy):
    queue = DocumentQueue(4, policy, FrameIndex(StreamSettings()), patience_s=0.0)
    for item in point_run(30):
        queue.put(*item)
    taken = [queue.get(0) for _ in range(33)]
    assert [item[0] for item in taken if item] == ["start", "descriptor", *["event"] * 30, "stop"]
    statistics = queue.statistics()
    assert (statistics.received, statistics.dropped) == (28, 0)
