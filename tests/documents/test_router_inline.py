"""Inline arrays: which data key, which companions, which units; bad input becomes failed frames."""

import numpy as np
import pytest

from nfphasing_bluesky.core import CurveGeometry, DataKeyError, DocumentError, StreamSettings
from nfphasing_bluesky.documents.keys import choose_data_key
from nfphasing_bluesky.documents.router import FrameRouter


def route(heard, *runs, **settings):
    router = FrameRouter(heard, StreamSettings(**settings), wait_s=0.1)
    for run in runs:
        for name, doc in run.documents:
            router(name, doc)
    return router


def test_curves_with_their_companions(heard, raw_run, q, curve_of):
    run = raw_run()
    run.curve(30.0)
    run.curve(35.0)
    run.stop()
    route(heard, run)
    first, second = heard.frames
    assert isinstance(first.geometry, CurveGeometry)
    np.testing.assert_array_equal(first.geometry.q_inv_angstrom, q)
    np.testing.assert_allclose(second.intensity, curve_of(35.0))
    np.testing.assert_allclose(second.sigma, 0.01 * curve_of(35.0))
    assert (second.origin.raw_uid, second.origin.seq_num) == (run.uid, 2)
    assert (second.origin.stream, second.origin.data_key) == ("primary", "saxs")
    assert second.origin.time == run.documents[3][1]["time"]
    assert heard.stopped == [(run.uid, "success", "")]


def test_event_pages(heard, raw_run, curve_of, q):
    run = raw_run()
    curves = [curve_of(rg) for rg in (20.0, 25.0, 30.0)]
    data = {"saxs": curves, "saxs_q": [q] * 3, "saxs_sigma": curves}
    page = run.descriptor.compose_event_page(
        data=data,
        timestamps={key: [0.0] * 3 for key in data},
        seq_num=[1, 2, 3],
        time=[5.0, 6.0, 7.0],
        validate=False,
    )
    run.documents.append(("event_page", page))
    run.stop()
    route(heard, run)
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 2, 3]
    np.testing.assert_allclose(heard.frames[2].intensity, curves[2])


@pytest.mark.parametrize("at", [None, "now", {}, 10**400])
def test_an_event_without_a_time_is_a_frame_and_ends_with_its_run(heard, raw_run, at):
    run = raw_run()
    run.curve(30.0)
    run.event(saxs=np.ones(3))  # its companions never come
    for _, doc in run.documents[2:]:
        doc["time"] = at
    run.stop()
    route(heard, run)
    (frame,), (failure,) = heard.frames, heard.failures
    assert np.isnan(frame.origin.time) and np.isnan(failure.origin.time)
    assert "had not arrived" in failure.reason and heard.stopped == [(run.uid, "success", "")]


@pytest.mark.parametrize("number", [None, "1", float("nan"), []])
def test_an_event_without_a_number_harms_no_other(heard, raw_run, number):
    run = raw_run()
    run.event(saxs=np.ones(3))
    run.documents[-1][1]["seq_num"] = number
    router = route(heard, *[])
    for item in run.documents[:-1]:
        router(*item)
    with pytest.raises(DocumentError, match="seq_num"):
        router(*run.documents[-1])
    run.documents.clear()
    run.curve(20.0)
    run.stop()
    for item in run.documents:
        router(*item)
    assert len(heard.frames) == 1 and not heard.failures and heard.stopped == [(run.uid, "success", "")]


def test_interleaved_runs_and_other_streams(heard, raw_run, q, curve_of):
    one, two, dark = raw_run(), raw_run(), raw_run(stream="dark")
    for run, rg in ((one, 20.0), (two, 40.0), (dark, 30.0)):
        run.curve(rg)
        run.curve(rg)
        run.stop()
    router = FrameRouter(heard)
    for documents in zip(one.documents, two.documents, dark.documents, strict=True):
        for name, doc in documents:
            router(name, doc)
    assert [frame.origin.raw_uid for frame in heard.frames] == [one.uid, two.uid] * 2
    np.testing.assert_allclose(heard.frames[1].intensity, curve_of(40.0))
    assert router.open_runs == ()
    reasons = {uid: reason for uid, _, reason in heard.stopped}
    assert "no stream 'primary'" in reasons[dark.uid] and "dark" in reasons[dark.uid]


