"""One reconstruction in one NeXus/HDF5 file that silx and NexPy open at the density."""

import json
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    Axis,
    CurveGeometry,
    DensityInfo,
    DetectorGeometry,
    Frame,
    GrazingCutsGeometry,
    GrazingGeometry,
    ModelInfo,
    Origin,
    PlaneGeometry,
    Posterior,
    Prediction,
    ReconstructionSettings,
    Symmetry,
    Trust,
    Verdict,
    plane_of,
)
from nfphasing_bluesky.storage.nexus_parts import new_dataset, new_group, say_plot, write_process, write_whole
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
    `/entry/modes`, where there may be several answers: (M,) `weight`, and `mean` and `std` of each, what was
    taken away before as attributes, and (S,) `answers`, which one the model made each draw from;
    `/entry/parameters`: (S,) draws with their summaries as attributes; `/entry/classes`;
    `/entry/data`: the measured curve or small-angle pattern, also readable as canSAS SASdata, or two cuts;
    `/entry/prediction`: mean and 95 % band; `/entry/process`: program, model and
    settings; `/entry/trust`; `/entry/origin`.

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
    return write_whole(path, lambda file: _write_file(file, posterior, frame, info, settings))


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
            place=_read_place(density),
            symmetry=_read_symmetry(file),
            answers=_read_answers(file),
            light=density["light"][()] if "light" in density else None,
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
    entry = new_group(file, "entry", "NXentry")
    entry.attrs["default"] = "density"
    entry["title"] = f"{posterior.density.quantity} of {posterior.origin.label}"
    _write_density(entry, posterior)
    if posterior.symmetry is not None:
        _write_modes(entry, posterior, posterior.symmetry)
    _write_parameters(entry, posterior)
    axes = _write_frame(entry, frame) if frame is not None else ()
    _write_prediction(entry, posterior, axes)
    write_process(entry, posterior.latency_s, info, settings)
    if frame is not None and frame.bounds:
        entry["process/bounds"] = json.dumps(dict(frame.bounds))
    _write_trust(entry, posterior.trust)
    origin = new_group(entry, "origin", "NXcollection")
    for name, value in vars(posterior.origin).items():
        origin[name] = value


def _write_density(entry: h5py.Group, posterior: Posterior) -> None:
    """Write u with its axes, errors and draws."""
    info = posterior.density
    group = new_group(entry, "density", "NXdata")
    say_plot(group, "mean", tuple(axis.name for axis in info.axes))
    group["title"] = info.quantity
    for axis in info.axes:
        new_dataset(group, axis.name, axis.values, axis.units).attrs["long_name"] = (
            f"{axis.name} ({axis.units})"
        )
    mean = new_dataset(group, "mean", posterior.mean, info.units)
    mean.attrs["long_name"] = f"{info.quantity} ({info.units})"
    new_dataset(group, "std", posterior.std, info.units)
    group["mean_errors"] = group["std"]  # a second name for the same data, the one that NeXus looks for
    new_dataset(group, "samples", posterior.samples, info.units)
    if posterior.place is not None:
        group.attrs["place"] = posterior.place
    if posterior.light is not None:
        new_dataset(group, "light", posterior.light, "1")


def _write_modes(entry: h5py.Group, posterior: Posterior, symmetry: Symmetry) -> None:
    """Write weight, mean and standard deviation of every answer, the heaviest first."""
    modes, info = posterior.modes(), posterior.density
    group = new_group(entry, "modes", "NXcollection")
    new_dataset(group, "weight", np.array([mode.weight for mode in modes]), "1")
    new_dataset(group, "mean", np.stack([mode.mean for mode in modes]), info.units)
    new_dataset(group, "std", np.stack([mode.std for mode in modes]), info.units)
    new_dataset(group, "answers", posterior.answers, "1")
    group.attrs.update(vars(symmetry))


def _write_parameters(entry: h5py.Group, posterior: Posterior) -> None:
    """Write the draws of each parameter with their summary, and the class probabilities."""
    group = new_group(entry, "parameters", "NXcollection")
    for name, summary in posterior.summary().items():
        dataset = new_dataset(group, name, posterior.parameters[name], posterior.units[name])
        numbers = {key: value for key, value in vars(summary).items() if key != "unit"}
        dataset.attrs.update(numbers)
    classes = new_group(entry, "classes", "NXcollection")
    for name, probability in posterior.classes.items():
        classes[name] = probability


