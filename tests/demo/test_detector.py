import time

import bluesky.plans as bp
import event_model
import numpy as np
import pytest
import torch
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from ophyd.sim import SynAxis

from nfphasing_bluesky.core import (
    CurveGeometry,
    DetectorGeometry,
    Failure,
    Frame,
    FrameError,
    Origin,
    SettingsError,
)
from nfphasing_bluesky.demo.detector import ReplayCurves, padded
from nfphasing_bluesky.demo.simulated import BUFFER, POLYDISPERSITY, SimulatedSaxs
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.physics import saxs


def curve(label, n, start=0.01, absolute=False):
    q = np.linspace(start, 0.3, n)
    intensity = np.exp(-((q * 20) ** 2) / 3) * len(label)
    geometry = CurveGeometry(q, absolute=absolute)
    return Frame(intensity, geometry, 0.05 * intensity + 1e-3, origin=Origin(label))


def run(plan):
    """Run a plan; returns its documents, validated, and the frames that `documents/` finds in them."""
    documents, frames = [], []

    class Listener:
        def run_started(self, start): ...
        def frame(self, frame):
            frames.append(frame)

        def run_stopped(self, *stop): ...

    router = FrameRouter(Listener())

    def take(name, doc):
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        documents.append((name, doc))
        router(name, doc)

    RE = RunEngine({})
    RE.subscribe(take)
    RE(plan)
    return documents, frames


def test_frames_come_out_of_the_documents_as_they_were_measured():
    curves = [curve("long", 60), curve("short one", 40, start=0.02)]
    documents, frames = run(bp.count([ReplayCurves("saxs", curves, exposure_s=0.01)], num=4))
    assert not [f.reason for f in frames if isinstance(f, Failure)] and len(frames) == 4
    for number, frame in enumerate(frames):
        original = curves[number % 2]
        n = original.intensity.size
        assert frame.usable.sum() == n and frame.origin.data_key == "saxs_intensity"
        np.testing.assert_array_equal(frame.intensity[frame.usable], original.intensity)
        np.testing.assert_array_equal(frame.sigma[frame.usable], original.sigma)
        np.testing.assert_array_equal(frame.geometry.q_inv_angstrom[:n], original.geometry.q_inv_angstrom)
    events = [doc for name, doc in documents if name == "event"]
    assert [e["data"]["saxs_sample"] for e in events] == ["long", "short one"] * 2


def test_the_descriptor_says_units_and_shapes():
    curves = [curve("a", 30, absolute=True), curve("b", 50, absolute=True)]
    documents, _ = run(bp.count([ReplayCurves("det", curves, exposure_s=0.01)]))
    (descriptor,) = [doc for name, doc in documents if name == "descriptor"]
    keys = descriptor["data_keys"]
    units = {name: keys[f"det_{name}"]["units"] for name in ("intensity", "sigma", "q")}
    assert units == {"intensity": "1/cm", "sigma": "1/cm", "q": "1/angstrom"}
    assert {tuple(keys[f"det_{n}"]["shape"]) for n in ("intensity", "sigma", "q", "mask")} == {(50,)}
    assert keys["det_intensity"]["dtype_numpy"] == "<f8" and keys["det_mask"]["dtype_numpy"] == "|u1"
    assert descriptor["configuration"]["det"]["data"]["det_exposure_time"] == 0.01
    assert descriptor["hints"]["det"]["fields"] == ["det_intensity"]


def test_a_new_run_begins_with_the_first_curve():
    detector = ReplayCurves("saxs", [curve("a", 20), curve("bb", 20), curve("ccc", 20)], exposure_s=0.01)
    run(bp.count([detector], num=2))
    documents, _ = run(bp.count([detector], num=1))
    (event,) = [doc for name, doc in documents if name == "event"]
    assert event["data"]["saxs_sample"] == "a"


def test_an_exposure_takes_its_time():
    detector = ReplayCurves("saxs", [curve("a", 20)], exposure_s=0.2)
    began = time.monotonic()
    detector.trigger().wait(240)
    assert time.monotonic() - began >= 0.2 and detector.sample.get() == "a"


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], "no curves"),
        (
            [Frame(np.ones(20), CurveGeometry(np.linspace(0.1, 0.2, 20)), origin=Origin("x"))],
            "x has no sigma",
        ),
        (
            [Frame(np.ones((4, 4)), DetectorGeometry(1e-10, 1, (1e-4, 1e-4), (0, 0)), origin=Origin("x"))],
            r"x is \(4, 4\), expected a curve",
        ),
    ],
)
def test_what_cannot_be_replayed_is_named(curves, message):
    with pytest.raises(FrameError, match=message):
        ReplayCurves("saxs", curves)


def test_padding_is_masked_and_q_goes_on_increasing():
    made = padded(curve("a", 20), 25)
    assert np.all(np.diff(made["q"]) > 0) and made["mask"].tolist() == [0] * 20 + [1] * 5
    assert np.isnan(made["intensity"][20:]).all() and np.isnan(made["sigma"][20:]).all()


def test_the_simulated_sample_grows_as_its_axis_moves():
    """Curves follow the form factor of the radius that the axis stands for, within their sigma."""
    sample = SynAxis(name="sample")
    detector = SimulatedSaxs("saxs", sample, radius_angstrom=(20.0, 50.0), exposure_s=0.05)
    documents, frames = run(bp.scan([detector], sample, 0, 1, 4))
    assert len(frames) == 4
    for frame, radius in zip(frames, (20.0, 30.0, 40.0, 50.0), strict=True):
        q = torch.as_tensor(frame.geometry.q_inv_angstrom)
        radius, spread = (torch.tensor([v], dtype=torch.float64) for v in (radius, POLYDISPERSITY))
        pull = (frame.intensity - saxs.sphere(q, radius, spread)[0].numpy()) / frame.sigma
        assert np.mean(pull**2) == pytest.approx(1.0, abs=0.35) and 0 < BUFFER < 1
    events = [doc["data"]["saxs_sample"] for name, doc in documents if name == "event"]
    assert events == [f"spheres, {r}.0 angstrom" for r in (20, 30, 40, 50)]


def test_longer_exposures_have_smaller_errors():
    detector = SimulatedSaxs("saxs", SynAxis(name="sample"), exposure_s=0.02)
    short, _ = detector.expose(), detector.exposure_time.put(0.32)
    ratio = np.median(short.sigma / detector.expose().sigma)
    assert ratio == pytest.approx(4.0, rel=0.1)


def test_repeated_exposures_differ_and_a_seed_repeats_them():
    one, two = (SimulatedSaxs("saxs", SynAxis(name="sample"), seed=3) for _ in range(2))
    first, second = one.expose(), one.expose()
    assert not np.array_equal(first.intensity, second.intensity)
    np.testing.assert_array_equal(first.intensity, two.expose().intensity)


def test_a_failed_exposure_fails_the_plan_and_not_silently():
    class Gone(SynAxis):
        def read(self):
            raise ConnectionError("the sample stage is gone")

    detector = SimulatedSaxs("saxs", Gone(name="sample"), exposure_s=0.01)
    with pytest.raises(FailedStatus):
        RunEngine({})(bp.count([detector]))


def test_unphysical_settings_are_refused():
    with pytest.raises(SettingsError, match="expected positive"):
        SimulatedSaxs("saxs", SynAxis(name="sample"), radius_angstrom=(0, 10))
