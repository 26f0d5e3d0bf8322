"""An address that somebody has already: the program says which and ends; nothing of it stays and answers."""

import contextlib
import json
import socket

import pytest

from tests.cli.conftest import finish
from tests.waiting import free_port

ENDS = ("documents", "results", "control", "metrics")


def listening(address):
    """Whether anybody listens there."""
    if address.startswith("ipc://"):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            return probe.connect_ex(address.removeprefix("ipc://")) == 0
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.parametrize(
    ("taken", "transport"), [*((end, "tcp") for end in ENDS), *((end, "ipc") for end in ENDS[:3])]
)
def test_a_worker_that_finds_an_address_taken_says_so_and_ends(start, tmp_path, taken, transport):
    addresses = {name: f"tcp://127.0.0.1:{free_port()}" for name in ENDS}
    if transport == "ipc":
        addresses |= {name: f"ipc://{tmp_path}/{name}" for name in ENDS[:3]}
    with socket.socket(socket.AF_UNIX if transport == "ipc" else socket.AF_INET) as other:
        where = addresses[taken].removeprefix("ipc://")
        other.bind(where if transport == "ipc" else ("127.0.0.1", int(where.rpartition(":")[2])))
        other.listen()
        settings = {**addresses, "metrics": addresses["metrics"].removeprefix("tcp://")}
        done = finish(start("serve", json.dumps(settings)))
        assert done.status == 1 and "TransportError" in done.err and "Traceback" not in done.err, done.err
        assert settings[taken] in done.err.replace("\n", " "), done.err
        assert "choose another port" in done.err or "is another worker running there" in done.err
        # the one who was there still is, and nobody else
        assert [name for name in ENDS if listening(addresses[name])] == [taken]
