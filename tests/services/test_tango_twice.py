"""A server that cannot start says why and ends; the one that runs goes on."""

import socket
import subprocess
import sys

import pytest
import tango

from tests.waiting import free_port


def run(*arguments):
    """Run a server that is expected to end."""
    command = [sys.executable, "-m", "tango_device.server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_second_one_of_the_same_instance_ends_and_the_first_goes_on(server, worker, raw, until):
    worker.start()
    process, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    second = run("1")
    assert second.returncode != 0 and "already running" in second.stderr
    assert "Traceback" not in second.stderr
    assert process.poll() is None
    worker.send(raw.raw_run(2))
    assert until(lambda: proxy.frame_id == 2), proxy.status()
    assert run("nonesuch").returncode != 0


def test_an_address_that_is_taken_ends_it_with_status_1_and_nothing_answers(server, worker):
    process, proxy = server()
    process.kill()
    process.wait()
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        done = run("1", "-ORBendPoint", f"giop:tcp:{taken}")
    assert done.returncode == 1 and "Address in use" in done.stderr
    assert "NfPhasing 1 could not start" in done.stderr and "-ORBendPoint" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(tango.DevFailed):
        proxy.ping()
