"""What a worker says about itself and about each frame: nouns, and their plain form on the wire."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from nfphasing_bluesky.core import (
    Axis,
    DensityInfo,
    Failure,
    ModelInfo,
    Parameter,
    Posterior,
    Prediction,
    StitchedObject,
    TransportError,
)

Message = dict[str, Any]

UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What taking a message apart raises when it is well formed and another than expected."""

TOPIC_DOCUMENT, TOPIC_FRAME, TOPIC_STATUS = b"document", b"frame", b"status"
TOPIC_OBJECT, TOPIC_PATTERN = b"object", b"pattern"
TOPIC_TALLY, TOPIC_SYNC = b"tally", b"sync"

SYNC = "nfphasing_sync"
"""Name of the document that asks for a word once everything before it is finished."""


class WorkerState(StrEnum):
    """What the worker does: loads a model, waits for a start, waits for frames, works, or cannot."""

    LOADING = "LOADING"
    STANDBY = "STANDBY"
    ON = "ON"
    RUNNING = "RUNNING"
    FAULT = "FAULT"


class Verb(StrEnum):
    """What the control socket understands."""

    HEALTH = "health"
    START = "start"
    STOP = "stop"
    LOAD_MODEL = "load_model"
    RESET = "reset"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True)
class Counts:
    """Frames: `received = reconstructed + dropped + failed` once nothing is pending."""

    received: int = 0
    reconstructed: int = 0
    dropped: int = 0
    failed: int = 0

    @property
    def pending(self) -> int:
        """Frames on their way."""
        return self.received - self.reconstructed - self.dropped - self.failed


