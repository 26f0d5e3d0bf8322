"""One reconstruction in one NeXus/HDF5 file that silx and NexPy open at the density."""

import os
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from nfphasing_bluesky.core import (
    Axis,
    CurveGeometry,
    DensityInfo,
    Frame,
    ModelInfo,
    Origin,
    Posterior,
    Prediction,
    ReconstructionSettings,
    StorageError,
    Trust,
    Verdict,
)
from nfphasing_bluesky.storage.read_nexus import opened

_TRUST_NUMBERS = ("reduced_chi2", "ess_fraction", "ood_score", "acceptance", "agreement")


def write_posterior(
    path: str | Path,
    posterior: Posterior,
    frame: Frame | None,
    info: ModelInfo,
    settings: ReconstructionSettings,
) -> Path:
    """Write a reconstruction, whole or not at all: a reader never sees half a file.

    `/entry/density` (NXdata, the default plot): `mean` with its errors `std`, `samples` and the axes;
    `/entry/parameters`: (S,) draws with their summaries as attributes; `/entry/classes`;
    `/entry/data`: the measured curve, also readable as canSAS SASdata; `/entry/prediction`: mean and 95 %
    band; `/entry/process`: program, model and settings; `/entry/trust`; `/entry/origin`.

    Args:
        path: of the file, replaced when it exists; its folder is created.
        posterior: what to write.
        frame: what was measured, or None to leave it out.
        info: the model.
        settings: how the model was run.

    Returns:
        The path written.

    Raises:
        StorageError: disk full, no permission and the like; an earlier file of that name is then untouched.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            _write_file(file, posterior, frame, info, settings)
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error}); check space and permissions, or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def read_posterior(path: str | Path) -> Posterior:
    """Read back what `write_posterior` wrote. The measured curve comes from `read_frames(path)`.

    Raises:
        StorageError: the file is damaged or holds something else.
    """
    path = Path(path)
    with opened(path) as file:
        parameters = file["entry/parameters"]
        prediction = file["entry/prediction"]
        density = file["entry/density"]
        return Posterior(
            density=_read_density(density),
            mean=density["mean"][()],
            std=density["std"][()],
            samples=density["samples"][()],
            parameters={name: item[()] for name, item in parameters.items()},
            units={name: str(item.attrs["units"]) for name, item in parameters.items()},
            prediction=Prediction(*(prediction[name][()] for name in ("mean", "lower", "upper"))),
            trust=_read_trust(file["entry/trust"]),
            classes={name: float(item[()]) for name, item in file["entry/classes"].items()},
            origin=_read_origin(file["entry/origin"]),
            latency_s=float(file["entry/process/latency"][()]),
        )


def _write_file(
    file: h5py.File,
    posterior: Posterior,
    frame: Frame | None,
    info: ModelInfo,
    settings: ReconstructionSettings,
) -> None:
    """Write every group."""
    file.attrs.update(NX_class="NXroot", default="entry", creator="nfphasing-bluesky")
    entry = _group(file, "entry", "NXentry")
    entry.attrs["default"] = "density"
    entry["title"] = f"{posterior.density.quantity} of {posterior.origin.label}"
    _write_density(entry, posterior)
    _write_parameters(entry, posterior)
    axes = _write_frame(entry, frame) if frame is not None else ()
    _write_prediction(entry, posterior, axes)
    _write_process(entry, posterior, info, settings)
    _write_trust(entry, posterior.trust)
    origin = _group(entry, "origin", "NXcollection")
    for name, value in vars(posterior.origin).items():
        origin[name] = value


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    """Create a group of a NeXus class."""
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _dataset(group: h5py.Group, name: str, values: object, units: str) -> h5py.Dataset:
    """Create a dataset with its units."""
    dataset = group.create_dataset(name, data=values)
    dataset.attrs["units"] = units
    return dataset


def _plot(group: h5py.Group, signal: str, axes: tuple[str, ...]) -> None:
    """Say which dataset is drawn over which axes."""
    group.attrs["signal"] = signal
    if axes:
        group.attrs["axes"] = np.array(axes, dtype=h5py.string_dtype())
    for dimension, axis in enumerate(axes):
        group.attrs[f"{axis}_indices"] = dimension


def _write_density(entry: h5py.Group, posterior: Posterior) -> None:
    """Write u with its axes, errors and draws."""
    info = posterior.density
    group = _group(entry, "density", "NXdata")
    _plot(group, "mean", tuple(axis.name for axis in info.axes))
    group["title"] = info.quantity
    for axis in info.axes:
        _dataset(group, axis.name, axis.values, axis.units).attrs["long_name"] = f"{axis.name} ({axis.units})"
    mean = _dataset(group, "mean", posterior.mean, info.units)
    mean.attrs["long_name"] = f"{info.quantity} ({info.units})"
    _dataset(group, "std", posterior.std, info.units)
    group["mean_errors"] = group["std"]  # a second name for the same data, the one that NeXus looks for
    _dataset(group, "samples", posterior.samples, info.units)


def _write_parameters(entry: h5py.Group, posterior: Posterior) -> None:
    """Write the draws of each parameter with their summary, and the class probabilities."""
    group = _group(entry, "parameters", "NXcollection")
    for name, summary in posterior.summary().items():
        dataset = _dataset(group, name, posterior.parameters[name], posterior.units[name])
        numbers = {key: value for key, value in vars(summary).items() if key != "unit"}
        dataset.attrs.update(numbers)
    classes = _group(entry, "classes", "NXcollection")
    for name, probability in posterior.classes.items():
        classes[name] = probability


def _write_frame(entry: h5py.Group, frame: Frame) -> tuple[str, ...]:
    """Write what was measured; return the names of its axes."""
    group = _group(entry, "data", "NXdata")
    geometry = frame.geometry
    if isinstance(geometry, CurveGeometry):
        axes: tuple[str, ...] = ("Q",)
        units = "1/cm" if geometry.absolute else "1"
        group.attrs.update(canSAS_class="SASdata", I_axes="Q", mask="mask")
        q = _dataset(group, "Q", geometry.q_inv_angstrom, "1/angstrom")
        if geometry.dq_inv_angstrom is not None:
            _dataset(group, "Qdev", geometry.dq_inv_angstrom, "1/angstrom")
            q.attrs["resolutions"] = "Qdev"
    else:
        axes, units = (), "counts"
        group.attrs["mask"] = "mask"
    _plot(group, "I", axes)
    intensity = _dataset(group, "I", frame.intensity, units)
    if frame.sigma is not None:
        _dataset(group, "I_errors", frame.sigma, units)
        intensity.attrs["uncertainties"] = "I_errors"
    unusable = np.zeros(frame.intensity.shape, np.bool_) if frame.mask is None else frame.mask
    group.create_dataset("mask", data=unusable.astype(np.uint8))
    return axes


def _write_prediction(entry: h5py.Group, posterior: Posterior, axes: tuple[str, ...]) -> None:
    """Write the posterior-predictive pattern on the frame's own grid."""
    group = _group(entry, "prediction", "NXdata")
    for axis in axes:
        group[axis] = entry["data"][axis]
    _plot(group, "mean", axes)
    units = str(entry["data/I"].attrs["units"]) if "data" in entry else "1"
    for name, values in vars(posterior.prediction).items():
        _dataset(group, name, values, units)


