"""Curves from NXcanSAS, and stacks of detector frames from NeXus and plain HDF5."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters that detectors compress with
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import DetectorGeometry, Frame, FrameError, Origin, PlaneGeometry, StorageError
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.documents.units import per_cm
from nfphasing_bluesky.storage.curves import Columns, ReadOptions, on_scale
from nfphasing_bluesky.storage.units import length_m, required_q_scale

_USUAL_DATASETS = ("entry/data/data", "entry/instrument/detector/data", "exchange/data")
_USUAL_MASKS = (
    "entry/instrument/detector/pixel_mask",
    "entry/instrument/detector/detectorSpecific/pixel_mask",
)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file; whatever goes wrong in it becomes a StorageError that names the file."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except StorageError:
        raise
    except (OSError, KeyError, RuntimeError) as error:
        raise StorageError(
            f"{path}: HDF5 cannot be read ({error}); the file is cut short, still being written or damaged: "
            "copy it again or wait for its writer to close it"
        ) from error


def read_nxcansas(path: Path, options: ReadOptions) -> list[Columns]:
    """Read every one-dimensional SASdata of an NXcanSAS file; a file with none gives an empty list.

    Two-dimensional ones are for `read_sas_patterns`.

    A SASdata whose I has a leading axis of frames gives one curve for each.
    """
    with opened(path) as file:
        groups = [group for group in _sas_groups(file) if "Q" in group or "Qx" not in group]
        return [columns for group in groups for columns in _curves(group, path, options)]


def read_sas_patterns(path: Path, options: ReadOptions) -> list[Frame]:
    """Read every two-dimensional SASdata of an NXcanSAS file: I, Idev, Qx and Qy of every pixel, mask.

    Raises:
        FrameError: arrays whose shapes do not fit.
        GeometryError: Qx has no unit that is known.
    """
    with opened(path) as file:
        groups = [group for group in _sas_groups(file) if "Qx" in group and "Q" not in group]
        return [_pattern(group, path, options, number) for number, group in enumerate(groups)]


def _pattern(group: h5py.Group, path: Path, options: ReadOptions, number: int) -> Frame:
    signal, where = _text(group.attrs.get("signal")) or "I", f"{path}: {group.name}"
    if signal not in group or "Qy" not in group:
        raise StorageError(f"{where} has no {signal!r} or no 'Qy', expected NXcanSAS; export the file again")
    intensity = np.asarray(group[signal][()], dtype=np.float64)
    qx, qy = (np.asarray(group[name][()], dtype=np.float64) for name in ("Qx", "Qy"))
    scale = required_q_scale(options.q_unit or _unit(group["Qx"]), path, str(group.name))
    sigma = _companion(group, signal, ("uncertainties", "uncertainty"), "Idev", intensity.shape, where)
    if sigma is None and options.relative_sigma is not None:
        sigma = options.relative_sigma * np.abs(intensity)
    factor = per_cm(_unit(group[signal])) if options.intensity_unit is None else None
    frame = Frame(
        intensity * (factor or 1.0),
        PlaneGeometry(qx * scale, qy * scale, absolute=factor is not None),
        None if sigma is None else sigma * (factor or 1.0),
        _curve_mask(group, intensity.shape),
        Origin(label=path.name, seq_num=number + 1),
    )
    return on_scale(frame, options, path)


@dataclass(frozen=True)
class Stack:
    """Where detector frames are: frames in the order of files, each (N, H, W) or (H, W)."""

    datasets: tuple[str, ...]
    mask: NDArray[np.bool_] | None
    geometry: DetectorGeometry | None


def find_stack(path: Path, dataset: str | None) -> Stack:
    """Find the detector frames of an HDF5 file: at `dataset`, at a usual place, or the only stack there is.

    Raises:
        StorageError: there are none, or several and no telling which.
    """
    with opened(path) as file:
        return Stack(tuple(_frame_datasets(file, dataset, path)), _stored_mask(file), _stored_geometry(file))


def iter_stack(path: Path, stack: Stack) -> Iterator[NDArray]:
    """Yield the frames one by one, (H, W), in the detector's own dtype."""
    with opened(path) as file:
        for name in stack.datasets:
            data = file[name]
            if data.ndim == 2:
                yield data[()]
                continue
            for index in np.ndindex(*data.shape[:-2]):
                yield data[index]


def _sas_groups(file: h5py.File) -> list[h5py.Group]:
    """Return every SASdata group, whichever attribute says so."""
    groups: list[h5py.Group] = []

    def visit(_: str, item: object) -> None:
        if isinstance(item, h5py.Group):
            if "SASdata" in (_text(item.attrs.get("canSAS_class")), _text(item.attrs.get("NX_class"))):
                groups.append(item)

    file.visititems(visit)
    return groups


