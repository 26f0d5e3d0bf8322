"""Files on disk to reconstructions on disk: what `nfphasing reconstruct` does."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from nfphasing_bluesky.core import (
    CurveGeometry,
    DetectorGeometry,
    Failure,
    Frame,
    FrameError,
    GrazingGeometry,
    ModelInfo,
    NFPhasingError,
    Origin,
    PlaneGeometry,
    Posterior,
    Summary,
)
from nfphasing_bluesky.documents.integration import mean_curve, subtract
from nfphasing_bluesky.documents.reduction import reduced
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities.saxs1d_particles import RELATIVE
from nfphasing_bluesky.storage.nexus import write_posterior
from nfphasing_bluesky.storage.readers import read_frames
from nfphasing_bluesky.storage.results import failure_as_json, posterior_as_json
from nfphasing_bluesky.views.cuts import figure_cuts, is_cuts
from nfphasing_bluesky.views.figures import figure_1d, save_figure
from nfphasing_bluesky.views.images import figure_2d, has_images
from nfphasing_bluesky.views.scans import is_scan, reconstruct_scan
from nfphasing_bluesky.views.surface import figure_surface, is_surface

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchJob:
    """What to read and where to write.

    Args:
        output: folder of the results.
        buffer: curve or frame to subtract from each; of several in the file their mean.
        reading: keyword arguments of `read_frames`.
        keep_frames: of scans that become one object, write the posterior of every frame too.
        bounds: what is known of the sample: parameter -> lowest and highest value.
    """

    output: Path
    buffer: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    keep_frames: bool = False
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def reconstruct_files(
    reconstructor: Reconstructor, files: Sequence[Path], job: BatchJob, console: Console
) -> list[dict[str, object]]:
    """Reconstruct every frame of every file; one that fails is reported and the others go on.

    Frames with a place in a larger object are stitched to that: one result a file.

    Returns:
        One object per frame or stitched object, as `posterior_as_json`, `object_as_json` and
        `failure_as_json` describe.

    Raises:
        NFPhasingError: the buffer cannot be read.
    """
    curves = reconstructor.info.takes_curves
    buffer = mean_curve(_read(job.buffer, job.reading, None, curves)) if job.buffer else None
    results: list[dict[str, object]] = []
    stems: set[str] = set()
    for path in files:
        of_this = partial(_results_of, reconstructor, path, job, buffer, _free_stem(path, stems), console)
        results += _or_error(of_this, reconstructor, path, console)
    return results


def _results_of(
    reconstructor: Reconstructor,
    path: Path,
    job: BatchJob,
    buffer: Frame | None,
    stem: str,
    console: Console,
) -> list[dict[str, object]]:
    """Results of one file: of its object, or of every frame that it has."""
    failures: list[Failure] = []
    frames = _read(path, job.reading, failures, reconstructor.info.takes_curves)
    if is_scan(frames):
        whole = job.output / f"{stem}_{reconstructor.info.name}"
        return [
            reconstruct_scan(
                reconstructor, frames, failures, path, whole, console, keep_frames=job.keep_frames
            )
        ]
    if not frames and not failures:
        raise FrameError(f"{path}: no frame in it, expected at least one; check what wrote it")
    if buffer is not None:
        frames = [subtract(frame, buffer) for frame in frames]
    results = [_failed(reconstructor, path, failure.reason, console) for failure in failures]
    for i, frame in enumerate(frames):
        name = stem if len(frames) == 1 else f"{stem}_{i + 1:04d}"
        frame = replace(frame.with_origin(seq_num=i + 1), bounds=job.bounds or frame.bounds)
        of_this = partial(_result_of, reconstructor, frame, path, job.output / name, console)
        results += _or_error(of_this, reconstructor, path, console)
    return results


def _result_of(
    reconstructor: Reconstructor, frame: Frame, path: Path, stem: Path, console: Console
) -> list[dict[str, object]]:
    (result,) = reconstructor([frame])
    if isinstance(result, Failure):
        return [_failed(reconstructor, path, result.reason, console)]
    return [_store(reconstructor, frame, result, path, stem, console)]


def _or_error(
    make: Callable[[], list[dict[str, object]]], reconstructor: Reconstructor, path: Path, console: Console
) -> list[dict[str, object]]:
    """Results, or one that names what was wrong, so that the others go on."""
    try:
        return make()
    except Exception as error:
        if not isinstance(error, NFPhasingError | OSError):
            # whatever a stranger's file does to a library
            log.exception("%s: not foreseen; please report it", path)
        return [_failed(reconstructor, path, f"{type(error).__name__}: {error}", console)]


def _failed(reconstructor: Reconstructor, path: Path, reason: str, console: Console) -> dict[str, object]:
    console.print(f"{path}: {reason}", highlight=False, soft_wrap=True)
    return failure_as_json(Failure(Origin(label=str(path)), reason), reconstructor.info, input_path=path)


def _free_stem(path: Path, taken: set[str]) -> str:
    """Name for a file's results; files of one name from two folders must not overwrite each other."""
    stem, number = path.stem, 1
    while stem in taken:
        number += 1
        stem = f"{path.stem}-{number}"
    taken.add(stem)
    return stem


