"""Results are stored in order beside the reconstruction, and count once they are stored."""

import threading

import pytest

from nfphasing_bluesky.core import StreamSettings
from nfphasing_bluesky.streaming.processor import StreamProcessor
from nfphasing_bluesky.streaming.storing import StoringThread
from tests.waiting import until


@pytest.fixture
def storing():
    made = StoringThread(waiting=2)
    yield made
    made.close()


def test_tasks_run_in_order_and_all_of_them(storing):
    done = []
    for number in range(50):
        storing(lambda n=number: done.append(n))
    storing.wait()
    assert done == list(range(50)) and storing.problem == ""


@pytest.mark.filterwarnings("ignore")
def test_a_task_that_raises_is_named_and_the_next_one_runs(storing):
    done = []

    def broken():
        raise OSError("no disk")

    storing(broken)
    storing(lambda: done.append(1))
    storing.wait()
    assert done == [1] and storing.problem == "OSError: no disk"


@pytest.mark.parametrize(
    ("limits", "there"),
    [
        ({"waiting": 1, "most_bytes": 25}, 2),  # the third would be 30 bytes
        ({"waiting": 3, "most_bytes": 0}, 3),  # however large
        ({"waiting": 1, "most_tasks": 2}, 2),
    ],
)
def test_who_hands_in_more_than_may_wait_has_to_wait(limits, there):
    storing, go, begun, handed = StoringThread(**limits), threading.Event(), threading.Event(), []
    storing(lambda: begun.set() or go.wait())
    assert begun.wait(240)

    def hand_in():
        for number in range(4):
            storing(lambda: None, 10)
            handed.append(number)

    thread = threading.Thread(target=hand_in)
    thread.start()
    assert until(lambda: len(handed) == there)
    thread.join(0.2)
    assert thread.is_alive() and len(handed) == there
    go.set()
    thread.join(240)
    assert len(handed) == 4
    storing.close()


def test_batches_that_wait_are_stored_in_one_block(storing, raw, tiny):
    go, documents = threading.Event(), []
    processor = StreamProcessor(
        StreamSettings(data_key="det", batch_size=2),
        raw.MemoryStore(),
        [lambda name, doc: documents.append((name, doc))],
        reconstructor=tiny.LineReconstructor(),
        later=storing,
    )
    storing(go.wait)
    for item in raw.raw_run(6):
        processor(*item)
    go.set()
    storing.wait()
    (page,) = [doc for name, doc in documents if name == "event_page"]
    assert page["data"]["raw_seq_num"] == [1, 2, 3, 4, 5, 6] and page["seq_num"] == [1, 2, 3, 4, 5, 6]
    assert processor.reconstructed == 6 and processor.open_runs == 0


def test_frames_count_once_they_are_stored_and_a_run_is_open_until_its_ledger_is(storing, raw, tiny):
    go, outcomes, documents = threading.Event(), [], []
    processor = StreamProcessor(
        StreamSettings(data_key="det", batch_size=2),
        raw.MemoryStore(),
        [lambda name, doc: documents.append((name, doc))],
        on_outcome=lambda outcome, _: outcomes.append(outcome),
        reconstructor=tiny.LineReconstructor(),
        later=storing,
    )
    storing(go.wait)
    for item in list(raw.raw_run(2))[:-1]:
        processor(*item)
    assert len(outcomes) == 2 and processor.reconstructed == 0 and documents == []
    go.set()
    processor.close("enough")
    storing.wait()
    assert processor.reconstructed == 2 and processor.open_runs == 0
    assert [name for name, _ in documents][-1] == "stop"
    (ledger,) = [doc["data"] for name, doc in documents if name == "event"]
    assert (ledger["received"], ledger["reconstructed"]) == (2, 2)
