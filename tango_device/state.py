"""What the device's State and Status say, as a pure function of what is known."""

from tango import AttrQuality, DevState

from nfphasing_bluesky.streaming.protocol import FrameResult, WorkerState
from tango_device.link import Health
from tango_device.taking import NO_SOURCE, Taking

_QUALITY = {
    "VALID": AttrQuality.ATTR_VALID,
    "WARNING": AttrQuality.ATTR_WARNING,
    "ALARM": AttrQuality.ATTR_ALARM,
}


def quality_of(frame: FrameResult | None) -> AttrQuality:
    """Return the quality of the scientific attributes: the verdict's, INVALID for no or a failed frame."""
    return _QUALITY.get("" if frame is None else frame.verdict, AttrQuality.ATTR_INVALID)


def assess(health: Health, frame: FrameResult | None, attached: bool) -> tuple[DevState, str]:
    """Return State and Status; the status says what to do next.

    Args:
        health: of the worker.
        frame: the last one, or None.
        attached: a worker was reachable at some time since the device started.
    """
    status = health.status
    if not health.reachable or status is None:
        return (DevState.FAULT if attached or status is not None else DevState.INIT), health.problem
    if health.problem:
        return DevState.ALARM, f"{health.problem} End the other one, or set the property worker to attach."
    name = "no model" if status.model is None else f"model {status.model.name}"
    if status.state is WorkerState.LOADING:
        return DevState.INIT, "The worker is loading a model. Wait, or watch the State."
    if status.state is WorkerState.FAULT:
        return DevState.FAULT, f"{status.reason}. Use LoadModel with another name, or Reset to try again."
    if status.reason:
        return DevState.ALARM, f"{status.reason}. Reset clears this once the cause is removed."
    if status.model is None:
        return DevState.STANDBY, "The worker has no model. Use LoadModel; `nfphasing models` lists names."
    if status.state is WorkerState.STANDBY:
        return DevState.STANDBY, f"Stopped, {name}: frames are counted as dropped. Use Start."
    if status.state is WorkerState.ON:
        return DevState.ON, f"Waiting for frames, {name}. Run a scan whose documents reach the worker."
    return _running(frame, status.raw_uid, name)


def with_source(state: DevState, status: str, source: Taking) -> tuple[DevState, str]:
    """Return State and Status where frames come from a source; a worker in trouble comes first.

    Args:
        state: without the source.
        status: without the source.
        source: what it does.
    """
    if source == NO_SOURCE or state not in (DevState.ON, DevState.RUNNING):
        return state, status
    if source.problem:
        return DevState.ALARM, f"The frame source is away: {source.problem}. It is tried again every second."
    if not source.open:
        return state, f"{status} Start begins a run of the frame source."
    if state == DevState.ON:
        return DevState.RUNNING, "A run of the frame source is open. Wait for its first frame, or Stop."
    return state, status


def without_attributes(state: DevState, status: str, why: str) -> tuple[DevState, str]:
    """Return State and Status while Tango refuses the model's attributes; a worker in trouble comes first.

    Args:
        state: with all attributes.
        status: with all attributes.
        why: they could not be made; empty when they could.
    """
    if not why or state in (DevState.FAULT, DevState.INIT):
        return state, status
    return DevState.ALARM, (
        f"The attributes of the model cannot be made: {why}. Is the Tango database up? Start it; the worker "
        "goes on, and this is tried again every second."
    )


def _running(frame: FrameResult | None, raw_uid: str, name: str) -> tuple[DevState, str]:
    if frame is not None and frame.raw_uid == raw_uid:
        if frame.verdict == "FAILED":
            return DevState.ALARM, (
                f"Frame {frame.seq_num} failed: {frame.reason}. The scan goes on. Remove the cause; "
                f"`nfphasing replay {raw_uid} --missing` makes up for it where the catalog has the raw run."
            )
        if frame.verdict == "ALARM":
            return DevState.ALARM, (
                f"Frame {frame.seq_num} must not be trusted: {frame.reason}. Look at the frame beside its "
                "prediction, and at its geometry and mask (`nfphasing doctor FRAME`)."
            )
        return DevState.RUNNING, (
            f"Reconstructing, {name}. Last: frame {frame.seq_num}, {frame.verdict}. Stop ends that."
        )
    return DevState.RUNNING, f"Reconstructing, {name}. Wait for the run's first frame."
