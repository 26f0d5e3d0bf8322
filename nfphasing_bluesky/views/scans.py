"""Scans of overlapping frames to one object on disk."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from nfphasing_bluesky.core import Failure, Frame, FrameError, Posterior, PtychographyGeometry, Stitcher
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.storage.nexus import write_posterior
from nfphasing_bluesky.storage.objects import FrameRecord, scan_trust, write_object
from nfphasing_bluesky.storage.results import object_as_json
from nfphasing_bluesky.views.figures import save_figure
from nfphasing_bluesky.views.objects import figure_object

_AT_ONCE = 16


def is_scan(frames: Sequence[Frame]) -> bool:
    """Return whether frames are patches of one object, to be stitched."""
    return any(frame.place is not None for frame in frames)


def reconstruct_scan(
    reconstructor: Reconstructor,
    frames: Sequence[Frame],
    failures: Sequence[Failure],
    path: Path,
    stem: Path,
    console: Console,
    *,
    keep_frames: bool = False,
) -> dict[str, object]:
    """Reconstruct the frames of a scan, stitch them, and write the object with its figure.

    A frame that fails is counted, and the others go on.

    Args:
        reconstructor: the model; frames get the neighbours that it looks at.
        frames: of one scan.
        failures: frames that could not even be read.
        path: of the input.
        stem: of the files to write, without suffix.
        console: is told how far it is.
        keep_frames: write the posterior of every frame too.

    Returns:
        The object that `object_as_json` describes.

    Raises:
        FrameError: no frame could be used.
    """
    began = time.perf_counter()
    info, stitcher = reconstructor.info, Stitcher(reconstructor.info.neighbours)
    records = [FrameRecord.of(failure) for failure in failures]
    complete = reconstructor.survey(frames)
    for first in range(0, len(complete), _AT_ONCE):
        batch = complete[first : first + _AT_ONCE]
        for frame, result in zip(batch, reconstructor(batch), strict=True):
            records.append(FrameRecord.of(result))
            if isinstance(result, Posterior):
                stitcher.add(result)
                if keep_frames:
                    _keep(reconstructor, frame, result, stem)
        console.print(f"{path.name}: {first + len(batch)} of {len(complete)} frames", highlight=False)
    records.sort(key=lambda record: record.seq_num)
    found = stitcher.result()
    if found is None:
        why = next((record.reason for record in records if record.reason), "there are none")
        raise FrameError(f"{path}: none of {len(records)} frames could be used; the first: {why}")
    latency_s = time.perf_counter() - began
    trust = scan_trust(found, records)
    target, settings = stem.with_name(stem.name + ".h5"), reconstructor.settings
    written = write_object(target, found, records, info, settings, latency_s, _probe(frames))
    figure = figure_object(found, f"{path.name}   ·   {info.name}", trust)
    picture = save_figure(figure, stem.with_name(stem.name + ".png"))
    console.print(
        f"{path.name}: {found.frames} of {len(records)} frames stitched to {found.mean.shape} pixels, "
        f"reduced chi-squared {trust.reduced_chi2:.3g}, {trust.verdict} {trust.reason}\n"
        f"  {written}\n  {picture}",
        highlight=False,
        soft_wrap=True,
    )
    return object_as_json(
        found, records, info, input_path=path, output=written, figure=picture, latency_s=latency_s
    )


def _probe(frames: Sequence[Frame]) -> NDArray[np.complexfloating] | None:
    return next((f.geometry.probe for f in frames if isinstance(f.geometry, PtychographyGeometry)), None)


def _keep(reconstructor: Reconstructor, frame: Frame, result: Posterior, stem: Path) -> None:
    name = f"{stem.name}_{frame.origin.seq_num:05d}.h5"
    write_posterior(stem.with_name(name), result, frame, reconstructor.info, reconstructor.settings)
