"""State and Status, as a table: whatever is known of the worker, the status says what to do next."""

from dataclasses import replace

import pytest
from tango import AttrQuality, DevState

from nfphasing_bluesky.core import ReconstructionSettings
from nfphasing_bluesky.streaming.protocol import FrameResult, WorkerState, WorkerStatus
from tango_device.link import Health
from tango_device.state import assess, quality_of, with_source, without_attributes
from tango_device.taking import NO_SOURCE, Taking
from tests.straight_line import StraightLine

MODEL = StraightLine(ReconstructionSettings()).info
WELL = WorkerStatus(WorkerState.ON, model=MODEL)
RUN = replace(WELL, state=WorkerState.RUNNING, raw_uid="abc")
VALID = FrameResult("abc", 7, 7, "VALID")
ALARM = replace(VALID, verdict="ALARM", reason="reduced chi-squared 40")
FAILED = replace(VALID, verdict="FAILED", reason="all points are masked")


def heard(status, problem=""):
    return Health(True, problem, status)


SILENT = "No worker heard at ipc://results. Start one with `nfphasing serve`."
OTHER = "Another worker (process 3) holds ipc://results."
CASES = {
    "nobody yet": (Health(False, SILENT, None), None, False, DevState.INIT, "Start one"),
    "nobody any more": (Health(False, SILENT, None), None, True, DevState.FAULT, "Start one"),
    "dead": (Health(False, "It has died. Start it.", WELL), None, False, DevState.FAULT, "Start it"),
    "another": (heard(WELL, OTHER), None, True, DevState.ALARM, "End the other one"),
    "loading": (heard(replace(WELL, state=WorkerState.LOADING)), None, True, DevState.INIT, "Wait"),
    "fault": (
        heard(replace(WELL, state=WorkerState.FAULT, reason="no such model")),
        None,
        True,
        DevState.FAULT,
        "Use LoadModel with another name, or Reset",
    ),
    "trouble": (heard(replace(WELL, reason="disk full")), None, True, DevState.ALARM, "Reset clears this"),
    "no model": (
        heard(replace(WELL, model=None, state=WorkerState.STANDBY)),
        None,
        True,
        DevState.STANDBY,
        "Use LoadModel",
    ),
    "stopped": (heard(replace(WELL, state=WorkerState.STANDBY)), None, True, DevState.STANDBY, "Use Start"),
    "ready": (heard(WELL), VALID, True, DevState.ON, "Run a scan"),
    "no frame yet": (heard(RUN), None, True, DevState.RUNNING, "Wait for"),
    "frame of the run before": (
        heard(RUN),
        replace(ALARM, raw_uid="before"),
        True,
        DevState.RUNNING,
        "Wait for",
    ),
    "good frame": (heard(RUN), VALID, True, DevState.RUNNING, "frame 7, VALID. Stop"),
    "doubtful frame": (
        heard(RUN),
        replace(VALID, verdict="WARNING"),
        True,
        DevState.RUNNING,
        "frame 7, WARNING. Stop",
    ),
    "bad frame": (heard(RUN), ALARM, True, DevState.ALARM, "reduced chi-squared 40. Look at the frame"),
    "failed frame": (
        heard(RUN),
        FAILED,
        True,
        DevState.ALARM,
        "all points are masked. The scan goes on. Remove the cause; `nfphasing replay abc --missing`",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_state_says_what_to_do_next(case):
    health, frame, attached, state, advice = CASES[case]
    found, status = assess(health, frame, attached)
    assert (found, advice in status) == (state, True), status
    assert status.endswith((".", "`."))


def test_the_table_has_every_state_of_a_worker_and_every_verdict():
    states = {health.status.state for health, *_ in CASES.values() if health.status is not None}
    verdicts = {frame.verdict for _, frame, *_ in CASES.values() if frame is not None}
    assert states == set(WorkerState) and verdicts == {"VALID", "WARNING", "ALARM", "FAILED"}


SOURCES = {
    "away": (Taking("away", "no answer"), DevState.ON, DevState.ALARM, "tried again"),
    "waits": (Taking("waiting for Start"), DevState.ON, DevState.ON, "Start begins"),
    "open": (Taking("taking frames", open=True), DevState.ON, DevState.RUNNING, "Wait for its first frame"),
    "running": (Taking("taking frames", open=True), DevState.RUNNING, DevState.RUNNING, "of the worker"),
    "none": (NO_SOURCE, DevState.ON, DevState.ON, "of the worker"),
    "worker in trouble": (Taking("away", "no answer"), DevState.FAULT, DevState.FAULT, "of the worker"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_source_adds_what_it_waits_for(case):
    source, before, state, advice = SOURCES[case]
    found, status = with_source(before, "Status of the worker.", source)
    assert (found, advice in status) == (state, True), status


def test_attributes_that_cannot_be_made_are_an_alarm_unless_the_worker_is_in_trouble():
    state, status = without_attributes(DevState.RUNNING, "Status of the worker.", "no connection")
    assert state == DevState.ALARM and "no connection. Is the Tango database up? Start it" in status
    for state in (DevState.FAULT, DevState.INIT):
        assert without_attributes(state, "Of the worker.", "no connection") == (state, "Of the worker.")
    assert without_attributes(DevState.ON, "Of the worker.", "") == (DevState.ON, "Of the worker.")


def test_the_quality_is_the_verdicts():
    wanted = {
        "VALID": AttrQuality.ATTR_VALID,
        "WARNING": AttrQuality.ATTR_WARNING,
        "ALARM": AttrQuality.ATTR_ALARM,
        "FAILED": AttrQuality.ATTR_INVALID,
    }
    assert {v: quality_of(replace(VALID, verdict=v)) for v in wanted} == wanted
    assert quality_of(None) == AttrQuality.ATTR_INVALID
