import numpy as np
import pytest

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin, StreamSettings, TransportError
from nfphasing_bluesky.streaming import pattern, wire
from nfphasing_bluesky.streaming.pattern import PatternResult, Patterns
from nfphasing_bluesky.streaming.processor import StreamProcessor


def test_the_last_frame_is_always_told_and_the_others_at_the_rate(raw, tiny, monkeypatch):
    told, clock = [], [0.0]
    monkeypatch.setattr(pattern.time, "monotonic", lambda: clock[0])
    patterns = Patterns(
        lambda message: told.append(PatternResult.from_message(wire.unpack(wire.pack(message))))
    )
    frames = [
        Frame(np.full(3, 5.0), CurveGeometry(np.arange(1.0, 4.0)), origin=Origin(seq_num=n))
        for n in (1, 2, 3)
    ]
    posterior = tiny.LineReconstructor()([frames[0]])[0]
    for frame in frames:
        patterns.take(frame, posterior, 0)
    assert [p.seq_num for p in told] == [1]
    clock[0] = 1 / pattern.PATTERNS_A_SECOND
    patterns.poll()
    patterns.poll()
    assert [p.seq_num for p in told] == [1, 3]


def test_the_last_frame_waits_for_somebody_to_listen(tiny):
    told, listeners = [], []
    patterns = Patterns(lambda message: told.append(message["seq_num"]), lambda: bool(listeners))
    frames = [
        Frame(np.full(3, 5.0), CurveGeometry(np.arange(1.0, 4.0)), origin=Origin(seq_num=n)) for n in (1, 2)
    ]
    posterior = tiny.LineReconstructor()([frames[0]])[0]
    for frame in frames:
        patterns.take(frame, posterior, 0)
    assert told == []
    listeners.append("somebody")
    patterns.poll()
    assert told == [2]


def test_a_pattern_is_the_frame_beside_its_prediction(raw, tiny):
    told = []
    processor = StreamProcessor(
        StreamSettings(data_key="det"),
        raw.MemoryStore(),
        reconstructor=tiny.LineReconstructor(),
        on_pattern=lambda frame, posterior, answers: told.append(PatternResult.of(frame, posterior, answers)),
    )
    items = list(raw.raw_run(2, poison={2: lambda v: -v}))
    for item in items:
        processor(*item)
    (one,) = told  # the second frame failed
    np.testing.assert_allclose(one.measured, items[2][1]["data"]["det"], rtol=1e-6)
    np.testing.assert_allclose(one.q_inv_angstrom, raw.Q)
    assert np.abs(one.predicted - one.measured).max() < 5
    assert (one.lower < one.predicted).all() and (one.predicted < one.upper).all()
    assert one.mode_weights == () and one.mode_mean is None


def test_masked_points_are_nan(tiny):
    mask = np.array([True, False, False])
    frame = Frame(np.full(3, 5.0), CurveGeometry(np.arange(1.0, 4.0)), mask=mask)
    whole = Frame(np.full(3, 5.0), CurveGeometry(np.arange(1.0, 4.0)))
    one = PatternResult.of(frame, tiny.LineReconstructor()([whole])[0])
    np.testing.assert_array_equal(one.measured, np.array([np.nan, 5, 5], np.float32))


def test_something_else_is_refused():
    with pytest.raises(TransportError, match="versions differ"):
        PatternResult.from_message({"raw_uid": "a"})
