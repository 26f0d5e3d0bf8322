import re

import event_model
import numpy as np
import pytest

from nfphasing_bluesky.core import Frame, StreamSettings
from nfphasing_bluesky.documents.numbered import NumberedRun
from nfphasing_bluesky.documents.router import FrameRouter

IMAGE = np.ones((3, 4), np.uint16)
HOLOGRAM = {"nfphasing": {"geometry": {"fresnel_number": 0.01, "photons": 1.0}}}


class Listener:
    def __init__(self):
        self.frames, self.stopped = [], []

    def run_started(self, start):
        self.start = start

    def frame(self, frame):
        self.frames.append(frame)

    def run_stopped(self, uid, status, reason):
        self.stopped.append((uid, status))


@pytest.fixture
def followed():
    """A run and what is heard of it, its documents validated."""
    listener = Listener()
    router = FrameRouter(listener, StreamSettings())

    def emit(name, doc):
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        listener.documents.append((name, doc))
        router(name, doc)

    listener.documents = []
    return NumberedRun(emit, "image", first=10, metadata=HOLOGRAM), listener


def test_frames_arrive_with_their_numbers(followed):
    run, heard = followed
    for number in (10, 11, 14):
        run.take(number, IMAGE * number, 1.5)
    run.take(14, IMAGE, 2.0)  # seen before
    run.stop(last=15)
    assert [f.origin.seq_num for f in heard.frames] == [1, 2, 5]
    assert all(isinstance(f, Frame) and f.origin.raw_uid == run.uid for f in heard.frames)
    np.testing.assert_array_equal(heard.frames[2].intensity, IMAGE * 14)
    assert (run.taken, run.lost) == (3, 2)
    assert heard.documents[-1][1]["num_events"] == {"primary": 6}
    assert heard.stopped == [(run.uid, "success")]


BAD = {
    r"\(4, 3\).*expected \(3, 4\) of uint16": np.ones((4, 3), np.uint16),
    "float32, expected .* uint16": IMAGE.astype(np.float32),
    r"\(2, 3, 4\) .* expected an image or a curve": np.ones((2, 3, 4)),
    "U1, expected an image or a curve": np.array(["a"]),
    "damaged header": "DATA_ARRAY has a damaged header",
}


def failed_among(heard):
    (failed,) = [frame for frame in heard.frames if not isinstance(frame, Frame)]
    return failed


@pytest.mark.parametrize("why", BAD)
def test_a_frame_that_is_none_fails_with_its_reason(followed, why):
    run, heard = followed
    for number, frame in enumerate((IMAGE, BAD[why], IMAGE), start=10):
        run.take(number, frame, 0.0)
    run.stop()
    assert len(heard.frames) == 3 and re.search(why, failed_among(heard).reason)


@pytest.mark.parametrize("why", list(BAD)[2:])
def test_so_does_the_first(followed, why):
    run, heard = followed
    for number, frame in enumerate((BAD[why], IMAGE, IMAGE), start=10):
        run.take(number, frame, 0.0)
    run.stop()
    assert len(heard.frames) == 3 and re.search(why, failed_among(heard).reason)


def test_a_run_without_frames_can_stop(followed):
    run, heard = followed
    run.stop("abort", "nothing came")
    assert heard.frames == [] and heard.stopped == [(run.uid, "abort")]