def _write_frame(entry: h5py.Group, frame: Frame) -> tuple[str, ...]:
    """Write what was measured; return the names of its axes."""
    group = new_group(entry, "data", "NXdata")
    geometry = frame.geometry
    if isinstance(geometry, CurveGeometry):
        axes: tuple[str, ...] = ("Q",)
        units = "1/cm" if geometry.absolute else "1"
        group.attrs.update(canSAS_class="SASdata", I_axes="Q", mask="mask")
        q = new_dataset(group, "Q", geometry.q_inv_angstrom, "1/angstrom")
        if geometry.dq_inv_angstrom is not None:
            new_dataset(group, "Qdev", geometry.dq_inv_angstrom, "1/angstrom")
            q.attrs["resolutions"] = "Qdev"
    elif isinstance(geometry, GrazingCutsGeometry):
        axes, units = ("q",), "counts"
        _write_cuts(group, geometry)
    elif isinstance(geometry, PlaneGeometry | DetectorGeometry):
        axes, units = ("qy", "qx"), _write_q(group, frame)
    else:
        axes, units = (), "counts"
        group.attrs["mask"] = "mask"
        if isinstance(geometry, GrazingGeometry):
            _write_surface(group, geometry)
    say_plot(group, "I", axes)
    intensity = new_dataset(group, "I", frame.intensity, units)
    if frame.sigma is not None:
        new_dataset(group, "I_errors", frame.sigma, units)
        intensity.attrs["uncertainties"] = "I_errors"
    unusable = np.zeros(frame.intensity.shape, np.bool_) if frame.mask is None else frame.mask
    group.create_dataset("mask", data=unusable.astype(np.uint8))
    return axes


def _write_cuts(group: h5py.Group, geometry: GrazingCutsGeometry) -> None:
    """Write where the points of both cuts are: the first `in_plane` of them are the in-plane cut's."""
    new_dataset(group, "q", geometry.q_inv_angstrom, "1/angstrom")
    new_dataset(group, "exit", geometry.exit_rad, "rad")
    new_dataset(group, "exit_band", np.array(geometry.exit_band_rad), "rad")
    new_dataset(group, "q_y_band", np.array(geometry.q_y_band_inv_angstrom), "1/angstrom")
    new_dataset(group, "incidence", geometry.incidence_rad, "rad")
    new_dataset(group, "wavelength", geometry.wavelength_m, "m")
    group.attrs.update(in_plane=geometry.in_plane, mask="mask")


def _write_surface(group: h5py.Group, geometry: GrazingGeometry) -> None:
    """Write the numbers that say where the pixels look."""
    new_dataset(group, "wavelength", geometry.wavelength_m, "m")
    new_dataset(group, "distance", geometry.distance_m, "m")
    new_dataset(group, "pixel_size", np.array(geometry.pixel_size_m), "m")
    new_dataset(group, "beam_center", np.array(geometry.beam_px), "pixel")
    new_dataset(group, "incidence", geometry.incidence_rad, "rad")
    new_dataset(group, "normal", geometry.normal_rad, "rad")
    group.attrs["rows_up"] = geometry.rows_up


def _write_q(group: h5py.Group, frame: Frame) -> str:
    """Write q of every pixel as NXcanSAS has it, and along the middle row and column; return units of I."""
    geometry = frame.geometry
    if isinstance(geometry, DetectorGeometry):
        height, width = frame.intensity.shape
        geometry = plane_of(geometry, (height, width))
    assert isinstance(geometry, PlaneGeometry)  # noqa: S101 - the caller has checked it
    group.attrs.update(canSAS_class="SASdata", I_axes="Qx,Qy", Q_indices=[0, 1], mask="mask")
    qx, qy = geometry.maps()
    middle = tuple(n // 2 for n in frame.intensity.shape)
    for name, values in {"Qx": qx, "Qy": qy, "qx": qx[middle[0]], "qy": qy[:, middle[1]]}.items():
        new_dataset(group, name, values, "1/angstrom")
    return "1/cm" if geometry.absolute else "counts" if frame.sigma is None else "1"


def _write_prediction(entry: h5py.Group, posterior: Posterior, axes: tuple[str, ...]) -> None:
    """Write the posterior-predictive pattern on the frame's own grid."""
    group = new_group(entry, "prediction", "NXdata")
    for axis in axes:
        group[axis] = entry["data"][axis]
    say_plot(group, "mean", axes)
    units = str(entry["data/I"].attrs["units"]) if "data" in entry else "1"
    for name, values in vars(posterior.prediction).items():
        new_dataset(group, name, values, units)


def _write_trust(entry: h5py.Group, trust: Trust) -> None:
    """Write the checks; numbers that could not be computed are left out."""
    group = new_group(entry, "trust", "NXcollection")
    for name in _TRUST_NUMBERS:
        value = getattr(trust, name)
        if value is not None:
            new_dataset(group, name, value, "1")
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


def _read_place(group: h5py.Group) -> tuple[float, float] | None:
    """Read where the patch lies in its scan."""
    if "place" not in group.attrs:
        return None
    row, column = group.attrs["place"]
    return float(row), float(column)


def _read_answers(file: h5py.File) -> NDArray[np.integer]:
    known = "entry/modes/answers" in file
    return file["entry/modes/answers"][()] if known else np.empty(0, dtype=np.int64)


def _read_symmetry(file: h5py.File) -> Symmetry | None:
    """Read what was taken away before draws were told apart as modes."""
    if "entry/modes" not in file:
        return None
    attrs = file["entry/modes"].attrs
    if "shift" not in attrs:
        return None
    shift = cast(Any, str(attrs["shift"]))
    return Symmetry(bool(attrs["phase"]), shift, bool(attrs["twin"]), int(attrs["references"]))


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
