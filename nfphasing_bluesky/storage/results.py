"""Results as JSON objects: what `nfphasing reconstruct --json` prints for each input."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nfphasing_bluesky.core import Failure, ModelInfo, Posterior, StitchedObject, Trust
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.storage.objects import FrameRecord, scan_trust

Json = dict[str, object]


def posterior_as_json(
    posterior: Posterior,
    info: ModelInfo,
    *,
    input_path: str | Path | None = None,
    output: str | Path | None = None,
    figure: str | Path | None = None,
) -> Json:
    """Return one posterior as an object of plain JSON; NaN and infinity become null.

    Where there may be several answers, `modes` has the weight and the medians of each, the heaviest first.

    Args:
        posterior: what to describe.
        info: the model that made it.
        input_path: what was read; by default the frame's label.
        output: NeXus file written, if any.
        figure: PNG written, if any.
    """
    return {
        **_head(posterior.origin.label if input_path is None else str(input_path), info),
        "output": None if output is None else str(output),
        "figure": None if figure is None else str(figure),
        "parameters": {
            name: {key: value if key == "unit" else _number(value) for key, value in vars(summary).items()}
            for name, summary in posterior.summary().items()
        },
        "classes": {name: _number(probability) for name, probability in posterior.classes.items()},
        "trust": _trust(posterior.trust),
        "latency_s": _number(posterior.latency_s),
        **_modes(posterior),
    }


def _modes(posterior: Posterior) -> Json:
    """Weight of every answer, the heaviest first, and the median of each parameter in it."""
    if posterior.symmetry is None:
        return {}
    return {
        "modes": [
            {
                "weight": _number(mode.weight),
                "draws": len(mode.members),
                "parameters": {
                    name: _number(float(np.nanmedian(draws[mode.members])))
                    for name, draws in posterior.parameters.items()
                },
            }
            for mode in posterior.modes()
        ]
    }


def object_as_json(
    found: StitchedObject,
    records: Sequence[FrameRecord],
    info: ModelInfo,
    *,
    input_path: str | Path,
    output: str | Path,
    figure: str | Path,
    latency_s: float,
) -> Json:
    """Return a stitched object as one object of plain JSON: what a frame has, and `object` about the scan.

    It has no parameters: these are the frames'. `latency_s` is the whole scan's.
    """
    rows, columns = found.axes
    verdicts = Counter(record.verdict for record in records)
    return {
        **_head(str(input_path), info),
        "output": str(output),
        "figure": str(figure),
        "parameters": {},
        "classes": {},
        "trust": _trust(scan_trust(found, records)),
        "latency_s": _number(latency_s),
        "object": {
            "shape": list(found.mean.shape),
            "pixel": _step(rows.values),
            "pixel_unit": columns.units,
            "frames": len(records),
            "stitched": found.frames,
            "left_out": found.left_out,
            "doubtful_share": _number(found.doubtful_share),
            "components": found.components,
            "verdicts": dict(verdicts),
        },
    }


def _step(places: FloatArray) -> float | None:
    """Distance of places, without the digits that their subtraction made up."""
    return float(f"{np.ptp(places) / (places.size - 1):.9g}") if places.size > 1 else None


def failure_as_json(failure: Failure, info: ModelInfo, *, input_path: str | Path | None = None) -> Json:
    """Return a frame that could not be reconstructed as an object with its `error`."""
    return {
        **_head(failure.origin.label if input_path is None else str(input_path), info),
        "error": failure.reason,
    }


def _trust(trust: Trust) -> Json:
    return {
        "reduced_chi2": _number(trust.reduced_chi2),
        "ess_fraction": _number(trust.ess_fraction),
        "ood_score": _number(trust.ood_score),
        "verdict": str(trust.verdict),
        "reason": trust.reason,
    }


def _head(name: str, info: ModelInfo) -> Json:
    """Return what every object begins with."""
    return {"input": name, "model": info.name, "modality": info.modality}


def _number(value: float | None) -> float | None:
    """Return a number that JSON has."""
    return None if value is None or not math.isfinite(value) else float(value)