def _curves(group: h5py.Group, path: Path, options: ReadOptions) -> Iterator[Columns]:
    """Read the curve or curves of one SASdata."""
    signal = _text(group.attrs.get("signal")) or "I"
    where = f"{path}: {group.name}"
    if signal not in group or "Q" not in group:
        raise StorageError(
            f"{where} has no datasets {signal!r} and 'Q', expected NXcanSAS; export the file again"
        )
    q = np.asarray(group["Q"][()], dtype=np.float64).ravel()
    intensity = np.asarray(group[signal][()], dtype=np.float64)
    if group["Q"].ndim != 1 or intensity.ndim not in (1, 2) or intensity.shape[-1] != q.size:
        raise FrameError(
            f"{where} has I {intensity.shape} over Q {group['Q'].shape}, expected curves: Q (N,) and "
            "I (N,) or (frames, N); reduce 2-D data to a curve first"
        )
    unit = _unit(group["Q"])
    sigma = _companion(group, signal, ("uncertainties", "uncertainty"), "Idev", intensity.shape, where)
    dq = _companion(group, "Q", ("resolutions", "uncertainties"), "Qdev", q.shape, where)
    scale = required_q_scale(unit, path, group.name) if unit and options.q_unit is None else None
    mask = _curve_mask(group, intensity.shape)
    for number, row in enumerate(np.atleast_2d(intensity)):
        yield Columns(
            q=q,
            intensity=row,
            sigma=None if sigma is None else np.atleast_2d(sigma)[number],
            dq=dq,
            mask=None if mask is None else np.atleast_2d(mask)[number],
            q_scale=scale,
            per_cm=per_cm(_unit(group[signal])),
            number=number,
        )


def _companion(
    group: h5py.Group, name: str, attributes: tuple[str, ...], usual: str, shape: tuple[int, ...], where: str
) -> FloatArray | None:
    """Return the errors of a dataset: what its attributes, those of its group, or custom name."""
    candidates = [_text(group[name].attrs.get(attribute)) for attribute in attributes]
    candidates += [_text(group.attrs.get(f"{name}_{attribute}")) for attribute in attributes]
    for candidate in [*candidates, usual]:
        if candidate and candidate in group:
            values = np.asarray(group[candidate][()], dtype=np.float64)
            if values.shape != shape:
                raise StorageError(
                    f"{where}/{candidate} has shape {values.shape}, expected {shape}, that of {name}; "
                    "export the file again"
                )
            return values
    return None


def _curve_mask(group: h5py.Group, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return the mask that a SASdata names, True where masked."""
    name = _text(group.attrs.get("mask"))
    if not name or name not in group:
        return None
    return np.broadcast_to(np.asarray(group[name][()]) != 0, shape)


def _text(value: object) -> str:
    """Return an HDF5 attribute as text: str, bytes or an array of one; empty for none."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _unit(dataset: h5py.Dataset) -> str:
    """Return the unit of a dataset, by NeXus's name for it or the old one."""
    return _text(dataset.attrs.get("units")) or _text(dataset.attrs.get("unit"))


def _frame_datasets(file: h5py.File, dataset: str | None, path: Path) -> list[str]:
    """Name the datasets of frames, in the order of their names where a detector wrote several."""
    if dataset is not None:
        if not _is_stack(file.get(dataset)):
            raise StorageError(
                f"{path}: dataset {dataset!r} is missing or no stack of frames; "
                f"found {_listed(file)}; pass one of these"
            )
        return [dataset]
    for name in _USUAL_DATASETS:
        if _is_stack(file.get(name)):
            return [name]
    parts = [f"entry/data/{name}" for name in sorted(file.get("entry/data", {})) if name.startswith("data_")]
    if parts and all(_is_stack(file.get(name)) for name in parts):
        return parts
    found = _stacks(file)
    if len(found) != 1:
        raise StorageError(
            f"{path}: expected one dataset of detector frames (H, W) or (N, H, W), found {_listed(file)}; "
            + (
                "pass dataset= to say which"
                if found
                else "check what wrote it, or export a curve as NXcanSAS"
            )
        )
    return found


def _is_stack(item: object) -> bool:
    """Return whether an HDF5 item is numbers of two or more dimensions."""
    return isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "fiu" and item.size > 0


def _stacks(file: h5py.File) -> list[str]:
    """Name every dataset that could be frames."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if _is_stack(item) else None)
    return names


def _listed(file: h5py.File) -> str:
    """Describe the candidates for a message."""
    names = _stacks(file)
    shown = ", ".join(f"/{name} {file[name].shape}" for name in names[:6])
    return (shown + (" ..." if len(names) > 6 else "")) or "none"


def _stored_mask(file: h5py.File) -> NDArray[np.bool_] | None:
    """Return the detector's own pixel mask, True where masked (NeXus: any bit set)."""
    for name in _USUAL_MASKS:
        item = file.get(name)
        if isinstance(item, h5py.Dataset) and item.ndim >= 2:
            return np.asarray(item[()]).reshape(-1, *item.shape[-2:])[0] != 0
    return None


def _stored_geometry(file: h5py.File) -> DetectorGeometry | None:
    """Return the geometry from NXdetector and NXbeam when all of it is there with units."""
    detector = "entry/instrument/detector"
    wavelength = _length(file, "entry/instrument/beam/incident_wavelength")
    distance = _length(file, f"{detector}/distance") or _length(file, f"{detector}/detector_distance")
    pixel_y, pixel_x = (_length(file, f"{detector}/{axis}_pixel_size") for axis in "yx")
    centre = [file.get(f"{detector}/beam_center_{axis}") for axis in "yx"]
    if wavelength is None or distance is None or pixel_y is None or pixel_x is None or None in centre:
        return None
    beam_y, beam_x = (float(np.ravel(item[()])[0]) for item in centre)
    return DetectorGeometry(wavelength, distance, (pixel_y, pixel_x), (beam_y * pixel_y, beam_x * pixel_x))


def _length(file: h5py.File, name: str) -> float | None:
    """Return a scalar length in metres, or None when it or its unit is missing."""
    item = file.get(name)
    if not isinstance(item, h5py.Dataset) or item.size != 1:
        return None
    return length_m(float(np.ravel(item[()])[0]), _unit(item))