def frames_of_files(
    files: Sequence[Path],
    reading: Mapping[str, Any],
    survey: Callable[[Sequence[Frame]], list[Frame]],
    curves: bool = True,
) -> list[Frame]:
    """Frames of files as a model takes them; those that can't be read are left out.

    Args:
        files: to read.
        reading: keyword arguments of `read_frames`.
        survey: gives the frames of each file what a model takes of the others, `Reconstructor.survey`.
        curves: average frames of a detector over rings, or cut them.

    Raises:
        NFPhasingError: a file that can't be read.
    """
    unreadable: list[Failure] = []
    scans = [_read(path, reading, unreadable, curves) for path in files]
    return [frame for frames in scans for frame in survey(frames)]


def _read(
    path: Path, reading: Mapping[str, Any], failures: list[Failure] | None, curves: bool
) -> list[Frame]:
    """Frames of a file; a detector's are reduced for a model of curves."""
    on_failure = None if failures is None else failures.append
    frames = read_frames(path, **reading, on_failure=on_failure)
    detectors = DetectorGeometry | GrazingGeometry
    return [reduced(f) if curves and isinstance(f.geometry, detectors) else f for f in frames]


def _figure_for(frame: Frame, result: Posterior) -> Callable[[Frame, Posterior, ModelInfo], Figure]:
    if is_cuts(frame):
        return figure_cuts
    if is_surface(frame):
        return figure_surface
    return figure_2d if has_images(frame, result.density) else figure_1d


def _of_the_scale(frame: Frame, result: Posterior, info: ModelInfo) -> str:
    """A line where a contrast is given for nothing, or is all that u in electrons lacks; else empty."""
    geometry = frame.geometry
    if not isinstance(geometry, CurveGeometry | PlaneGeometry):
        return ""
    if geometry.contrast_inv_cm2 is not None and result.density.units == info.density.units:
        return f"  {info.name} makes no use of the contrast: its u is {info.density.quantity}\n"
    if geometry.absolute and geometry.contrast_inv_cm2 is None and result.density.units == RELATIVE:
        return "  u is relative to the core; with contrast= it is in e/angstrom^3, as the scale is absolute\n"
    return ""


def _store(
    reconstructor: Reconstructor,
    frame: Frame,
    result: Posterior,
    path: Path,
    stem: Path,
    console: Console,
) -> dict[str, object]:
    """Write the file and the figure of one reconstruction, and say what came out."""
    stem = stem.with_name(f"{stem.name}_{reconstructor.info.name}")
    settings = reconstructor.settings
    written = write_posterior(stem.with_name(stem.name + ".h5"), result, frame, reconstructor.info, settings)
    picture = save_figure(
        _figure_for(frame, result)(frame, result, reconstructor.info), stem.with_name(stem.name + ".png")
    )
    there = [p for p in reconstructor.info.parameters if p.name in result.parameters]
    summaries = {p: Summary.of(result.parameters[p.name], p.unit) for p in there}
    # of a bare surface the first parameter, a thickness, does not exist
    main = next((p for p, s in summaries.items() if math.isfinite(s.median)), next(iter(summaries)))
    size = summaries[main]
    console.print(
        f"{path.name}: {main.label} {size.median:.4g} ± {size.std:.2g} {main.unit}, reduced chi-squared "
        f"{result.trust.reduced_chi2:.3g}, {result.trust.verdict} {result.trust.reason}\n"
        f"{_of_the_scale(frame, result, reconstructor.info)}  {written}\n  {picture}",
        highlight=False,
        soft_wrap=True,
    )
    return posterior_as_json(result, reconstructor.info, input_path=path, output=written, figure=picture)
