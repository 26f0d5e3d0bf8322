"""Frames straight from a detector's Tango server, without Bluesky."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tango

from nfphasing_bluesky.streaming.client import Listener
from tests.services.conftest import _answers, end

DETECTOR = "test/detector/1"
GEOMETRY = json.dumps({"sample": "flat", "nfphasing": {"geometry": {"fresnel_number": 0.01, "photons": 1.0}}})


@pytest.fixture
def detector(tango_host, until, tmp_path):
    """Start the detector's server; gives (process, proxy)."""
    info = tango.DbDevInfo()
    info.name, info._class, info.server = DETECTOR, "Detector", "detector/1"
    tango.Database(*tango_host.rsplit(":", 1)).add_device(info)
    with contextlib.ExitStack() as stack:

        def start():
            command = [sys.executable, str(Path(__file__).with_name("detector.py")), "1"]
            with (tmp_path / "detector.log").open("a") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
            stack.callback(end, process)
            proxy = tango.DeviceProxy(f"tango://{tango_host}/{DETECTOR}")
            assert until(lambda: _answers(proxy)), (tmp_path / "detector.log").read_text()
            return process, proxy

        yield start


@pytest.fixture
def site(detector, worker, server, until, tmp_path):
    """A worker, a detector, and the device between them; gives the device's proxy and the detector."""

    def start(**properties):
        stream = worker.settings.stream.model_copy(update={"data_key": None})
        worker.settings = worker.settings.model_copy(update={"model": "tiny-image", "stream": stream})
        worker.start()
        process, source = detector()
        _, proxy = server(source_metadata=GEOMETRY, **properties)
        return proxy, source, process

    return start


def ready(proxy, until):
    assert until(lambda: proxy.source_state == "waiting for Start"), proxy.source_state
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()


def frames_done(proxy):
    return proxy.frames_reconstructed + proxy.frames_failed


WAYS = {
    "number pushed": ("image", "last_image_ready", ""),
    "number polled": ("last_image", "polled_number", ""),
    "every frame by command": ("last_image", "last_image_ready", "readImage"),
    "image and its number pushed": ("video", "", ""),
    "image pushed": ("last_image", "", ""),
}


def test_frames_become_a_run_whatever_way_they_come(site, until):
    proxy, source, _ = site(source_attribute=f"{DETECTOR}/image", source_number="last_image_ready")
    database, uids = proxy.get_device_db(), set()
    for way, (image, number, command) in WAYS.items():
        values = {
            "source_attribute": f"{DETECTOR}/{image}",
            "source_number": number,
            "source_command": command,
        }
        database.put_device_property(proxy.dev_name(), values)
        source.prepare()
        proxy.Init()
        ready(proxy, until)
        proxy.Reset()
        proxy.Start()
        assert until(lambda: proxy.state() == tango.DevState.RUNNING), proxy.status()
        for frame in range(3):
            source.expose(frame)
            assert until(lambda n=frame + 1: frames_done(proxy) == n), f"{way}: {proxy.status()}"
            assert until(lambda n=frame + 1: proxy.seq_num == n)
            assert proxy.offset_rad == pytest.approx(100 + frame, abs=4 * proxy.offset_rad_std), way
        if command:
            source.expose(40)  # at once; none is lost
            assert until(lambda: frames_done(proxy) == 41), proxy.status()
        assert (proxy.source_lost, proxy.frames_failed) == (0, 0)
        proxy.Stop()
        ready(proxy, until)
        uids.add(proxy.raw_uid)
    assert len(uids) == len(WAYS)


def test_what_is_lost_or_wrong_is_told_and_a_run_survives_its_source(site, detector, worker, until):
    way = {"source_attribute": f"{DETECTOR}/last_image", "source_number": "last_image_ready"}
    proxy, source, process = site(**way)
    heard = []
    listener = Listener(worker.settings.results, on_document=lambda *item: heard.append(item)).start()
    ready(proxy, until)
    assert until(lambda: listener.silence_s < 1)
    source.prepare()
    for number, how in ((6, "shape"), (7, "bytes")):
        source.spoil([str(number), how])
    proxy.Start()
    for done, (number, why) in enumerate(
        {0: "", 1: "", 5: "", 6: "(3, 3)", 7: "needs", 8: ""}.items(), start=1
    ):
        source.skip(number)
        assert until(lambda n=done, s=number + 1: proxy.seq_num == s and frames_done(proxy) == n)
        assert why in proxy.reason
    assert (proxy.source_taken, proxy.source_lost, proxy.frames_failed) == (6, 3, 2)
    first = proxy.raw_uid

    process.kill()
    assert until(lambda: proxy.state() == tango.DevState.ALARM and "away" in proxy.status()), proxy.status()
    _, source = detector()
    source.expose(0)  # numbers begin again: another run
    assert until(lambda: frames_done(proxy) == 7), proxy.status()
    assert until(lambda: proxy.raw_uid != first)
    second = proxy.raw_uid
    assert until(lambda: [doc["exit_status"] for name, doc in heard if name == "stop"] == ["fail"])
    assert until(lambda: [doc["raw_uid"] for name, doc in heard if name == "start"] == [first, second])
    listener.close()
    (ledger,) = [doc["data"] for name, doc in heard if name == "event" and "received" in doc["data"]]
    assert [int(ledger[n]) for n in ("received", "reconstructed", "failed", "lost")] == [6, 4, 2, 3]
    assert until(lambda: f"no catalog has the frames of tango:{DETECTOR}/last_image" in proxy.status())
    assert "replay" not in proxy.status()

    worker.kill()
    worker.process.wait()
    assert until(lambda: proxy.state() == tango.DevState.FAULT), proxy.status()
    worker.start()
    assert until(lambda: proxy.state() == tango.DevState.RUNNING and proxy.source_taken == 0), proxy.status()
    source.expose(1)
    assert until(lambda: proxy.raw_uid not in (first, second)), proxy.status()
    assert until(lambda: proxy.frames_reconstructed == 1)
    proxy.Stop()
    ready(proxy, until)
