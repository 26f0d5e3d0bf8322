"""Scans of images on disk: named arrays in .npz, .h5 or .cxi, and the frames they hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import h5py
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame, FrameError, GeometryError, HologramGeometry, Origin, StorageError
from nfphasing_bluesky.physics.propagate import cone_beam, pixel_fresnel_number

NAMES = (
    "data",
    "mask",
    "flat",
    "photons",
    "fresnel_number",
    "beta_over_delta",
    "wavelength_m",
    "distance_m",
    "pixel_size_m",
    "focus_to_sample_m",
)
"""What a file of holograms may hold; other names are renamed to these on reading, or left alone."""


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


def read_scan(path: str | Path, renamed: Mapping[str, str] | None = None) -> Scan:
    """Read the arrays of a .npz file, or those of the root of an HDF5 file.

    Args:
        path: the file.
        renamed: name in the file -> name of `NAMES`.

    Raises:
        StorageError: damaged, of another kind, or without a name that should be renamed.
    """
    path, renamed = Path(path), dict(renamed or {})
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                values = {k: v[()] for k, v in file.items() if isinstance(v, h5py.Dataset)}
        else:
            with np.load(path, allow_pickle=False) as file:
                values = {name: file[name] for name in file.files}
    except (OSError, ValueError, BadZipFile) as error:
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


def hologram_frames(scan: Scan) -> Iterator[Frame]:
    """Yield the holograms of a scan, 1 where nothing is in the beam.

    `data` (H, W) or (N, H, W) are counts, divided by `flat` (H, W), the counts of an empty image, or by
    `photons`, their mean; or normalised intensities where the file has neither. The geometry is
    `fresnel_number`, or `wavelength_m`, `distance_m` (sample to detector), `pixel_size_m` (of the detector)
    and, for a cone beam, `focus_to_sample_m`.

    Raises:
        FrameError: no data, or a mask or flat of another shape.
        GeometryError: too little is known.
    """
    if "data" not in scan.values:
        raise FrameError(
            f"{scan.path}: no 'data', expected counts (H, W) or (N, H, W); the file has "
            f"{', '.join(sorted(scan.values))}; rename with --map theirs=data"
        )
    data = np.asarray(scan.values["data"])
    if data.ndim not in (2, 3):
        raise FrameError(f"{scan.path}: data has shape {data.shape}, expected (H, W) or (N, H, W)")
    stack = data[None] if data.ndim == 2 else data
    shape = stack.shape[1:]
    geometry = _geometry(scan)
    mask = _image(scan, "mask", shape)
    flat = _image(scan, "flat", shape)
    empty = flat if flat is not None else geometry.photons
    for i, image in enumerate(stack):
        counts = image.astype(np.float64)
        dead = None if mask is None else mask != 0
        sigma = None
        if empty is not None:
            bright = np.broadcast_to(np.asarray(empty, dtype=np.float64), shape)
            bad = bright <= 0
            safe = np.where(bad, 1.0, bright)
            sigma = np.sqrt(np.clip(counts, 0, None) + 1) / safe
            counts = counts / safe
            dead = bad if dead is None else dead | bad
        label = scan.path.name if len(stack) == 1 else f"{scan.path.name} {i + 1}"
        yield Frame(counts, geometry, sigma, dead, Origin(label=label, seq_num=i + 1))


def _image(scan: Scan, name: str, shape: tuple[int, ...]) -> NDArray | None:
    if name not in scan.values:
        return None
    value = np.asarray(scan.values[name])
    if value.shape != shape:
        raise FrameError(f"{scan.path}: {name} {value.shape} does not match the frames {shape}")
    return value


def _geometry(scan: Scan) -> HologramGeometry:
    number, wavelength = scan.number("fresnel_number"), scan.number("wavelength_m")
    distance, pixel = scan.number("distance_m"), scan.number("pixel_size_m")
    focus = scan.number("focus_to_sample_m")
    if pixel is not None and distance is not None and focus is not None:
        beam = cone_beam(focus, distance, pixel)
        pixel, distance = float(beam.pixel_m), float(beam.distance_m)
    if number is None:
        if wavelength is None or distance is None or pixel is None:
            raise GeometryError(
                f"{scan.path}: neither fresnel_number nor all of wavelength_m, distance_m and pixel_size_m; "
                f"the file has {', '.join(sorted(scan.values))}; rename with --map theirs=ours"
            )
        number = float(pixel_fresnel_number(pixel, wavelength, distance))
    return HologramGeometry(
        fresnel_number=number,
        beta_over_delta=scan.number("beta_over_delta") or 0.0,
        pixel_size_m=pixel,
        wavelength_m=wavelength,
        photons=scan.number("photons"),
    )
