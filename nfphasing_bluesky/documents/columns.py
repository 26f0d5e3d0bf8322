"""The stream `density`: its data keys, and the rows that a Posterior or a Failure becomes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nfphasing_bluesky.core import DensityInfo, Failure, ModelInfo, Posterior, Verdict
from nfphasing_bluesky.documents.sinks import ArraySpec

DEVICE = "nfphasing"
NOT_STORED = "reconstructed, but not stored"
"""How the reason of a frame begins that a full disk took: it is worth another try."""
_TEXT = ("verdict", "reason")
_WHOLE = ("raw_seq_num",)
_TRUST = (("reduced_chi2", ""), ("ess_fraction", ""), ("ood_score", ""))
_TIMES = (("latency_s", "s"), ("raw_time", "s"))


def array_specs(density: DensityInfo, n_samples: int = 0, answers: int = 0) -> tuple[ArraySpec, ...]:
    """Declare the arrays of the stream: mean, standard deviation, `n_samples` draws, `answers` modes.

    Modes are the heaviest, the first of them first, NaN and of no weight where there are fewer.

    Curves are kept in double, images in single precision, which is far below their error bars.
    """
    dims = tuple(axis.name for axis in density.axes)
    dtype = "<f8" if len(dims) == 1 else "<f4"
    arrays = [
        ArraySpec(name, density.shape, dims, dtype, density.units) for name in ("density_mean", "density_std")
    ]
    if n_samples:
        shape = (n_samples, *density.shape)
        arrays.append(ArraySpec("density_samples", shape, ("draw", *dims), "<f4", density.units))
    if answers:
        shape = (answers, *density.shape)
        arrays.append(ArraySpec("mode_mean", shape, ("mode", *dims), dtype, density.units))
        arrays.append(ArraySpec("mode_std", shape, ("mode", *dims), dtype, density.units))
        arrays.append(ArraySpec("mode_weight", (answers,), ("mode",), "<f8", ""))
    return tuple(arrays)


def array_keys(arrays: Sequence[ArraySpec], source: str) -> dict[str, dict[str, Any]]:
    """Return data keys of external arrays, which StreamDatum documents deliver."""
    return {
        spec.name: {
            "source": source,
            "dtype": "array",
            "dtype_numpy": spec.dtype,
            "shape": list(spec.shape),
            "dims": list(spec.dims),
            "units": spec.units,
            "external": "STREAM:",
            "object_name": DEVICE,
        }
        for spec in arrays
    }


def scalar_units(info: ModelInfo) -> dict[str, str]:
    """Return every number of one row and its unit: parameters, class probabilities, trust, times."""
    units: dict[str, str] = {}
    for parameter in info.parameters:
        units[parameter.name] = units[f"{parameter.name}_std"] = parameter.unit
    units.update({f"probability_{name}": "" for name in info.classes})
    units.update(_TRUST)
    units.update(_TIMES)
    return units


def scalar_keys(info: ModelInfo, source: str) -> dict[str, dict[str, Any]]:
    """Return data keys of what events carry inline."""
    common = {"source": source, "shape": [], "object_name": DEVICE}
    keys: dict[str, dict[str, Any]] = {
        name: {**common, "dtype": "number", "dtype_numpy": "<f8", "units": unit}
        for name, unit in scalar_units(info).items()
    }
    keys.update({name: {**common, "dtype": "integer", "dtype_numpy": "<i8"} for name in _WHOLE})
    keys.update({name: {**common, "dtype": "string"} for name in _TEXT})
    return keys


def row(result: Posterior | Failure, info: ModelInfo) -> dict[str, Any]:
    """Return one event's data. A parameter's value is the median of its draws; a Failure is NaN and ALARM.

    Both it and its error are NaN where it has one draw or none.
    """
    values: dict[str, Any] = dict.fromkeys(scalar_units(info), float("nan"))
    values["raw_seq_num"] = int(result.origin.seq_num)
    values["raw_time"] = float(result.origin.time)
    if isinstance(result, Failure):
        values["verdict"], values["reason"] = str(Verdict.ALARM), result.reason
        return values
    for name, summary in result.summary().items():
        if name in values:
            values[name], values[f"{name}_std"] = summary.median, summary.std
    values.update({f"probability_{name}": float(result.classes.get(name, 0.0)) for name in info.classes})
    trust = result.trust
    values["reduced_chi2"] = float(trust.reduced_chi2)
    values["ess_fraction"] = float("nan") if trust.ess_fraction is None else float(trust.ess_fraction)
    values["ood_score"] = float(trust.ood_score)
    values["latency_s"] = float(result.latency_s)
    values["verdict"], values["reason"] = str(trust.verdict), trust.reason
    return values


def stacked(results: Sequence[Posterior | Failure], arrays: Sequence[ArraySpec]) -> dict[str, np.ndarray]:
    """Return rows of every array, (B, *shape); NaN for a Failure."""
    block = {spec.name: np.empty((len(results), *spec.shape), dtype=spec.dtype) for spec in arrays}
    for index, result in enumerate(results):
        if not isinstance(result, Posterior):
            for rows in block.values():
                rows[index] = np.nan
            continue
        modes = result.modes() if "mode_weight" in block else ()
        for name, rows in block.items():
            if name.startswith("mode_"):
                rows[index] = 0 if name == "mode_weight" else np.nan
                for number, mode in enumerate(modes[: rows.shape[1]]):
                    rows[index, number] = getattr(mode, name.removeprefix("mode_"))
            else:
                rows[index] = getattr(result, name.removeprefix("density_"))
    return block


def misfit(result: Posterior, density: DensityInfo, n_samples: int) -> str:
    """Say why a posterior does not fit the stream's columns; empty when it does."""
    mine = result.density
    if mine.shape != density.shape or result.mean.shape != density.shape:
        return f"density has shape {result.mean.shape}, expected {density.shape} as in the frames before it"
    if mine.units != density.units:
        return (
            f"density is in {mine.units}, the frames before it are in {density.units}; keep one scale per run"
        )
    for axis, expected in zip(mine.axes, density.axes, strict=True):
        if axis.values is not expected.values and not np.array_equal(axis.values, expected.values):
            return f"axis {axis.name!r} of the density differs from that of the frames before it"
    if n_samples and result.samples.shape[0] != n_samples:
        return f"{result.samples.shape[0]} draws, expected {n_samples} as in the frames before it"
    return ""
