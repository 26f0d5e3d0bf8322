"""Documents that are spoiled at random: whatever they hold, the next run is reconstructed."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfphasing_bluesky.core import Policy, StreamSettings
from nfphasing_bluesky.streaming.frames import FrameIndex
from nfphasing_bluesky.streaming.processor import StreamProcessor
from nfphasing_bluesky.streaming.queue import DocumentQueue

TEMPLATES = ("{:9000000000}", "%9000000000d", "{0.__class__}", "%s", "../x", "/dev/zero")
ODD = (
    st.sampled_from(TEMPLATES)
    | st.none()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just([])
    | st.just({})
    | st.binary()
)
SPOILS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.booleans(), ODD), max_size=6)


def spoil(items, spoils):
    """Remove or replace a value somewhere in some of the documents."""
    items = copy.deepcopy([(name, dict(doc)) for name, doc in items])
    for which, where, remove, value in spoils:
        node = items[which % len(items)][1]
        keys = sorted(node, key=str)
        if not keys:
            continue
        key = keys[where % len(keys)]
        while isinstance(node[key], dict) and node[key] and where % 3:
            node = node[key]
            key = sorted(node, key=str)[where % len(node)]
            where //= 2
        if remove:
            del node[key]
        else:
            node[key] = value
    return items


@given(SPOILS, st.sampled_from(["inline", "streamed", "images", "resource"]))
@settings(max_examples=120)
@pytest.mark.filterwarnings("ignore")
def test_spoiled_documents_harm_no_other_run(raw, tiny, spoils, kind):
    chosen, ledgers = StreamSettings(data_key="det"), []
    queue = DocumentQueue(1000, Policy.BLOCK, FrameIndex(chosen))
    processor = StreamProcessor(
        chosen,
        raw.MemoryStore(),
        [lambda name, doc: ledgers.append(doc["data"]) if name == "event" else None],
        reconstructor=tiny.LineReconstructor(),
    )
    processor._router._wait_s = 0.0
    bad = {
        "inline": lambda: raw.raw_run(5),
        "streamed": raw.stream_run,
        "images": lambda: raw.stream_run(uri="file://localhost/nowhere/", template="img_{:05d}.tif"),
        "resource": raw.resource_run,
    }[kind]()
    for name, doc in [*spoil(bad, spoils), *raw.raw_run(4, seed=1)]:
        try:
            queue.put(name, doc)
        except Exception:  # the intake logs it and goes on, whatever it is
            continue
        while (item := queue.get(0)) is not None:
            try:
                processor(*item)
            except Exception:  # and so does the worker
                pass
    processor.close()
    good = [d for d in ledgers if (d["received"], d["reconstructed"], d["failed"], d["lost"]) == (4, 4, 0, 0)]
    assert good
    for ledger in ledgers:
        assert ledger["received"] >= 0 and ledger["lost"] >= 0
