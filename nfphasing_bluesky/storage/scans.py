"""Scans of images on disk: named arrays in .npz, .h5 or .cxi, and the holograms they hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import h5py
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame, FrameError, HologramGeometry, Origin, StorageError
from nfphasing_bluesky.documents.bad_pixels import BadPixels
from nfphasing_bluesky.documents.holograms import NAMES as NUMBERS
from nfphasing_bluesky.documents.holograms import TELLING, hologram_frame, hologram_geometry
from nfphasing_bluesky.documents.patterns import CENTRE_NAMES, Q_NAMES
from nfphasing_bluesky.documents.patterns import NAMES as PATTERN_NAMES
from nfphasing_bluesky.documents.ptychography import NAMES as PTYCHOGRAPHY_NUMBERS
from nfphasing_bluesky.storage.read_cxi import is_cxi, read_cxi

RESULT_PROBE = "entry/probe"
"""Where the file of a stitched object has the probe that it was found with."""

PTYCHOGRAPHIC = ("probe", "positions_px", "positions_m", "translation_m")
"""Arrays that only a ptychographic scan has."""

NAMES = tuple(
    dict.fromkeys(
        (
            *("data", "mask", "mask_good", "flat", "dark"),
            *NUMBERS,
            *PTYCHOGRAPHIC,
            "positions_sign",
            *PTYCHOGRAPHY_NUMBERS,
            *PATTERN_NAMES,
        )
    )
)
"""What a scan may hold; other names are renamed to these on reading, or left alone."""


@dataclass(frozen=True)
class Scan:
    """Named arrays of a file."""

    path: Path
    values: Mapping[str, NDArray]

    def number(self, name: str) -> float | None:
        """One number, or None when the file has no such name. Raises StorageError for an array."""
        if name not in self.values:
            return None
        value = np.asarray(self.values[name])
        if value.size != 1 or value.dtype.kind not in "fiu":
            raise StorageError(f"{self.path}: {name} is {value.dtype} {value.shape}, expected one number")
        return float(value.reshape(()))

    @property
    def is_ptychography(self) -> bool:
        """Whether a probe or positions are in it."""
        return any(name in self.values for name in PTYCHOGRAPHIC)


def read_scan(path: str | Path, renamed: Mapping[str, str] | None = None) -> Scan:
    """Read the arrays of a .npz file, those of the root of an HDF5 file, or the first entry of a CXI file.

    Of the file of a stitched object the probe is read.

    Args:
        path: the file.
        renamed: name in the file, or path of a dataset in HDF5 -> name of `NAMES`.

    Raises:
        StorageError: damaged, of another kind, or without a name that should be renamed.
    """
    path, renamed = Path(path), dict(renamed or {})
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                values = _read_hdf5(file, renamed)
        else:
            # numpy leaves a file open that it opened and could not read
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                values = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, RuntimeError, BadZipFile) as error:
        raise StorageError(
            f"{path}: neither .npz nor HDF5 of plain arrays ({error}); the file is cut short, or of another "
            "kind: write it again"
        ) from error
    for theirs, ours in renamed.items():
        if theirs not in values:
            raise StorageError(
                f"{path}: no {theirs!r} to be read as {ours!r}; the file has {', '.join(sorted(values))}"
            )
        if ours not in NAMES:
            raise StorageError(
                f"{path}: {theirs!r} can't be read as {ours!r}, expected one of {', '.join(NAMES)}"
            )
        values[ours] = values.pop(theirs)
    return Scan(path, values)


def holds_scan(path: Path) -> bool:
    """Return whether an HDF5 file has images and what they are of under the names that `read_scan` knows."""
    with h5py.File(path) as file:
        if is_cxi(file):
            return any(name in read_cxi(file, ("translation_m", "probe")) for name in PTYCHOGRAPHIC)
        telling = (*PTYCHOGRAPHIC, *TELLING, *Q_NAMES, *CENTRE_NAMES, "wavelength_m")
        return "data" in file and any(isinstance(file.get(name), h5py.Dataset) for name in telling)


def _read_hdf5(file: h5py.File, renamed: Mapping[str, str]) -> dict[str, NDArray]:
    values = {k: v[()] for k, v in file.items() if isinstance(v, h5py.Dataset)}
    if is_cxi(file):
        values |= read_cxi(file)
    elif isinstance(file.get(RESULT_PROBE), h5py.Dataset):
        values["probe"] = file[RESULT_PROBE][()]
    for theirs in renamed:
        item = file.get(theirs) if theirs not in values else None
        if isinstance(item, h5py.Dataset):
            values[theirs] = item[()]
    return values


def image_stack(scan: Scan) -> NDArray:
    """(N, H, W) of a scan's `data`. Raises FrameError where it has none, or something else."""
    if "data" not in scan.values:
        raise FrameError(
            f"{scan.path}: no 'data', expected counts (H, W) or (N, H, W); the file has "
            f"{', '.join(sorted(scan.values))}; rename with --map theirs=data"
        )
    data = np.asarray(scan.values["data"])
    if data.ndim not in (2, 3):
        raise FrameError(f"{scan.path}: data has shape {data.shape}, expected (H, W) or (N, H, W)")
    if data.dtype.kind not in "fiu":
        raise FrameError(f"{scan.path}: data has dtype {data.dtype}, expected counts, whole or real numbers")
    if not data.size:
        raise FrameError(f"{scan.path}: data has shape {data.shape}: no frame, expected at least one")
    return data[None] if data.ndim == 2 else data


