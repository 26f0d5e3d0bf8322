"""Ptychographic scans from documents, of a real RunEngine and composed: places, probe, optics."""

import bluesky.plans as bp
import numpy as np
import pytest
from ophyd.sim import SynAxis, SynSignal

from nfphasing_bluesky.core import StreamSettings, Window
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.documents.scan_frames import Beam
from tests.engine import running_engine
from tests.known_object import PROBE, SIDE, counts

PIXEL_M = 2e-8
OPTICS = {"object_pixel_m": PIXEL_M, "wavelength_m": 1e-10}
IMAGE = counts(np.zeros((1, 2)))[0]


@pytest.fixture
def engine():
    with running_engine() as RE:
        yield RE


class Stage(SynAxis):
    """A motor that says its unit."""

    def __init__(self, *args, units, **kwargs):
        self._units = units
        super().__init__(*args, **kwargs)

    def describe(self):
        return {name: {**key, "units": self._units} for name, key in super().describe().items()}


def grid(
    engine,
    listener,
    *,
    units=("um", "um"),
    names=("sam_y", "sam_x"),
    step_px=6,
    beam=None,
    image=IMAGE,
    **metadata,
):
    """Run a grid scan over 3 x 4 places; return the router."""
    slow, fast = (Stage(name=name, units=unit) for name, unit in zip(names, units, strict=True))
    camera = SynSignal(name="eiger", func=lambda: image)
    scales = [{"um": 1e6, "mm": 1e3, "nm": 1e9, "px": 1 / PIXEL_M}.get(unit, 1.0) for unit in units]
    steps = [step_px * PIXEL_M * scale for scale in scales]
    router = FrameRouter(listener, StreamSettings(data_key="eiger"), beam=beam or Beam(PROBE))
    engine.subscribe(router)
    plan = bp.grid_scan([camera], slow, 0, 2 * steps[0], 3, fast, steps[1], 4 * steps[1], 4)
    engine(plan, nfphasing={"geometry": OPTICS, **metadata})
    return router


def test_a_grid_scan(engine, heard):
    grid(engine, heard)
    assert not heard.failures
    expected = [(6.0 * r, 6.0 * c) for r in range(3) for c in range(1, 5)]
    np.testing.assert_allclose([frame.place for frame in heard.frames], expected, atol=1e-6)
    geometry = heard.frames[0].geometry
    assert geometry.pixel_size_m == PIXEL_M and geometry.wavelength_m == 1e-10 and geometry.centred
    np.testing.assert_array_equal(geometry.probe[0], PROBE)
    assert heard.frames[5].geometry.probe is geometry.probe
    np.testing.assert_array_equal(heard.frames[3].intensity, IMAGE)


def test_a_hot_pixel_is_masked_and_does_not_scale_the_probe(engine, heard, caplog):
    hot = IMAGE.copy()
    hot[5, 17] = 1_000_000
    grid(engine, heard, image=hot)
    assert len(heard.frames) == 12 and "row 5, column 17: 20 times" in caplog.text
    for frame in heard.frames:
        assert np.argwhere(~frame.usable).tolist() == [[5, 17]]
        np.testing.assert_array_equal(frame.geometry.probe[0], PROBE)


@pytest.mark.parametrize("units", [("mm", "nm"), ("px", "pixels"), ("um", "mm")])
def test_units_of_motors(engine, heard, units):
    units = tuple("px" if u == "pixels" else u for u in units)
    grid(engine, heard, units=units)
    np.testing.assert_allclose(heard.frames[-1].place, (12, 24), atol=1e-6)


def test_signs_from_the_start_document_and_over_it(engine, heard):
    grid(engine, heard, positions_sign=[-1, 1])
    np.testing.assert_allclose(heard.frames[-1].place, (-12, 24), atol=1e-6)
    grid(engine, heard, positions_sign=[-1, 1], beam=Beam(PROBE, signs=(1.0, -1.0)))
    np.testing.assert_allclose(heard.frames[-1].place, (12, -24), atol=1e-6)


def test_which_motor_moves_along_the_rows(engine, heard):
    # by their names, whatever the order
    grid(engine, heard, names=("stage_x", "stage_y"))
    np.testing.assert_allclose(heard.frames[-1].place, (24, 12), atol=1e-6)
    # by their order where names do not tell
    grid(engine, heard, names=("piezo_1", "piezo_2"))
    np.testing.assert_allclose(heard.frames[-1].place, (12, 24), atol=1e-6)
    # as the caller says
    grid(engine, heard, names=("piezo_1", "piezo_2"), beam=Beam(PROBE, positions=("piezo_2", "piezo_1")))
    np.testing.assert_allclose(heard.frames[-1].place, (24, 12), atol=1e-6)
    # as the start document says
    grid(engine, heard, names=("piezo_1", "piezo_2"), positions=["piezo_2", "piezo_1"])
    np.testing.assert_allclose(heard.frames[-1].place, (24, 12), atol=1e-6)