@pytest.mark.parametrize(
    ("units", "factor"), [("1/nm", 0.1), ("nm^-1", 0.1), ("1/angstrom", 1.0), ("Å⁻¹", 1.0)]
)
def test_units_of_q_are_converted(heard, raw_run, key_of, q, units, factor):
    run = raw_run({"saxs": key_of(q.shape), "saxs_q": key_of(q.shape, units), "saxs_sigma": key_of(q.shape)})
    run.event(saxs=np.ones_like(q), saxs_q=q, saxs_sigma=np.ones_like(q))
    route(heard, run)
    np.testing.assert_allclose(heard.frames[0].geometry.q_inv_angstrom, factor * q, rtol=1e-12)


@pytest.mark.parametrize("units", ["furlong", "", "angstrom", "nm"])
def test_unknown_units_of_q_fail_the_frame(heard, raw_run, key_of, q, units):
    run = raw_run({"saxs": key_of(q.shape), "saxs_q": key_of(q.shape, units), "saxs_sigma": key_of(q.shape)})
    run.event(saxs=np.ones_like(q), saxs_q=q, saxs_sigma=np.ones_like(q))
    route(heard, run)
    assert not heard.frames
    assert "1/angstrom" in heard.failures[0].reason and repr(units) in heard.failures[0].reason


def test_q_from_the_configuration_and_sigma_from_the_start_document(heard, raw_run, key_of, q):
    configuration = {
        "saxs": {
            "data": {"saxs_q": (10 * q).tolist()},
            "timestamps": {"saxs_q": 0.0},
            "data_keys": {"saxs_q": key_of(q.shape, "1/nm")},
        }
    }
    said = {"sigma": np.full(q.size, 2.0).tolist(), "absolute": True, "contrast_inv_cm2": 2.8e10}
    run = raw_run({"saxs": key_of(q.shape)}, configuration=configuration, nfphasing=said)
    run.event(saxs=np.ones_like(q))
    route(heard, run)
    frame = heard.frames[0]
    np.testing.assert_allclose(frame.geometry.q_inv_angstrom, q)
    np.testing.assert_array_equal(frame.sigma, np.full(q.size, 2.0))
    assert frame.geometry.absolute and frame.geometry.contrast_inv_cm2 == 2.8e10


def test_the_start_document_names_keys(heard, raw_run, key_of, q):
    keys = {name: key_of(q.shape, "1/angstrom" if name == "momentum" else "") for name in "abc"}
    keys["momentum"] = key_of(q.shape, "1/angstrom")
    run = raw_run(keys, nfphasing={"q_key": "momentum", "sigma_key": "b", "mask_key": "c"})
    mask = np.zeros(q.size)
    mask[:4] = 1
    run.event(a=np.full(q.size, 3.0), b=np.ones_like(q), c=mask, momentum=q)
    route(heard, run)
    assert heard.frames[0].origin.data_key == "a"
    np.testing.assert_array_equal(heard.frames[0].mask, mask.astype(bool))


def test_hints_decide_between_arrays(raw_run, key_of):
    run = raw_run({"one": key_of((8,)), "two": key_of((9,))})
    descriptor = dict(run.documents[1][1], hints={"saxs": {"fields": ["two"]}})
    assert choose_data_key({}, descriptor, None) == "two"
    with pytest.raises(DataKeyError, match="several arrays: one, two"):
        choose_data_key({}, run.documents[1][1], None)


def test_wrong_data_key_fails_every_frame_and_names_the_keys(heard, raw_run):
    run = raw_run()
    run.curve()
    run.curve()
    run.stop()
    route(heard, run, data_key="eiger")
    assert len(heard.failures) == 2
    for number, failure in enumerate(heard.failures, start=1):
        assert failure.origin.seq_num == number
        assert "'eiger' is not in stream 'primary'" in failure.reason
        assert "saxs, saxs_q, saxs_sigma" in failure.reason
    with pytest.raises(DataKeyError, match="pass data_key= one of its arrays"):
        choose_data_key({}, run.documents[1][1], "eiger")


def test_runs_without_arrays_are_not_ours(heard, raw_run):
    run = raw_run({"motor": {"source": "sim", "dtype": "number", "shape": []}})
    run.event(motor=1.0)
    run.stop()
    route(heard, run)
    assert heard.items == [] and heard.stopped == [(run.uid, "success", "")]


