import os
import signal
import subprocess

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd import Component, Device, Signal
from ophyd.status import DeviceStatus

from nfphasing_bluesky.core import Policy, ReconstructionSettings, StreamSettings
from nfphasing_bluesky.storage.catalogs import close_catalog, embedded_catalog
from nfphasing_bluesky.storage.queries import reconstructions_of
from nfphasing_bluesky.streaming.callback import ReconstructionCallback
from nfphasing_bluesky.streaming.child import is_alive
from tests.waiting import until

KEY = "saxs_intensity"
N_Q = 40


class PerAngstrom(Signal):
    def describe(self):
        described = super().describe()
        described[self.name]["units"] = "1/angstrom"
        return described


class Saxs(Device):
    """A detector that gives a straight line with noise, and NaN at the exposures in `poison`."""

    intensity = Component(Signal, value=np.zeros(N_Q))
    q = Component(PerAngstrom, value=np.linspace(0.01, 0.3, N_Q))
    sigma = Component(Signal, value=np.ones(N_Q))

    def __init__(self, *args, poison=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.rng, self.exposure, self.poison = np.random.default_rng(1), 0, poison

    def trigger(self):
        self.exposure += 1
        values = 100 + 10 * np.linspace(0, 1, N_Q) + self.rng.normal(size=N_Q)
        self.intensity.put(np.full(N_Q, np.nan) if self.exposure in self.poison else values)
        status = DeviceStatus(self)
        status.set_finished()
        return status


@pytest.fixture
def scan():
    """Run `count` with callbacks subscribed; returns the raw uid."""

    def run(callback, n=10, poison=()):
        RE = RunEngine({})
        RE.subscribe(callback)
        (uid,) = RE(bp.count([Saxs(name="saxs", poison=poison)], num=n))
        return uid

    return run


@pytest.fixture(params=["process", "thread"])
def make(request, tiny, tiny_command):
    """Make callbacks of both kinds; closed after the test."""
    made = []

    def build(model="tiny-line", catalog=None, **settings):
        callback = ReconstructionCallback(
            model,
            catalog,
            data_key=KEY,
            settings=StreamSettings(**settings.pop("stream_settings", {})),
            reconstruction=ReconstructionSettings(n_samples=32),
            worker=request.param,
            command=tiny_command,
            load=tiny.load,
            **settings,
        )
        made.append(callback)
        return callback

    yield build
    for callback in made:
        callback.close()


def counts(callback):
    ledger = callback.ledger()
    return ledger.received, ledger.reconstructed, ledger.dropped, ledger.failed


def test_a_scan_is_reconstructed_and_subscribers_hear_of_it(make, scan):
    callback = make()
    documents, frames = [], []
    callback.subscribe(lambda name, doc: documents.append((name, doc)))
    callback.subscribe_frames(frames.append)
    uid = scan(callback, 10)
    assert callback.wait(240)
    assert counts(callback) == (10, 10, 0, 0), frames[0].reason
    assert documents[0][1]["original_run_uid"] == uid and documents[-1][0] == "stop"
    assert [f.seq_num for f in frames] == list(range(1, 11))
    assert frames[0].parameters["offset_inv_cm"][0] == pytest.approx(100, abs=3)
    assert frames[0].mean.shape == (16,) and not callback.trouble and not callback.errors


def test_poisoned_frames_fail_with_a_reason_and_the_scan_goes_on(make, scan):
    callback = make()
    frames = []
    callback.subscribe_frames(frames.append)
    scan(callback, 12, poison=(3, 7))
    assert callback.wait(240)
    assert counts(callback) == (12, 10, 0, 2)
    failed = [f for f in frames if f.verdict == "FAILED"]
    assert [f.seq_num for f in failed] == [3, 7] and "NaN" in failed[0].reason


@pytest.fixture
def gate(tmp_path):
    """A file that a model waits for."""
    return tmp_path / "go"


def test_a_slow_model_does_not_hold_the_scan(make, scan, gate):
    callback = make(f"tiny-line:{gate}")
    scan(callback, 8)
    # what a document costs in time is a benchmark's; here the scan has ended before the model has begun
    assert counts(callback)[1] == 0
    gate.touch()
    assert callback.wait(240)
    assert counts(callback) == (8, 8, 0, 0)


@pytest.mark.parametrize("policy", [Policy.LATEST, Policy.SAMPLE])
def test_drops_are_counted_and_the_ledger_adds_up(make, scan, policy, gate):
    settings = {"policy": policy, "queue_size": 5, "batch_size": 2}
    callback = make(f"tiny-line:{gate}", stream_settings=settings)
    events = []
    callback.subscribe(lambda name, doc: events.append(doc) if name == "event" else None)
    scan(callback, 100)
    gate.touch()
    assert callback.wait(240)
    received, reconstructed, dropped, failed = counts(callback)
    assert received == 100 == reconstructed + dropped + failed and failed == 0 and dropped > 20
    (ledger,) = [doc["data"] for doc in events if "dropped" in doc["data"]]
    assert (ledger["received"], ledger["dropped"], ledger["reconstructed"]) == (100, dropped, reconstructed)


@pytest.mark.parametrize("make", ["process"], indirect=True)
def test_the_derived_run_is_in_the_catalog_after_wait(make, scan, tmp_path):
    callback = make(catalog=tmp_path / "catalog")
    uid = scan(callback, 10, poison=(2,))
    assert callback.wait(240)  # two processes open a catalog first
    client = embedded_catalog(tmp_path / "catalog")
    try:
        (run,) = reconstructions_of(client, uid)
        mean = run["density"].read()["density_mean"]
        assert mean.shape[0] == 10 and np.isnan(np.asarray(mean)[1]).all()
        assert np.asarray(mean)[0] == pytest.approx(105, abs=8)
    finally:
        close_catalog(client)


@pytest.mark.parametrize("make", ["process"], indirect=True)
def test_a_catalog_client_is_written_to_from_this_process(make, scan, tmp_path):
    client = embedded_catalog(tmp_path / "catalog")
    try:
        callback = make(catalog=client, files=tmp_path / "catalog" / "derived")
        uid = scan(callback, 6)
        assert callback.wait(240)
        (run,) = reconstructions_of(client, uid)
        assert run["density"].read()["density_mean"].shape[0] == 6
    finally:
        close_catalog(client)


def test_malformed_documents_are_logged_and_never_raised(make, raw):
    callback = make()
    for item in [("event", {}), ("descriptor", {"uid": 1}), ("event", None), ("stop", {"run_start": "?"})]:
        callback(*item)
    callback("start", {"uid": "x", "odd": object()})
    items = [(n, d) for n, d in raw.raw_run(3, data_key=KEY)]
    for item in items:
        callback(*item)
    assert callback.wait(240)
    assert counts(callback) == (3, 3, 0, 0) and callback.errors >= 3


def test_a_subscriber_that_raises_harms_nobody(make, scan):
    callback = make()
    callback.subscribe(lambda name, doc: 1 / 0)
    scan(callback, 4)
    assert callback.wait(240)
    assert counts(callback) == (4, 4, 0, 0) and callback.errors > 0


def test_a_model_that_does_not_exist_is_named_and_every_frame_accounted_for(make, scan):
    callback = make("nonsense")
    scan(callback, 5)
    assert callback.wait(240)
    assert counts(callback) == (5, 0, 5, 0) and "nonsense" in callback.trouble


def test_a_closed_callback_is_harmless_in_a_scan(make, scan):
    callback = make()
    assert callback.close(240)
    scan(callback, 3)
    assert callback.close() and callback.errors > 0


@pytest.mark.parametrize("make", ["process"], indirect=True)
def test_a_killed_worker_costs_its_frames_and_the_next_run_has_a_new_one(make, scan, gate):
    callback = make(f"tiny-line:{gate}", stream_settings={"batch_size": 1})
    scan(callback, 8)
    first = callback._engine.child.pid
    assert until(gate.with_suffix(".waiting").exists)
    os.kill(first, signal.SIGKILL)
    assert callback.wait(240)
    received, reconstructed, dropped, failed = counts(callback)
    assert received == 8 == reconstructed + dropped + failed and failed > 0
    gate.touch()
    scan(callback, 3)
    assert callback.wait(240)
    assert callback._engine.child.pid != first
    assert callback.ledger().received == 11 and callback.ledger().pending == 0
    assert callback.ledger().reconstructed == reconstructed + 3


def test_the_child_ends_with_an_interpreter_that_just_exits(tiny_command):
    code = (
        "from nfphasing_bluesky.streaming import ReconstructionCallback\n"
        f"callback = ReconstructionCallback('tiny-line', command={tiny_command!r})\n"
        "print(callback._engine.child.pid, flush=True)\n"
    )
    done = subprocess.run(
        [tiny_command[0], "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert not is_alive(int(done.stdout))


def test_the_callback_of_a_process_imports_neither_torch_nor_anybodys_handlers(tiny_command):
    code = (
        "import sys, nfphasing_bluesky.streaming.callback\n"
        "from nfphasing_bluesky.documents.router import FrameRouter\n"
        "FrameRouter(None)\n"
        "print({'torch', 'pandas', 'dask', 'area_detector_handlers'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [tiny_command[0], "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "set()"