@dataclass(frozen=True)
class WorkerStatus:
    """One heartbeat.

    Args:
        state: what the worker does.
        reason: why it is in FAULT, or what last went wrong; empty when all is well.
        model: the loaded model, None without one.
        counts: frames since the start of the process or the last reset.
        raw_uid: the run whose frame came last.
        latency_s: of the last frame, arrival to result.
        statistics: frames_lost, messages_refused, peers_refused (since the start of the process);
            waiting_frames, waiting_documents, open_runs, uptime_s; latency_p50_s, latency_p99_s (of the last
            thousand frames, absent before the first).
        pid: of the worker process.
        machine: where that number is one, see `child.pid_space`; empty where it is not known.
        loaded: name or folder that the model was loaded by; empty without one.
        time: when this was said, s since the epoch.
    """

    state: WorkerState
    reason: str = ""
    model: ModelInfo | None = None
    counts: Counts = field(default_factory=Counts)
    raw_uid: str = ""
    latency_s: float = 0.0
    statistics: Mapping[str, float] = field(default_factory=dict)
    pid: int = 0
    machine: str = ""
    loaded: str = ""
    time: float = field(default_factory=time.time)

    def to_message(self) -> Message:
        """Return the plain form."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Message) -> "WorkerStatus":
        """Read the plain form.

        Raises:
            TransportError: when it is not one.
        """
        try:
            values = dict(message)
            values["state"] = WorkerState(values["state"])
            values["counts"] = Counts(**values["counts"])
            values["model"] = None if values["model"] is None else _model_info(values["model"])
            return cls(**values)
        except UNREADABLE as error:
            raise TransportError(f"not a worker's status: {error}; versions differ") from error


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What became of one frame, for displays.

    Args:
        raw_uid, seq_num: the raw frame.
        frame_id: running number over all frames of the worker, from 1.
        verdict: VALID, WARNING, ALARM, or FAILED for a frame that was not reconstructed.
        reason: of the verdict or the failure.
        parameters: name -> (median, standard deviation).
        intervals: name -> ends of the central 95 %, of the draws in which it exists.
        shares: name -> share of the draws in which it exists, of those that some draw lacks.
        axes: of the density, slowest first.
        mean, std: of the density, its shape; None for a failed frame.
        band: (3, Q) of a curve, mean and ends of the central 95 % of what the posterior predicts; else None.
    """

    raw_uid: str
    seq_num: int
    frame_id: int
    verdict: str
    reason: str = ""
    reduced_chi2: float = float("nan")
    ess_fraction: float = float("nan")
    ood_score: float = float("nan")
    latency_s: float = 0.0
    parameters: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, float] = field(default_factory=dict)
    quantity: str = ""
    units: str = ""
    axes: tuple[Axis, ...] = ()
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    band: np.ndarray | None = None

    @classmethod
    def of(cls, outcome: Posterior | Failure, frame_id: int, latency_s: float) -> "FrameResult":
        """Condense a reconstructor's answer."""
        where = (outcome.origin.raw_uid, outcome.origin.seq_num, frame_id)
        if isinstance(outcome, Failure):
            return cls(*where, verdict="FAILED", reason=outcome.reason, latency_s=latency_s)
        trust, summary = outcome.trust, outcome.summary()
        return cls(
            *where,
            verdict=str(trust.verdict),
            reason=trust.reason,
            reduced_chi2=float(trust.reduced_chi2),
            ess_fraction=float("nan") if trust.ess_fraction is None else float(trust.ess_fraction),
            ood_score=float(trust.ood_score),
            latency_s=latency_s,
            parameters={name: (s.median, s.std) for name, s in summary.items()},
            intervals={name: (s.q025, s.q975) for name, s in summary.items()},
            shares=_shares(outcome),
            classes=dict(outcome.classes),
            quantity=outcome.density.quantity,
            units=outcome.density.units,
            axes=outcome.density.axes,
            mean=np.asarray(outcome.mean),
            std=np.asarray(outcome.std),
            band=_band(outcome.prediction),
        )

    def to_message(self) -> Message:
        """Return the plain form; arrays stay arrays."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["axes"] = [asdict(axis) for axis in self.axes]
        return plain

    @classmethod
    def from_message(cls, message: Message) -> "FrameResult":
        """Read the plain form.

        Raises:
            TransportError: when it is not one.
        """
        try:
            values = dict(message)
            values["axes"] = tuple(Axis(**axis) for axis in values["axes"])
            for pairs in ("parameters", "intervals"):
                values[pairs] = {k: (float(a), float(b)) for k, (a, b) in values[pairs].items()}
            values["shares"] = {name: float(share) for name, share in values.get("shares", {}).items()}
            return cls(**values)
        except UNREADABLE as error:
            raise TransportError(f"not a frame's result: {error}; versions differ") from error


def _shares(outcome: Posterior) -> dict[str, float]:
    """Share of the draws in which parameters exist, of those that some draw lacks."""
    found = {name: float(np.isfinite(draws).mean()) for name, draws in outcome.parameters.items()}
    return {name: share for name, share in found.items() if share < 1}


def _band(prediction: Prediction) -> np.ndarray | None:
    parts = [np.asarray(part, np.float32) for part in (prediction.mean, prediction.lower, prediction.upper)]
    return np.stack(parts) if parts[0].ndim == 1 else None


@dataclass(frozen=True, eq=False)
class ObjectResult:
    """The stitched object of a run so far, for displays.

    Args:
        raw_uid: the raw run.
        phase: (Y, X) rad, NaN where nothing was seen.
        std: (Y, X) standard deviation of the transmission over its modulus.
        axes: of rows and columns.
        frames: how many frames are in it.
        components: how many parts of it have no overlap.
        doubtful: most of it rests on frames that are not to be trusted.
    """

    raw_uid: str
    phase: np.ndarray
    std: np.ndarray
    axes: tuple[Axis, ...]
    frames: int
    components: int
    doubtful: bool = False

    @classmethod
    def of(cls, raw_uid: str, found: StitchedObject) -> "ObjectResult":
        """Condense a stitched object."""
        phase, _ = found.parts
        single = (phase.astype(np.float32), found.std.astype(np.float32))
        return cls(raw_uid, *single, found.axes, found.frames, found.components, found.doubtful)

    def to_message(self) -> Message:
        """Return the plain form; arrays stay arrays."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["axes"] = [asdict(axis) for axis in self.axes]
        return plain

    @classmethod
    def from_message(cls, message: Message) -> "ObjectResult":
        """Read the plain form.

        Raises:
            TransportError: when it is not one.
        """
        try:
            axes = tuple(Axis(**axis) for axis in message["axes"])
            return cls(**{**message, "axes": axes})
        except UNREADABLE as error:
            raise TransportError(f"not a stitched object: {error}; versions differ") from error


def _model_info(plain: Message) -> ModelInfo:
    density = dict(plain["density"])
    density["axes"] = tuple(Axis(**axis) for axis in density["axes"])
    values = {
        **plain,
        "density": DensityInfo(**density),
        "parameters": tuple(Parameter(**parameter) for parameter in plain["parameters"]),
        "classes": tuple(plain["classes"]),
    }
    return ModelInfo(**values)
