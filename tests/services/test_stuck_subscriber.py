"""A client that hangs while it is subscribed to everything: neither the server nor another client notices."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tango

from nfphasing_bluesky.clients.data_array import decode

IMAGES = ("density_mean_encoded", "density_std_encoded")
FRAMES = 1000


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


def resident_mib(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.fixture
def watched(server, worker, until, tango_host):
    """A server of images that are too large for Tango to copy, and two clients of all of its events.

    A hundred frames a second are 2,000 events: of more Tango would drop some where a client has to wait for
    its turn at a processor for half a second.
    """
    worker.settings = worker.settings.model_copy(update={"model": "tiny-large:0.01"})
    worker.start()
    process, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    proxy.image_rate_hz = 20.0
    scalars = [
        info.name for info in proxy.attribute_list_query() if info.data_format == tango.AttrDataFormat.SCALAR
    ]
    names = [n for n in scalars if n not in ("image_rate_hz", *IMAGES) and not n.endswith("_encoded")]
    clients = [Subscriber(proxy, tango_host, [*names, *IMAGES]) for _ in range(2)]
    yield process, proxy, clients
    for client in clients:
        client.close()
    proxy.image_rate_hz = 2.0  # it is memorized, and the database is everybody's


def test_a_stopped_subscriber_holds_up_nobody(watched, worker, raw, until):
    process, proxy, (stuck, other) = watched
    worker.send(raw.raw_run(50))
    assert until(lambda: other.heard()["frame_id"][1] == 50)
    stuck.process.send_signal(signal.SIGSTOP)
    before, calm = other.heard(), resident_mib(process.pid)
    sender = threading.Thread(target=lambda: worker.send(raw.raw_run(FRAMES, seed=1)))
    sender.start()
    answers = 0
    while proxy.frames_reconstructed < 50 + FRAMES:
        # a server that waits for the stopped one answers none of these
        assert proxy.state() in (tango.DevState.RUNNING, tango.DevState.ON, tango.DevState.ALARM)
        assert proxy.Start() in ("RUNNING", "ON")
        assert proxy.density_mean.shape == (48, 64)
        answers += 1
        time.sleep(0.1)
    sender.join()
    assert answers > 5 and proxy.frames_dropped == proxy.frames_failed == 0
    assert until(lambda: other.heard()["frame_id"][1] == 50 + FRAMES)
    after = other.heard()
    assert all(after[n][0] - before[n][0] > 0.95 * FRAMES for n in ("frame_id", "offset_rad", "verdict"))
    assert all(after[name][0] > before[name][0] + 5 for name in IMAGES)
    # what Tango keeps for the stopped one: at most 1,000 events, of 12 KiB at most
    assert resident_mib(process.pid) < calm + 25
    assert decode(proxy.density_mean_encoded).shape == (48, 64)
    # Tango would wait for the stopped one
    with pytest.raises(tango.DevFailed, match="density_mean"):
        proxy.subscribe_event("density_mean", tango.EventType.CHANGE_EVENT, lambda event: None)