def test_missing_sigma_wrong_shape_and_nonsense_fail_one_frame_each(heard, raw_run, key_of, q, curve_of):
    run = raw_run()
    run.curve(30.0)
    run.event(saxs=np.ones(7), saxs_q=q, saxs_sigma=np.ones(7))
    run.event(saxs=curve_of(30.0), saxs_q=q[::-1], saxs_sigma=np.ones_like(q))
    run.event(saxs=["a"] * q.size, saxs_q=q, saxs_sigma=np.ones_like(q))
    run.curve(30.0)
    run.stop()
    bare = raw_run({"saxs": key_of(q.shape), "saxs_q": key_of(q.shape, "1/angstrom")})
    bare.event(saxs=np.ones_like(q), saxs_q=q)
    route(heard, run, bare)
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 5]
    reasons = [failure.reason for failure in heard.failures]
    assert "shape (7,)" in reasons[0]
    assert "not increasing" in reasons[1]
    assert "dtype" in reasons[2]
    assert "no sigma" in reasons[3]
    assert [failure.origin.seq_num for failure in heard.failures] == [2, 3, 4, 1]


def test_curve_without_q(heard, raw_run, key_of, q):
    run = raw_run({"saxs": key_of(q.shape)})
    run.event(saxs=np.ones_like(q))
    route(heard, run)
    assert "has no q" in heard.failures[0].reason and "q_key" in heard.failures[0].reason


def test_derived_runs_are_ignored(heard, raw_run):
    run = raw_run(original_run_uid="somebody")
    run.curve()
    run.stop()
    route(heard, run)
    assert (heard.started, heard.items, heard.stopped) == ([], [], [])


def test_documents_of_a_run_that_began_before_us_are_ignored(heard, raw_run):
    late, whole = raw_run(), raw_run()
    for run in (late, whole):
        run.curve()
        run.stop()
    router = FrameRouter(heard)
    for name, doc in [*late.documents[1:], *whole.documents]:
        router(name, doc)
    assert [frame.origin.raw_uid for frame in heard.frames] == [whole.uid]
    assert heard.stopped == [(whole.uid, "success", "")]


@pytest.mark.parametrize("status", ["fail", "abort"])
def test_exit_status_and_reason_are_passed_on(heard, raw_run, status):
    run = raw_run()
    run.curve()
    run.stop(status, "shutter closed")
    route(heard, run)
    assert heard.stopped == [(run.uid, status, "shutter closed")]
    assert len(heard.frames) == 1


def test_a_run_that_never_stops_is_ended_honestly(heard, raw_run):
    run = raw_run()
    run.curve()
    router = route(heard, run)
    assert router.open_runs == (run.uid,) and heard.stopped == []
    router.close()
    assert heard.stopped == [(run.uid, "abort", "no stop document arrived")]
    router.close()
    assert len(heard.stopped) == 1


def test_documents_are_not_changed(heard, raw_run):
    import copy

    run = raw_run()
    run.curve()
    run.stop()
    before = copy.deepcopy(run.documents)
    route(heard, run)
    for (name, doc), (_, old) in zip(run.documents, before, strict=True):
        assert doc.keys() == old.keys(), name
    np.testing.assert_array_equal(run.documents[2][1]["data"]["saxs"], before[2][1]["data"]["saxs"])


def test_what_is_known_of_the_sample_comes_with_every_frame(heard, raw_run):
    run = raw_run(nfphasing={"bounds": {"thickness_1_angstrom": [90, 110.5], "layers": [1, 2]}})
    run.curve()
    run.stop()
    route(heard, run)
    assert heard.frames[0].bounds == {"thickness_1_angstrom": (90.0, 110.5), "layers": (1.0, 2.0)}


@pytest.mark.parametrize("bounds", [{"thickness_1_angstrom": 90}, [1, 2], {"layers": ["one", "two"]}])
def test_bounds_that_are_no_pairs_fail_the_frame(heard, raw_run, bounds):
    run = raw_run(nfphasing={"bounds": bounds})
    run.curve()
    run.stop()
    route(heard, run)
    assert "expected {name: [lowest, highest]}" in heard.failures[0].reason
