"""A real RunEngine with real detectors: inline arrays, AreaDetector-style HDF5, ophyd-async HDF5."""

import threading
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from event_model import compose_resource
from ophyd import Component, Device, Signal
from ophyd.sim import SynSignal

from nfphasing_bluesky.core import Frame, StreamSettings
from nfphasing_bluesky.documents.router import FrameRouter
from tests.engine import running_engine

SI = {"wavelength_m": 1e-10, "distance_m": 2.0, "pixel_size_m": [1e-4, 1e-4], "poni_m": [0.0, 0.0]}
Q = np.linspace(0.004, 0.2, 60)


@pytest.fixture
def engine():
    with running_engine() as RE:
        yield RE


class Curve(SynSignal):
    """A signal with a curve whose units are declared."""

    def __init__(self, *args, units="", **kwargs):
        self._units = units
        super().__init__(*args, **kwargs)

    def describe(self):
        return {name: {**key, "units": self._units} for name, key in super().describe().items()}


class Saxs(Device):
    """Measures a Guinier curve of growing radius, with its q and sigma."""

    intensity = Component(Curve, func=lambda: Q)
    q = Component(Curve, func=lambda: Q, units="1/angstrom")
    sigma = Component(Curve, func=lambda: Q)

    shot = 0

    def trigger(self):
        rg = 20.0 + self.shot
        self.shot += 1
        value = 1e4 * np.exp(-((Q * rg) ** 2) / 3)
        self.intensity.sim_set_func(lambda: value)
        self.sigma.sim_set_func(lambda: 0.01 * value)
        for part in (self.intensity, self.q, self.sigma):
            part.trigger()
        return super().trigger()


def test_inline_arrays(engine, heard):
    saxs = Saxs(name="saxs")
    engine.subscribe(FrameRouter(heard, StreamSettings(data_key="saxs_intensity")))
    (uid,) = engine(bp.count([saxs], num=3))
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 2, 3], heard.failures
    np.testing.assert_allclose(heard.frames[2].intensity, 1e4 * np.exp(-((Q * 22.0) ** 2) / 3))
    np.testing.assert_allclose(heard.frames[2].geometry.q_inv_angstrom, Q)
    assert heard.stopped == [(uid, "success", "")]


def test_a_plan_that_fails(engine, heard):
    saxs = Saxs(name="saxs")
    engine.subscribe(FrameRouter(heard, StreamSettings(data_key="saxs_intensity")))

    def plan():
        yield from bps.open_run()
        yield from bps.trigger_and_read([saxs])
        raise RuntimeError("motor stuck")

    with pytest.raises(RuntimeError, match="motor stuck"):
        engine(plan())
    assert len(heard.frames) == 1
    assert heard.stopped[0][1] == "fail" and "motor stuck" in heard.stopped[0][2]


def test_interleaved_runs_of_one_plan(engine, heard):
    from bluesky.preprocessors import set_run_key_wrapper

    one, two = Saxs(name="saxs"), Saxs(name="saxs")
    engine.subscribe(FrameRouter(heard, StreamSettings(data_key="saxs_intensity")))

    def shot(key, device):
        yield from set_run_key_wrapper(bps.trigger_and_read([device]), key)

    def plan():
        for key in ("one", "two"):
            yield from set_run_key_wrapper(bps.open_run(), key)
        for key, device in (("one", one), ("two", two), ("one", one), ("two", two)):
            yield from shot(key, device)
        for key in ("one", "two"):
            yield from set_run_key_wrapper(bps.close_run(), key)

    uids = engine(plan())
    assert [frame.origin.raw_uid for frame in heard.frames] == [*uids, *uids]
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 1, 2, 2]


class Pilatus(Device):
    """Writes frames as AreaDetector's HDF5 plug-in does, and speaks Resource and Datum."""

    image = Component(Signal, value="")

    def __init__(self, folder: Path, **kwargs) -> None:
        super().__init__(**kwargs)
        self._folder, self._file, self._assets, self._shot = folder, None, [], 0
        self.images = np.random.default_rng(1).poisson(20.0, size=(8, 12, 10)).astype(np.uint32)

    def stage(self):
        path = self._folder / "pilatus_000001.h5"
        self._file = h5py.File(path, "w")
        self._data = self._file.create_dataset(
            "/entry/data/data", shape=(0, 12, 10), maxshape=(None, 12, 10), dtype="u4"
        )
        bundle = compose_resource(
            spec="AD_HDF5",
            root="/",
            resource_path=str(path).lstrip("/"),
            resource_kwargs={"frame_per_point": 1},
            path_semantics="posix",
            start={"uid": "", "time": 0.0},
            validate=False,
        )
        resource = {key: value for key, value in bundle.resource_doc.items() if key != "run_start"}
        self._compose_datum = bundle.compose_datum
        self._assets.append(("resource", resource))
        return super().stage()

    def trigger(self):
        status = super().trigger()
        self._data.resize(self._shot + 1, axis=0)
        self._data[self._shot] = self.images[self._shot]
        self._file.flush()
        datum = self._compose_datum(datum_kwargs={"point_number": self._shot})
        self._assets.append(("datum", datum))
        self.image.put(datum["datum_id"])
        self._shot += 1
        return status

    def unstage(self):
        self._file.close()
        return super().unstage()

    def describe(self):
        key = {"source": "sim", "dtype": "array", "shape": [1, 12, 10], "external": "FILESTORE:"}
        return {"pilatus_image": key}

    def collect_asset_docs(self):
        assets, self._assets = self._assets, []
        yield from assets


def test_area_detector_files(engine, heard, tmp_path, oracle, monkeypatch):
    oracle("area_detector_handlers")
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    pilatus = Pilatus(tmp_path, name="pilatus")
    engine.subscribe(FrameRouter(heard))
    engine(bp.count([pilatus], num=4), nfphasing={"geometry": SI})
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 2, 3, 4], heard.failures
    for frame, image in zip(heard.frames, pilatus.images, strict=False):
        np.testing.assert_array_equal(frame.intensity, image)
    assert heard.frames[0].origin.data_key == "pilatus_image"


def test_ophyd_async_detector(engine, heard, tmp_path, oracle):
    core, sim = oracle("ophyd_async.core"), oracle("ophyd_async.sim")
    paths = core.StaticPathProvider(core.StaticFilenameProvider("blob"), tmp_path)
    with core.init_devices():
        blob = sim.SimBlobDetector(paths, name="blob")
    engine.subscribe(FrameRouter(heard))
    engine(bp.count([blob], num=3), nfphasing={"geometry": SI})
    assert [frame.origin.seq_num for frame in heard.frames] == [1, 2, 3], heard.failures
    with h5py.File(next(tmp_path.glob("*.h5"))) as file:
        images = file["/entry/data/data"][()]
    assert images.shape[0] == 3
    for frame, image in zip(heard.frames, images, strict=True):
        assert isinstance(frame, Frame)
        np.testing.assert_array_equal(frame.intensity, image)


def test_no_thread_is_left(engine, heard):
    before = threading.active_count()
    engine.subscribe(FrameRouter(heard, StreamSettings(data_key="saxs_intensity")))
    engine(bp.count([Saxs(name="saxs")], num=2))
    assert threading.active_count() <= before + 1
