"""`nfphasing doctor`: what a beamline needs before a scan, one verdict a line, and what to do."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfphasing_bluesky.core import (
    DetectorGeometry,
    Failure,
    Frame,
    NFPhasingError,
    ReconstructionSettings,
    Verdict,
)
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.views.doctor_services import services
from nfphasing_bluesky.views.finding import BAD, DOUBTFUL, GOOD, UNKNOWN, Finding, careful

_TIMED = 16
_MOST_MASKED = 0.5


@dataclass(frozen=True)
class Patient:
    """What is looked at.

    Args:
        settings: of the worker: its model, device, catalog and ports.
        frame: test frame, or None.
        reading: arguments of `read_frames`: poni, mask, geometry.
        tango_host: of the database; None takes TANGO_HOST.
        secret: our certificate, to ask a worker that other machines reach.
        server: that worker's public key; None takes it from the settings.
    """

    settings: WorkerSettings
    frame: Path | None = None
    reading: dict[str, Any] | None = None
    tango_host: str | None = None
    secret: Path | None = None
    server: Path | None = None


def examine(patient: Patient) -> Iterator[Finding]:
    """Yield one finding after the other; nothing that is wrong stops the next."""
    yield gpu(patient.settings.device)
    frames, findings = measured(patient)
    yield from findings
    yield from _model(patient, frames)
    yield from services(patient.settings, patient.tango_host, patient.secret, patient.server)


def gpu(device: str) -> Finding:
    """Say where a model would compute."""
    import torch

    from nfphasing_bluesky.inference.device import pick_device

    try:
        chosen = pick_device(device)
    except NFPhasingError as error:
        return Finding("GPU", BAD, str(error), 'set device = "auto"')
    if chosen.type == "cuda":
        free, whole = torch.cuda.mem_get_info(chosen)
        found = f"{torch.cuda.get_device_name(chosen)}, {free / 2**30:.1f} of {whole / 2**30:.1f} GiB free"
        return Finding(
            "GPU", GOOD if free > 2 * 2**30 else DOUBTFUL, found, "" if free > 2**31 else "free some"
        )
    cores = len(os.sched_getaffinity(0))
    return Finding("GPU", DOUBTFUL, f"none; {cores} cores compute", "see frames a second below")


def measured(patient: Patient) -> tuple[list[Frame], list[Finding]]:
    """Read the test frame: geometry, mask, orientation."""
    from nfphasing_bluesky.storage.readers import read_frames

    if patient.frame is None:
        advice = "pass a measured frame: nfphasing doctor FRAME --poni FILE --mask FILE"
        return [], [Finding(what, UNKNOWN, "no test frame", advice) for what in ("geometry", "mask")]
    try:
        frames = read_frames(patient.frame, check=True, **(patient.reading or {}))
    except (NFPhasingError, OSError) as error:
        return [], [
            Finding("geometry", BAD, str(error), "correct the file or the options that the line names")
        ]
    if not frames:
        return [], [Finding("geometry", BAD, f"{patient.frame} holds no frame", "pass another file")]
    return frames, [geometry(frames[0]), mask(frames[0]), orientation(frames)]


def geometry(frame: Frame) -> Finding:
    """Say what the geometry means for this frame."""
    made = frame.geometry
    if hasattr(made, "q_inv_angstrom"):
        q = made.q_inv_angstrom
        return Finding("geometry", GOOD, f"{q.size} points, q {q[0]:.4g} to {q[-1]:.4g} 1/angstrom")
    if not isinstance(made, DetectorGeometry):
        return Finding("geometry", GOOD, f"{type(made).__name__}, frame {frame.intensity.shape}")
    centre = [p / size for p, size in zip(made.poni_m, made.pixel_size_m, strict=True)]
    inside = all(0 <= c <= n for c, n in zip(centre, frame.intensity.shape, strict=True))
    found = (
        f"{made.wavelength_m * 1e10:.4g} angstrom, {made.distance_m:.4g} m, normal incidence at row "
        f"{centre[0]:.1f}, column {centre[1]:.1f} of {frame.intensity.shape}"
    )
    advice = "" if inside else "outside the frame: check row and column order, and the pixel size"
    return Finding("geometry", GOOD if inside else DOUBTFUL, found, advice)


def mask(frame: Frame) -> Finding:
    """Say how much of the frame is used, and whether what is used looks like counts."""
    used = frame.usable
    share = 1 - float(used.mean())
    values = frame.intensity[used]
    if not values.size or not np.any(values > 0):
        return Finding("mask", BAD, f"{share:.0%} masked, and no light in the rest", "check the mask's sense")
    found = f"{share:.1%} masked, largest value {values.max():.6g}"
    if share > _MOST_MASKED:
        return Finding("mask", DOUBTFUL, found, "more than half: is the mask inverted? not zero means masked")
    bright = values.max() > 1e3 * max(float(np.percentile(values, 99.9)), 1.0)
    if frame.intensity.ndim == 2 and bright:
        return Finding("mask", DOUBTFUL, found, "a few pixels outshine the rest: mask hot ones and the beam")
    return Finding("mask", GOOD, found)


def orientation(frames: list[Frame]) -> Finding:
    """Say whether frames and positions of a scan go together; one frame alone can't tell."""
    if frames[0].place is None:
        return Finding("orientation", UNKNOWN, "one frame does not tell", "look at it beside the live view")
    doubt = frames[0].doubt
    if doubt:
        advice = "read the scan as it says there: --positions-sign, --positions-order, --orientation"
        return Finding("orientation", BAD, doubt, advice)
    return Finding("orientation", GOOD, "frames and positions go together")


