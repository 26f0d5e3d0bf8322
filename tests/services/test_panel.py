"""The panel on a real device, under Qt's offscreen display."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tango

from tests.known_object import raw_scan
from tests.services.conftest import DEVICE

PATTERN = ("q", "measured", "predicted", "predicted_lower", "predicted_upper")
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def look(oracle, tango_host, tmp_path):
    """Open the panel once the device shows a frame of this number in its run; what it looks like."""
    oracle("taurus")
    oracle("PySide6")

    def look(frame, *model):
        probe = Path(__file__).with_name("panel_probe.py")
        done = subprocess.run(
            [sys.executable, probe, DEVICE, str(frame), tmp_path, *model],
            env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert (tmp_path / "panel.png").stat().st_size > 10_000
        return np.load(tmp_path / "seen.npz")

    return look


@pytest.fixture
def device(server, worker, until):
    def start(model):
        worker.settings = worker.settings.model_copy(update={"model": model})
        worker.start()
        _, proxy = server()
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        return proxy

    return start


def upwards(corners):
    """How many images have pixel [0, 0] at the lower left, as small-angle patterns and their objects do."""
    assert all(left < right and first > last for (left, first), (right, last) in corners), corners
    return len(corners)


def test_an_image_stands_on_the_screen_as_the_attribute_holds_it(device, worker, raw, until, look):
    import matplotlib

    proxy = device("tiny-large")
    items = list(raw.raw_run(3, poison={3: lambda v: v + 8 * (np.arange(v.size) % 2)}))
    worker.send(items[:-1])
    assert until(lambda: proxy.frame_id == 3)
    seen = look(3)
    mean = proxy.density_mean
    low, high = seen["levels"]
    assert low <= np.percentile(mean, 5) and high >= np.percentile(mean, 95)
    wanted = matplotlib.colormaps["viridis"](np.clip((mean - low) / (high - low), 0, 1))[..., :3] * 255
    assert seen["mean"].shape == (48, 64, 3)
    assert np.abs(seen["mean"] - wanted).mean() < 6
    for wrong in (wanted[::-1], wanted[:, ::-1], wanted[::-1, ::-1]):
        assert np.abs(seen["mean"] - wrong).mean() > 30
    (left, top), (right, bottom) = seen["corners"]
    assert left < right and top < bottom  # pixel [0, 0] is at the upper left
    assert (right - left) / (bottom - top) == pytest.approx(
        2 * (63 / 63) / 1, rel=0.05
    )  # micrometres, not pixels
    assert upwards(seen["as_pattern"]) == 2
    assert "µm" in str(seen["axis"]) and str(seen["title"]) == "posterior mean"
    assert seen["bars"].tolist() == ["plane (rad)", "standard deviation (rad)"]
    assert "ALARM" in str(seen["light"]) and "chi-squared" in str(seen["reason"])
    assert seen["lit"].tolist() == [0xD6, 0x27, 0x28]
    assert f"latency {1000 * proxy.latency:.0f} ms" in str(seen["frame"])
    assert re.search(r"received 3\s+reconstructed 3\s+dropped 0\s+failed 0", str(seen["counters"]))
    ((label, value, unit),) = seen["cells"].tolist()
    median, std = (float(part) for part in value.split(" ± "))
    assert (label, unit) == ("Offset", "rad") and std > 0
    assert median == pytest.approx(proxy.offset_rad, abs=std / 5)
    assert seen["models"] >= 5


def test_a_scan_is_shown_as_the_object_it_is_stitched_to(scanning, worker, until, look):
    import matplotlib

    proxy = scanning
    documents = list(raw_scan())
    worker.send(documents[:-1])
    frames = sum(name == "event" for name, _ in documents)
    assert until(lambda: proxy.object_frames == frames and proxy.pattern_seq_num == frames), proxy.status()
    seen, phase = look(frames), proxy.object_phase
    low, high = seen["levels"]
    wanted = matplotlib.colormaps["viridis"](np.clip((phase - low) / (high - low), 0, 1))[..., :3] * 255
    there = np.isfinite(phase)
    assert seen["mean"].shape == (*phase.shape, 3)
    assert np.abs(seen["mean"] - wanted)[there].mean() < 8
    for wrong in (wanted[::-1], wanted[:, ::-1], wanted[::-1, ::-1]):
        assert np.abs(seen["mean"] - wrong)[there].mean() > 25
    assert str(seen["title"]) == f"object, stitched of {frames} frames" and "nm" in str(seen["axis"])
    assert seen["bars"].tolist() == ["phase of the object (rad)", "standard deviation / modulus"]
    assert upwards(seen["as_pattern"]) == 4
    # the frame beside its prediction, on one scale, right way up
    inferno, logs = matplotlib.colormaps["inferno"], []
    for name in ("measured", "predicted"):
        image = getattr(proxy, name)
        logs.append(np.sign(image) * np.log10(1 + np.abs(image)))
        assert str(seen[f"{name}_title"]) == name
        assert seen[f"{name}_levels"] == pytest.approx(np.percentile(logs[0], [0.5, 99.5]))
        low, high = seen[f"{name}_levels"]
        wanted = inferno(np.clip((logs[-1] - low) / (high - low), 0, 1))[..., :3] * 255
        off = np.abs(seen[f"{name}_colours"] - wanted).mean()
        for turned in (wanted[::-1], wanted[:, ::-1], wanted.transpose(1, 0, 2)):
            assert off < np.abs(seen[f"{name}_colours"] - turned).mean() / 2, name


def test_curves_and_what_the_buttons_do(device, worker, raw, until, look):
    proxy = device("tiny-line")
    worker.send(raw.raw_run(2))
    assert until(lambda: proxy.frame_id == proxy.pattern_seq_num == 2)
    pattern = [getattr(proxy, name) for name in PATTERN]
    latency = f"{1000 * proxy.latency:.0f} ms"
    seen = look(2, "tiny-image")
    assert seen["banded"] > 5000
    assert "VALID" in str(seen["light"]) and "ON" in str(seen["state"])
    assert seen["lit"].tolist() == [0x2E, 0x9E, 0x4F]
    assert f"latency {latency}" in str(seen["frame"])
    q, measured, predicted, lower, upper = pattern
    assert seen["points"][0] == pytest.approx(q) and seen["points"][1] == pytest.approx(np.log10(measured))
    assert seen["line"][1] == pytest.approx(np.log10(predicted))
    assert seen["lower"][1] == pytest.approx(np.log10(lower))
    assert seen["upper"][1] == pytest.approx(np.log10(upper))
    assert seen["labels"].tolist() == ["q (Å⁻¹)", "intensity"]
    assert [row[0] for row in seen["cells"].tolist()] == ["Offset", "Slope"]
    load, stop, start, reset, last = seen["orders"].tolist()
    assert load[0].startswith("LoadModel: ") and proxy.model == "tiny-image"
    assert stop[0] == "Stop: STANDBY" and "STANDBY" in stop[1]
    assert start[0] == "Start: ON" and "ON" in start[1]
    assert reset[0].startswith("Reset: ") and last[0].startswith("received 0 ")
    assert last[1] == "tiny-image"


def test_an_order_that_the_worker_does_not_answer_is_explained_and_nobody_waits_for_it(
    device, worker, until, oracle
):
    """The panel waits for longer than the device does; the device answers others meanwhile."""
    oracle("taurus")
    from tango_device.panel.reading import Reader

    proxy, reader = device("tiny-line"), Reader(DEVICE, lambda snapshot: None)
    said, meanwhile = [], []

    def order():
        meanwhile.clear()
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        worker.process.send_signal(signal.SIGSTOP)
        try:
            thread = threading.Thread(target=lambda: said.append(reader.order("Start")))
            thread.start()
            while thread.is_alive():
                meanwhile.append(not reader.read().problem and thread.is_alive())
            thread.join()
        finally:
            worker.process.send_signal(signal.SIGCONT)
        # another time on a machine that took three seconds to ask: then it knew already
        # one may have come before the order
        return "no worker answered start" in said[-1] and sum(meanwhile) > 2

    assert until(order), (said, meanwhile)
    assert "nfphasing serve" in said[-1]


def test_the_program_saves_a_picture_and_ends(device, worker, raw, until, oracle, tmp_path):
    oracle("taurus")
    oracle("PySide6")
    proxy = device("tiny-line")
    worker.send(raw.raw_run(2))
    assert until(lambda: proxy.frame_id == proxy.pattern_seq_num == 2)
    picture = tmp_path / "panel.png"
    program = Path(sys.executable).with_name("nfphasing-panel")
    done = subprocess.run(
        [program, DEVICE, "--screenshot", picture],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    import matplotlib.image

    seen = matplotlib.image.imread(picture)[..., :3] * 255
    green = np.abs(seen - np.array([0x2E, 0x9E, 0x4F])).max(axis=-1) < 3
    assert seen.shape == (800, 1280, 3) and green.sum() > 1000
