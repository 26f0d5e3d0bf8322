"""A client that hangs while it is subscribed to everything: no server, worker or other client notices."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tango

from nfphasing_bluesky.clients.data_array import decode
from nfphasing_bluesky.core import StreamSettings

IMAGES = ("density_mean_encoded", "density_std_encoded")
MODEL = "tiny-large:0.01"
FRAMES_BEFORE, FRAMES = 300, 1000
ROUNDS = 3
PEAK = "VmHWM"


class Subscriber:
    """A client in a process of its own."""

    def __init__(self, proxy, host, names):
        command = [sys.executable, str(Path(__file__).with_name("subscriber.py"))]
        self.process = subprocess.Popen(
            [*command, f"tango://{host}/{proxy.dev_name()}", *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def heard(self):
        self.process.stdin.write("now\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.kill()
        self.process.communicate()


def memory_mib(pid, which="VmRSS"):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1]) / 1024


def cpu_s(pid):
    """Processor time of a process, which a busy machine leaves as it is."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Clock:
    """How long each command took."""

    def __init__(self):
        self.seconds = defaultdict(list)

    def time(self, name, call):
        began = time.monotonic()
        answer = call()
        self.seconds[name].append(time.monotonic() - began)
        return answer

    def slow(self, name):
        """The time that nine of ten stay below."""
        return float(np.percentile(self.seconds[name], 90))


@dataclass(frozen=True)
class Pace:
    """What a run of frames cost the worker."""

    frames_per_s: float
    frames_per_cpu_s: float


def reads(proxy, clock):
    """Everything that may be asked while frames arrive."""
    running = (tango.DevState.RUNNING, tango.DevState.ON, tango.DevState.ALARM)
    assert clock.time("State", proxy.state) in running
    assert clock.time("Status", proxy.status)
    assert clock.time("Start", proxy.Start) in ("RUNNING", "ON")
    assert clock.time("image", lambda: proxy.density_mean).shape == (48, 64)
    assert clock.time("scalar", lambda: proxy.offset_rad) > 0
    assert clock.time("list", proxy.get_attribute_list)


def orders(proxy, clock, until):
    """Every order, several times."""
    for _ in range(ROUNDS):
        assert clock.time("Stop", proxy.Stop).startswith("STANDBY")
        clock.time("Start", proxy.Start)
        clock.time("Reset", proxy.Reset)
        clock.time("LoadModel", lambda: proxy.LoadModel(MODEL))
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        clock.time("Init", proxy.Init)
        assert until(lambda: "offset_rad" in proxy.get_attribute_list())
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()


def flow(proxy, worker, items, count, clock, until):
    """Send a run and ask all the time, until its frames are done; the worker's pace."""
    done = proxy.frames_reconstructed
    sender = threading.Thread(target=lambda: worker.send(items))
    used, began = cpu_s(worker.process.pid), time.monotonic()
    sender.start()
    while proxy.frames_reconstructed < done + count:
        reads(proxy, clock)
        time.sleep(0.1)
    wall, cpu = time.monotonic() - began, cpu_s(worker.process.pid) - used
    sender.join()
    assert proxy.frames_dropped == proxy.frames_failed == 0
    return Pace(count / wall, count / cpu)


@pytest.fixture
def device(server, worker, until):
    """A server of images that are too large for Tango to copy.

    A hundred frames a second are 2,000 events: of more Tango would drop some where a client has to wait for
    its turn at a processor for half a second.
    """
    # small batches: what is in flight is little beside what a leak would leave
    stream = StreamSettings(data_key="det", batch_size=4)
    worker.settings = worker.settings.model_copy(update={"model": MODEL, "stream": stream})
    worker.start()
    process, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    proxy.image_rate_hz = 20.0
    yield process, proxy
    proxy.image_rate_hz = 2.0  # it is memorized, and the database is everybody's


@pytest.fixture
def subscribe(device, tango_host):
    """Start a client of all events."""
    proxy, clients = device[1], []

    def begin():
        scalars = [
            info.name
            for info in proxy.attribute_list_query()
            if info.data_format == tango.AttrDataFormat.SCALAR
        ]
        names = [n for n in scalars if n != "image_rate_hz" and not n.endswith("_encoded")]
        clients.append(Subscriber(proxy, tango_host, [*names, *IMAGES]))
        return clients[-1]

    yield begin
    for client in clients:
        client.close()


@pytest.mark.slow
def test_a_stopped_subscriber_holds_up_nobody(device, subscribe, worker, raw, until):
    process, proxy = device
    before, during = Clock(), Clock()
    orders(proxy, before, until)
    worker.send(raw.raw_run(5))
    assert until(lambda: proxy.frames_reconstructed == 5 and proxy.density_mean is not None)
    stuck, other = subscribe(), subscribe()
    pace = flow(proxy, worker, raw.raw_run(FRAMES_BEFORE, seed=1), FRAMES_BEFORE, before, until)
    last = 5 + FRAMES_BEFORE
    assert until(lambda: other.heard()["frame_id"][1] == last)

    stuck.process.send_signal(signal.SIGSTOP)
    heard, calm, of_worker = other.heard(), memory_mib(process.pid), memory_mib(worker.process.pid, PEAK)
    stuck_pace = flow(proxy, worker, raw.raw_run(FRAMES, seed=2), FRAMES, during, until)
    assert until(lambda: other.heard()["frame_id"][1] == last + FRAMES)
    after = other.heard()
    assert all(after[n][0] - heard[n][0] > 0.95 * FRAMES for n in ("frame_id", "offset_rad", "verdict"))
    assert all(after[name][0] > heard[name][0] + 5 for name in IMAGES)
    # what Tango keeps for the stopped one: at most 1,000 events, of 12 KiB at most
    assert memory_mib(process.pid) < calm + 25
    # results that a worker kept for it would be 48 KiB a frame
    assert memory_mib(worker.process.pid, PEAK) < of_worker + 25
    assert decode(proxy.density_mean_encoded).shape == (48, 64)
    # the machine has other work; a worker that waits for somebody does none
    assert stuck_pace.frames_per_s > pace.frames_per_s / 4
    assert stuck_pace.frames_per_cpu_s > pace.frames_per_cpu_s / 2

    orders(proxy, during, until)
    assert during.seconds.keys() == before.seconds.keys()
    slow = {name: (before.slow(name), during.slow(name)) for name in before.seconds}
    assert all(now < max(1.0, 3 * then) for then, now in slow.values()), slow
    worker.send(raw.raw_run(3))
    assert until(lambda: other.heard()["frame_id"][1] == last + FRAMES + 3)
    # Tango would wait for the stopped one
    with pytest.raises(tango.DevFailed, match="density_mean"):
        proxy.subscribe_event("density_mean", tango.EventType.CHANGE_EVENT, lambda event: None)