def _model(patient: Patient, frames: list[Frame]) -> Iterator[Finding]:
    from nfphasing_bluesky.inference import Reconstructor

    name = patient.settings.model
    if name is None:
        yield Finding("model", UNKNOWN, "the settings name none", "nfphasing models lists the shipped ones")
        return
    try:
        settings: ReconstructionSettings = patient.settings.reconstruction
        made = Reconstructor.load(name, device=patient.settings.device, settings=settings)
    except NFPhasingError as error:
        yield Finding("model", BAD, str(error), "nfphasing models lists the shipped ones")
        return
    yield Finding("model", GOOD, f"{made.info.name} ({made.info.modality}), sha256 {made.info.sha256[:12]}")
    if not frames:
        yield Finding("model range", UNKNOWN, "no test frame", "pass a measured frame")
        return
    other = "try another model, or other options"
    yield careful("model range", lambda: _in_range(made, frames[0]), other)
    yield careful("frames a second", lambda: _speed(made, frames[0]), other)


def _in_range(made: Any, frame: Frame) -> Finding:
    (answer,) = made([frame])
    if isinstance(answer, Failure):
        return Finding("model range", BAD, answer.reason, "another model, or other options")
    trust = answer.trust
    verdict = {Verdict.VALID: GOOD, Verdict.WARNING: DOUBTFUL, Verdict.ALARM: BAD}[trust.verdict]
    found = f"{trust.verdict}: reduced chi2 {trust.reduced_chi2:.3g}, OOD {trust.ood_score:.2g}"
    advice = "take a frame that the model was made for, or another model" if verdict == BAD else ""
    return Finding("model range", verdict, "; ".join(filter(None, (found, trust.reason))), advice)


def _speed(made: Any, frame: Frame) -> Finding:
    frames = [frame.with_origin(seq_num=n + 1) for n in range(_TIMED)]
    made(frames)
    began = time.perf_counter()
    answers = made(frames)
    seconds = time.perf_counter() - began
    if any(isinstance(answer, Failure) for answer in answers):
        return Finding("frames a second", UNKNOWN, "the frame was not reconstructed")
    found = f"about {_TIMED / seconds:.3g} in batches of {_TIMED}, without storing"
    return Finding("frames a second", GOOD, found)


def worst(findings: list[Finding]) -> int:
    """Exit status: 1 when anything is bad."""
    return int(any(finding.verdict == BAD for finding in findings))


def with_model(settings: WorkerSettings, model: str | None, catalog: str | None) -> WorkerSettings:
    """Settings with a model and a catalog from the command line in place of their own."""
    changes = {k: v for k, v in (("model", model), ("catalog", catalog)) if v is not None}
    return WorkerSettings(**{**dict(settings), **changes})
