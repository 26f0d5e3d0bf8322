"""One frame that grows from the events of a run: points of a curve, and exposures that add up."""

import event_model
import numpy as np
import pytest
from pydantic import ValidationError

from nfphasing_bluesky.core import PointScan, StreamSettings
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.streaming.frames import FrameIndex
from tests.documents.conftest import Heard, RawRun, guinier_curve

WAVELENGTH = 1.54
POINTS = {"intensity": "det", "two_theta": "tth", "wavelength_angstrom": WAVELENGTH, "first": 3}
KEYS = {
    "det": {"source": "sim", "dtype": "number", "shape": []},
    "tth": {"source": "sim", "dtype": "number", "shape": [], "units": "deg"},
    "monitor": {"source": "sim", "dtype": "number", "shape": []},
}


def heard_of(run: RawRun, settings: StreamSettings | None = None) -> Heard:
    heard = Heard()
    router = FrameRouter(heard, settings)
    for name, doc in run.documents:
        router(name, doc)
    return heard


def scan(points: dict, places, counts, monitor=None, keys=KEYS) -> RawRun:
    run = RawRun(keys, nfphasing={"points": points})
    for i, (place, count) in enumerate(zip(places, counts, strict=True)):
        run.event(tth=place, det=count, monitor=1.0 if monitor is None else monitor[i])
    run.stop()
    return run


def counted(run: RawRun, settings: StreamSettings | None = None) -> int:
    index = FrameIndex(settings or StreamSettings())
    return sum(len(span) for name, doc in run.documents if (span := index(name, doc)))


def test_each_event_has_the_curve_so_far():
    places, counts = [1.0, 0.5, 1.5, 2.0], [100, 400, 0, 25]
    run = scan(POINTS | {"divide_by": ["monitor"], "dtheta_rad": 1e-4}, places, counts, [10, 1, 10, 10])
    heard = heard_of(run)
    assert [len(frame.intensity) for frame in heard.frames] == [3, 4]
    assert [frame.origin.seq_num for frame in heard.frames] == [3, 4] and not heard.failures
    whole = heard.frames[-1]
    theta = np.radians(np.sort(places)) / 2
    q = 4 * np.pi / WAVELENGTH * np.sin(theta)
    np.testing.assert_allclose(whole.geometry.q_inv_angstrom, q)
    np.testing.assert_allclose(whole.geometry.dq_inv_angstrom, 4 * np.pi / WAVELENGTH * np.cos(theta) * 1e-4)
    np.testing.assert_allclose(whole.intensity, [400, 10, 0, 2.5])
    # no count still is one with an error
    np.testing.assert_allclose(whole.sigma, [20, 1, 0.1, 0.5])
    assert whole.grows and counted(run) == len(heard.items)


def test_points_at_one_place_are_counted_for_longer():
    run = scan(POINTS | {"divide_by": ["monitor"]}, [1, 1, 2, 2], [90, 10, 4, 0], [9, 1, 1, 3])
    whole = heard_of(run).frames[-1]
    np.testing.assert_allclose(whole.intensity, [10, 1])
    np.testing.assert_allclose(whole.sigma, [1, 0.5])


def test_planned_points_are_masked_until_they_are_measured():
    run = scan(POINTS | {"planned": [0.5, 1, 1.5, 2, 2.5], "first": 2}, [0.5, 1.0001], [9, 9])
    (frame,) = heard_of(run).frames
    assert frame.usable.tolist() == [True, True, False, False, False]
    assert frame.geometry.q_inv_angstrom.size == 5


def test_a_motor_that_stops_beside_its_place_was_there():
    """A readback is some hundredths of a step off: the planned point is measured all the same."""
    keys = {**KEYS, "q": {"source": "sim", "dtype": "number", "shape": [], "units": "1/angstrom"}}
    points = {"intensity": "det", "q": "q", "first": 2, "planned": [0.1, 0.2, 0.3, 0.4]}
    run = RawRun(keys, nfphasing={"points": points})
    for place in (0.103, 0.197):
        run.event(q=place, det=100, tth=1.0, monitor=1.0)
    run.stop()
    frame = heard_of(run).frames[-1]
    np.testing.assert_allclose(frame.geometry.q_inv_angstrom, [0.103, 0.197, 0.3, 0.4])
    assert frame.mask.tolist() == [False, False, True, True]