def _write_process(
    entry: h5py.Group, posterior: Posterior, info: ModelInfo, settings: ReconstructionSettings
) -> None:
    """Write what made this, so that it can be made again."""
    group = _group(entry, "process", "NXprocess")
    group["program"] = "nfphasing-bluesky"
    group["version"] = version("nfphasing-bluesky")
    group["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    for name in ("name", "modality", "version", "sha256"):
        group["model" if name == "name" else f"model_{name}"] = getattr(info, name)
    group["settings"] = settings.model_dump_json()
    group["settings_sha256"] = settings.digest()
    group["seed"] = settings.seed
    _dataset(group, "latency", posterior.latency_s, "s")


def _write_trust(entry: h5py.Group, trust: Trust) -> None:
    """Write the checks; numbers that could not be computed are left out."""
    group = _group(entry, "trust", "NXcollection")
    for name in _TRUST_NUMBERS:
        value = getattr(trust, name)
        if value is not None:
            _dataset(group, name, value, "1")
    group["verdict"] = str(trust.verdict)
    group["reason"] = trust.reason


def _read_density(group: h5py.Group) -> DensityInfo:
    """Read what u is."""
    axes = [str(name) for name in group.attrs["axes"]]
    return DensityInfo(
        quantity=group["title"].asstr()[()],
        units=str(group["mean"].attrs["units"]),
        axes=tuple(Axis(name, group[name][()], str(group[name].attrs["units"])) for name in axes),
    )


def _read_trust(group: h5py.Group) -> Trust:
    """Read the checks."""
    numbers = {name: float(group[name][()]) if name in group else None for name in _TRUST_NUMBERS}
    return Trust(
        **numbers,  # type: ignore[arg-type]
        verdict=Verdict(group["verdict"].asstr()[()]),
        reason=group["reason"].asstr()[()],
    )


def _read_origin(group: h5py.Group) -> Origin:
    """Read where the frame came from."""
    text = {name: group[name].asstr()[()] for name in ("label", "raw_uid", "stream", "data_key")}
    return Origin(**text, seq_num=int(group["seq_num"][()]), time=float(group["time"][()]))
