"""What the server logs: on stderr with time and level, and in the device's own log stream."""

import re

import tango


def test_a_lost_worker_is_in_the_servers_log_and_in_the_devices(server, worker, until, tmp_path):
    worker.start()
    _, proxy = server()
    assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
    target = tmp_path / "device.log"
    proxy.add_logging_target(f"file::{target}")
    proxy.set_logging_level(4)
    try:
        worker.kill()
        worker.process.wait()
        assert until(lambda: target.exists() and "has died" in target.read_text())
        worker.start()
        assert until(lambda: "State is ON again" in target.read_text())
        # a new Init goes on with the same stream
        proxy.Init()
        assert until(lambda: proxy.state() == tango.DevState.ON), proxy.status()
        worker.kill()
        worker.process.wait()
        assert until(lambda: target.read_text().count("has died") == 2), target.read_text()
    finally:
        proxy.remove_logging_target(f"file::{target}")
        proxy.set_logging_level(3)
    line = (
        r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ERROR tango_device\.showing: State is FAULT: .*has died"
    )
    assert len(re.findall(line, (tmp_path / "server.log").read_text())) == 2