def mask_of(
    scan: Scan, shape: tuple[int, ...], further: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_] | None:
    """(H, W) True = not used, of everything that says so; what is bad in one frame is left out in all.

    `mask` is not zero where a pixel must not be used, `mask_good` where it may; both are (H, W), or (N, H, W)
    of each frame. `further` is the caller's own.

    Raises:
        FrameError: a mask of another shape, or nothing left.
    """
    parts = {"--mask": further}
    for name, bad in (("mask", True), ("mask_good", False)):
        if name in scan.values:
            part = (np.asarray(scan.values[name]) != 0) == bad
            parts[name] = part.any(0) if part.ndim == 3 else part
    masks = {name: part for name, part in parts.items() if part is not None}
    for name, part in masks.items():
        if part.shape != shape:
            raise FrameError(f"{scan.path}: {name} {part.shape} does not match the frames {shape}")
    if not masks:
        return None
    mask: NDArray[np.bool_] = np.logical_or.reduce(list(masks.values()))
    if mask.all():
        raise FrameError(
            f"{scan.path}: every pixel is masked by {', '.join(masks)}; check what 1 means there"
        )
    return mask


def hologram_frames(scan: Scan, mask: NDArray[np.bool_] | None = None) -> Iterator[Frame]:
    """Yield the holograms of a scan, 1 where nothing is in the beam.

    `data` (H, W) or (N, H, W) are counts less those of `dark`, divided by `flat`, the counts of an empty
    image less dark ones, or by `photons`, their mean; or normalised intensities where there is neither. Of
    several flat or dark images (N, H, W) the mean is taken. `sigma` is of one frame's shape or of all, in the
    units of the data; without it counts have the noise of photons. The geometry is
    `fresnel_number`, or `wavelength_m`, `distance_m` (sample to detector), `pixel_size_m` (of the detector)
    and, for a cone beam, `focus_to_sample_m`. Pixels are not used where `mask_of` says so, from `saturation`
    counts on, and where `BadPixels` finds them.

    Raises:
        FrameError: no data, or a mask or flat of another shape.
        GeometryError: too little is known.
    """
    stack = image_stack(scan)
    shape = stack.shape[1:]
    geometry = _geometry(scan)
    flat, dark = _image(scan, "flat", shape), _image(scan, "dark", shape)
    mask, sigmas = mask_of(scan, shape, mask), sigmas_of(scan, stack.shape)
    pixels = BadPixels(str(scan.path), scan.number("saturation"))
    for i, image in enumerate(stack):
        label = scan.path.name if len(stack) == 1 else f"{scan.path.name} {i + 1}"
        origin = Origin(label=label, seq_num=i + 1)
        bad = pixels.of(image, mask, counted=sigmas is None)
        sigma = None if sigmas is None else sigmas[i]
        yield hologram_frame(image, geometry, flat=flat, dark=dark, sigma=sigma, mask=bad, origin=origin)


def _image(scan: Scan, name: str, shape: tuple[int, ...]) -> NDArray | None:
    if name not in scan.values:
        return None
    value = np.asarray(scan.values[name])
    if value.shape[-2:] != shape or value.ndim > 3 or value.dtype.kind not in "fiu":
        raise FrameError(
            f"{scan.path}: {name} {value.shape} of {value.dtype} does not match the frames {shape}, expected "
            "counts of one image or of several"
        )
    return value.mean(0) if value.ndim == 3 else value


def sigmas_of(scan: Scan, shape: tuple[int, ...]) -> NDArray | None:
    """(N, H, W) standard deviations of a stack, `sigma` of it or of one frame.

    Raises:
        FrameError: it has another shape.
    """
    if "sigma" not in scan.values:
        return None
    sigma = np.asarray(scan.values["sigma"])
    if sigma.shape not in (shape, shape[1:]):
        raise FrameError(f"{scan.path}: sigma {sigma.shape} does not match the frames {shape}")
    return np.broadcast_to(sigma, shape)


def _geometry(scan: Scan) -> HologramGeometry:
    known = {name: value for name in NUMBERS if (value := scan.number(name)) is not None}
    where = f"{scan.path} has {', '.join(sorted(scan.values))}"
    return hologram_geometry(known, where, "rename what is there with --map theirs=ours")
