"""The device's side of the worker's sockets, with a socket that says what a worker says."""

import logging

import pytest
import zmq

from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.protocol import (
    TOPIC_FRAME,
    TOPIC_STATUS,
    FrameResult,
    WorkerState,
    WorkerStatus,
)
from tango_device.link import Ends, WorkerLink
from tests.waiting import until


@pytest.fixture
def said(tmp_path):
    """A link, and what says something to it."""
    context = zmq.Context()
    results = context.socket(zmq.XPUB)
    results.bind(f"ipc://{tmp_path}/results")
    link = WorkerLink(Ends(*(f"ipc://{tmp_path}/{name}" for name in ("documents", "results", "control"))))
    # one subscription for each topic
    for _ in range(4):
        assert results.poll(60_000) and results.recv()

    def say(topic, what):
        results.send_multipart([topic, wire.pack(what.to_message())])

    yield link, say
    link.close()
    context.destroy(linger=0)


def test_frames_that_nobody_took_in_time_are_counted_and_the_latest_stay(said, caplog):
    link, say = said
    with caplog.at_level(logging.WARNING):
        for number in range(1, 301):
            say(TOPIC_FRAME, FrameResult("raw", number, number, "VALID"))
        assert until(lambda: link.not_shown == 300 - 256)
    shown = [link.next_frame(0.1).frame_id for _ in range(256)]
    assert shown == list(range(45, 301)) and link.next_frame(0.01) is None
    assert caplog.text.count("frames_not_shown") == 1


def test_a_pid_is_trusted_where_it_is_one_of_ours(said):
    from nfphasing_bluesky.streaming.child import pid_space

    link, say = said
    gone = 2**22 + 1  # above any that Linux gives
    for machine, reachable in ((pid_space(), False), ("another", True), ("", True)):
        say(TOPIC_STATUS, WorkerStatus(WorkerState.ON, pid=gone, machine=machine, latency_s=len(machine)))
        size = len(machine)
        assert until(lambda n=size: link.health().status and link.health().status.latency_s == n)
        assert link.health().reachable is reachable, machine