def test_the_rectangle_that_a_grid_will_cover(engine, heard):
    windows = []
    hear = heard.frame

    def frame(item):
        hear(item)
        windows.append(router.window(item.origin.raw_uid))

    heard.frame = frame
    slow, fast = (Stage(name=name, units="um") for name in ("sam_y", "sam_x"))
    camera = SynSignal(name="eiger", func=lambda: IMAGE)
    router = FrameRouter(heard, StreamSettings(data_key="eiger"), beam=Beam(PROBE, signs=(-1.0, 1.0)))
    engine.subscribe(router)
    step = 6 * PIXEL_M * 1e6
    metadata = {"nfphasing": {"geometry": OPTICS}}
    engine(bp.grid_scan([camera], slow, 0, 2 * step, 3, fast, step, 4 * step, 4), **metadata)
    assert set(windows) == {Window(-15, 3, 12 + SIDE + 6, 18 + SIDE + 6)}
    windows.clear()
    engine(bp.rel_grid_scan([camera], slow, 0, 2 * step, 3, fast, 0, step, 2), **metadata)
    assert set(windows) == {None}


def route(heard, raw_run, key_of, *, data, beam=None, keys=None, configuration=None, **said):
    keys = keys or {"eiger": key_of((SIDE, SIDE)), "sy": key_of((), "m"), "sx": key_of((), "m")}
    run = raw_run(keys, configuration=configuration, nfphasing={"positions": ["sy", "sx"], **said})
    for values in data:
        run.event(**values)
    run.stop()
    router = FrameRouter(heard, StreamSettings(data_key="eiger"), beam=beam or Beam(PROBE))
    for name, doc in run.documents:
        router(name, doc)
    return heard


def event(row=0.0, column=0.0, image=IMAGE):
    return {"eiger": image, "sy": row * PIXEL_M, "sx": column * PIXEL_M}


def test_a_bad_event_fails_alone(heard, raw_run, key_of):
    missing = event(1, 1)
    del missing["sx"]
    data = [event(), missing, event(2, np.nan), event(3, 3, 0 * IMAGE), event(4, 4, IMAGE[:5]), event(5, 5)]
    route(heard, raw_run, key_of, data=data, geometry=OPTICS)
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 6]
    reasons = {failure.origin.seq_num: failure.reason for failure in heard.failures}
    assert "sx had not arrived" in reasons[2]
    assert "sx=nan" in reasons[3] and "no photons" in reasons[4] and "does not match the probe" in reasons[5]


def test_optics_of_the_detector_s_configuration(heard, raw_run, key_of):
    values = {
        "eiger_wavelength": (1.0, "angstrom"),
        "eiger_distance": (2.0, "m"),
        "eiger_pixel_size": (75.0, "um"),
    }
    configuration = {
        "eiger": {
            "data": {name: value for name, (value, _) in values.items()},
            "timestamps": dict.fromkeys(values, 0.0),
            "data_keys": {
                name: {"source": "s", "dtype": "number", "shape": [], "units": unit}
                for name, (_, unit) in values.items()
            },
        }
    }
    route(heard, raw_run, key_of, data=[event(3.0, 1.0)], configuration=configuration)
    (frame,) = heard.frames
    pixel_m = 1e-10 * 2.0 / (SIDE * 75e-6)
    assert frame.geometry.pixel_size_m == pytest.approx(pixel_m)
    assert frame.place == pytest.approx((3.0 * PIXEL_M / pixel_m, 1.0 * PIXEL_M / pixel_m))


def test_a_near_field(heard, raw_run, key_of):
    geometry = {"fresnel_number": 0.09, "object_pixel_m": PIXEL_M}
    route(heard, raw_run, key_of, data=[event(3.0, 1.0)], geometry=geometry)
    assert heard.frames[0].geometry.fresnel_number == 0.09


@pytest.mark.parametrize("first_dark", [False, True])
def test_a_probe_of_another_scale_and_frames_in_fft_order(heard, raw_run, key_of, first_dark):
    corner = np.fft.ifftshift(IMAGE)
    data = [event(image=0 * corner)] * first_dark + [event(i, i, corner) for i in range(2)]
    route(heard, raw_run, key_of, data=data, beam=Beam(PROBE[None, None] / SIDE), geometry=OPTICS)
    assert len(heard.frames) == 2 and len(heard.failures) == first_dark
    assert not heard.frames[0].geometry.centred
    np.testing.assert_allclose(heard.frames[1].geometry.probe[0], PROBE, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"geometry": {"poni_m": 1.0}}, "poni_m"),
        ({"geometry": OPTICS, "positions": ["sy", "nothing"]}, "'nothing' is not in stream"),
        ({"geometry": {"wavelength_m": 1e-10}}, "object's pixel is not known"),
        ({"geometry": OPTICS, "positions": None}, "no two positions"),
        ({"geometry": OPTICS, "positions_sign": 3}, "+1 or -1"),
    ],
)
def test_a_scan_that_cannot_be_used_fails_its_frames_with_the_reason(heard, raw_run, key_of, changes, words):
    route(heard, raw_run, key_of, data=[event(), event(1, 1)], **changes)
    assert len(heard.failures) == 2 and all(words in failure.reason for failure in heard.failures)


def test_a_probe_of_another_size(heard, raw_run, key_of):
    route(heard, raw_run, key_of, data=[event()], beam=Beam(PROBE[:8], "scan.cxi"), geometry=OPTICS)
    assert "scan.cxi: probe (1, 8, 24) does not match the frames (24, 24)" in heard.failures[0].reason


def test_units_of_positions_must_be_lengths(heard, raw_run, key_of):
    keys = {"eiger": key_of((SIDE, SIDE)), "sy": key_of((), "deg"), "sx": key_of((), "m")}
    route(heard, raw_run, key_of, data=[event()], keys=keys, geometry=OPTICS)
    assert "'deg'" in heard.failures[0].reason