def test_points_that_are_no_numbers_are_left_out_and_texts_fail_alone():
    run = scan(POINTS, [1, 2, 3, 4, 5], [1, 1, np.nan, "broken", 1])
    heard = heard_of(run)
    assert [len(frame.intensity) for frame in heard.frames] == [2, 3]
    (failure,) = heard.failures
    assert "det is 'broken', expected one number" in failure.reason
    assert counted(run) == len(heard.items) == 3


def test_the_direct_beam_is_no_point_and_a_negative_angle_fails_alone():
    run = scan(POINTS, [0.0, 1, 2, -1, 3], [1e6, 1, 1, 1, 1])
    heard = heard_of(run)
    assert [frame.intensity.size for frame in heard.frames] == [2, 3]
    (failure,) = heard.failures
    assert failure.origin.seq_num == 4 and "check the sign of the angle" in failure.reason


@pytest.mark.parametrize(
    ("points", "keys", "reason"),
    [
        (POINTS | {"intensity": "other"}, KEYS, "has no other, which nfphasing.points names"),
        ({"intensity": "det"}, KEYS, "nothing says where a point is"),
        ({"intensity": "det", "theta": "tth"}, KEYS, "theta without wavelength_angstrom"),
        (POINTS | {"speed": 3}, KEYS, "speed: Extra inputs"),
        (POINTS, KEYS | {"tth": KEYS["det"]}, "say nfphasing.points.units"),
    ],
)
def test_what_cannot_be_a_curve_fails_with_the_reason_and_is_counted(points, keys, reason):
    run = scan(points, [1, 2, 3, 4], [1, 1, 1, 1], keys=keys)
    heard = heard_of(run)
    assert not heard.frames and reason in heard.failures[0].reason
    assert counted(run) == len(heard.failures) == 4


def test_the_settings_say_so_where_documents_do_not():
    run = RawRun(KEYS)
    for place in (1.0, 2.0):
        run.event(tth=place, det=5, monitor=1)
    settings = StreamSettings(points=PointScan(**(POINTS | {"first": 2})))
    assert len(heard_of(run, settings).frames) == 1
    assert counted(run, settings) == 1 and counted(run) == 0
    with pytest.raises(ValidationError, match="q and theta says where"):
        PointScan(intensity="det", q="q", theta="th", wavelength_angstrom=1.0)


def test_exposures_of_curves_add_up():
    run = RawRun(nfphasing={"accumulate": True})
    rng = np.random.default_rng(0)
    truth = guinier_curve(30.0)
    for _ in range(16):
        noisy = truth * (1 + 0.1 * rng.normal(size=truth.size))
        run.event(saxs=noisy, saxs_q=np.linspace(0.004, 0.2, 60), saxs_sigma=0.1 * truth)
    run.stop()
    heard = heard_of(run)
    first, last = heard.frames[0], heard.frames[-1]
    np.testing.assert_allclose(last.sigma, first.sigma / 4)
    assert np.abs(last.intensity / truth - 1).mean() < 0.4 * np.abs(first.intensity / truth - 1).mean()
    assert last.grows and [frame.origin.seq_num for frame in heard.frames] == list(range(1, 17))


def test_an_exposure_at_other_places_fails_alone():
    run = RawRun(nfphasing={"accumulate": True})
    q = np.linspace(0.004, 0.2, 60)
    for step in (1.0, 1.1, 1.0):
        run.event(saxs=guinier_curve(30.0), saxs_q=q * step, saxs_sigma=np.ones(60))
    heard = heard_of(run)
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 3]
    assert "nfphasing.accumulate" in heard.failures[0].reason


def test_an_event_page_has_a_curve_for_each_of_its_points():
    run = event_model.compose_run(metadata={"nfphasing": {"points": POINTS}})
    bundle = run.compose_descriptor(name="primary", data_keys=KEYS)
    page = bundle.compose_event_page(
        data={"det": [1, 2, 3, 4], "tth": [1, 2, 3, 4], "monitor": [1, 1, 1, 1]},
        timestamps={key: [0.0] * 4 for key in KEYS},
        seq_num=[1, 2, 3, 4],
        time=[0.0] * 4,
        filled={},
    )
    heard, index = Heard(), FrameIndex(StreamSettings())
    router = FrameRouter(heard)
    documents = [
        ("start", run.start_doc),
        ("descriptor", bundle.descriptor_doc),
        ("event_page", page),
        ("stop", run.compose_stop()),
    ]
    spans = []
    for name, doc in documents:
        router(name, dict(doc))
        spans.append(index(name, dict(doc)))
    assert [len(frame.intensity) for frame in heard.frames] == [3, 4]
    assert spans[2] is not None and spans[2].seq_nums == (3, 4) and spans[2].needed
