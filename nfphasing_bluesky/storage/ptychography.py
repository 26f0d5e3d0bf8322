"""Ptychographic scans on disk: frames, places and probe of one file, or of a file and its probe's."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nfphasing_bluesky.core import (
    Failure,
    Frame,
    FrameError,
    GeometryError,
    NFPhasingError,
    Origin,
    StorageError,
    StreamSettings,
)
from nfphasing_bluesky.documents.ptychography import (
    NAMES as NUMBERS,
)
from nfphasing_bluesky.documents.ptychography import (
    Optics,
    as_probe,
    looks_centred,
    photon_scale,
    positions_from_lengths,
    probe_in_photons,
    ptychography_frame,
    read_optics,
    read_signs,
)
from nfphasing_bluesky.documents.scan_frames import Beam
from nfphasing_bluesky.storage.scans import Scan, read_scan

log = logging.getLogger(__name__)

ADVICE = "rename what is there with --map theirs=ours"
_LOOKED_AT = 64
"""Frames that scale and centre are found from."""

OnFailure = Callable[[Failure], None]


@dataclass(frozen=True)
class ScanOptions:
    """How a scan is read.

    Args:
        probe: file with the probe, over what the scan holds.
        positions_sign: +1 or -1, or one for rows and one for columns: with -1 the positions are the sample's
            and the beam walks the other way. By default what the scan says, else +1.
        renamed: name in the file -> name it goes by here; those of the probe count in the probe's file.
        mask: (H, W) True = not used.
    """

    probe: Path | None = None
    positions_sign: tuple[float, float] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    mask: NDArray[np.bool_] | None = None


def read_ptychography(path: Path, options: ScanOptions) -> Scan:
    """Read a scan and, from a file of its own, the probe.

    Raises:
        StorageError: a file cannot be read, or the probe's has none.
    """
    if options.probe is None:
        return read_scan(path, options.renamed)
    probe_names = {theirs: ours for theirs, ours in options.renamed.items() if ours == "probe"}
    rest = {theirs: ours for theirs, ours in options.renamed.items() if ours != "probe"}
    return replace_probe(read_scan(path, rest), options.probe, probe_names)


def replace_probe(scan: Scan, path: Path, renamed: Mapping[str, str]) -> Scan:
    """Return a scan with the probe of another file."""
    return Scan(scan.path, {**scan.values, "probe": read_probe(path, renamed)})


def read_probe(path: Path, renamed: Mapping[str, str] | None = None) -> NDArray:
    """Read the array `probe` of a .npz, HDF5 or CXI file.

    Raises:
        StorageError: no such file, or no probe in it.
    """
    if not path.is_file():
        raise StorageError(f"{path}: no such file of a probe; check the name")
    values = read_scan(path, renamed).values
    if "probe" not in values:
        raise StorageError(
            f"{path}: no 'probe', expected complex (H, W) or (P, H, W); the file has "
            f"{', '.join(sorted(values))}; rename with --map theirs=probe"
        )
    return values["probe"]


def beam_of(settings: StreamSettings, mask: NDArray[np.bool_] | None = None) -> Beam | None:
    """What a stream's settings say of a ptychographic scan; None without a probe.

    Raises:
        StorageError: the probe's file cannot be read.
    """
    if settings.probe is None:
        return None
    signs = settings.positions_sign
    return Beam(
        read_probe(settings.probe),
        settings.probe.name,
        settings.positions,
        None if signs is None else (float(signs[0]), float(signs[1])),
        mask,
    )


def ptychography_frames(
    scan: Scan, options: ScanOptions, on_failure: OnFailure | None = None
) -> Iterator[Frame]:
    """Yield the frames of a scan, each with the probe and its place.

    `data` (N, H, W) are counts; `positions_px` (N, 2) or `positions_m` are row and column of each frame's
    pixel [0, 0], with any origin, and `translation_m` (N, 2) or (N, 3) x, y and z as in CXI: column, row and
    nothing; `probe` is (H, W) or (P, H, W); `mask` is not 0 where a pixel must not be used, `mask_good` where
    it may. Numbers are those of `documents.ptychography.NAMES`. Where a far-field scan does not say whether
    its direct beam is `centred`, its light does.

    Args:
        scan: as read.
        options: signs of the positions, a further mask.
        on_failure: takes frames that cannot be used, and the others go on; without it they raise.

    Raises:
        FrameError, GeometryError: something that all frames need is missing or cannot be.
    """
    data = _data(scan)
    shape = (data.shape[1], data.shape[2])
    where = str(scan.path)
    optics = read_optics(_numbers(scan), shape, where, ADVICE)
    mask = _mask(scan, shape, options.mask)
    positions = read_positions(scan, optics, len(data), shape, options.positions_sign)
    if "probe" not in scan.values:
        raise FrameError(
            f"{where}: no 'probe', expected complex (H, W) or (P, H, W); the file has "
            f"{', '.join(sorted(scan.values))}; pass --probe FILE, or {ADVICE}"
        )
    probe = as_probe(scan.values["probe"], shape, where)
    some = data[:: -(-len(data) // _LOOKED_AT)]
    optics = _with_centre(optics, some, mask, where)
    probe = probe_in_photons(probe, photon_scale(probe, some, optics, mask), where)
    for i, (counts, (row, column)) in enumerate(zip(data, positions, strict=True)):
        origin = Origin(label=f"{scan.path.name} {i + 1}", seq_num=i + 1)
        try:
            yield ptychography_frame(counts, optics, probe, (row, column), mask=mask, origin=origin)
        except NFPhasingError as error:
            if on_failure is None:
                raise
            on_failure(Failure(origin, f"{type(error).__name__}: {error}"))


def read_positions(
    scan: Scan,
    optics: Optics,
    count: int,
    shape: tuple[int, int],
    signs: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """Return (N, 2) row and column of the frames in the object's pixels.

    Raises:
        GeometryError: none, not as many as frames, or none that a scan could have.
    """
    where = str(scan.path)
    name = next((n for n in ("positions_px", "positions_m", "translation_m") if n in scan.values), None)
    if name is None:
        raise GeometryError(
            f"{where}: no positions, expected positions_px or positions_m (N, 2), row and column, or "
            f"translation_m (N, 3), x, y, z; the file has {', '.join(sorted(scan.values))}; {ADVICE}"
        )
    found = np.asarray(scan.values[name])
    columns = (2, 3) if name == "translation_m" else (2,)
    if found.ndim != 2 or found.shape[1] not in columns or found.dtype.kind not in "fiu":
        raise GeometryError(
            f"{where}: {name} is {found.dtype} {found.shape}, expected numbers (N, "
            f"{' or '.join(map(str, columns))})"
        )
    if len(found) != count:
        raise GeometryError(
            f"{where}: {len(found)} positions in {name} for {count} frames; leave out the frames without "
            "one, or the positions without a frame"
        )
    ordered = found[:, [1, 0]] if name == "translation_m" else found
    pixels = ordered.astype(np.float64)
    if name != "positions_px":
        pixels = positions_from_lengths(pixels, optics, where, ADVICE)
    if signs is None:
        signs = read_signs(scan.values.get("positions_sign", 1.0), where)
    pixels = pixels * np.asarray(signs)
    _check_spread(pixels, shape, f"{where}: {name}")
    return pixels


def _check_spread(pixels: NDArray[np.float64], shape: tuple[int, int], where: str) -> None:
    """Refuse positions of which hardly any two frames overlap, or all are the same."""
    known = pixels[np.isfinite(pixels).all(1)]
    if len(known) < 2:
        return
    span = np.ptp(known, axis=0)
    if span.max() < 1:
        raise GeometryError(
            f"{where}: {len(known)} frames within {span[0]:.3g} x {span[1]:.3g} pixels of the object, "
            "expected a scan; check the unit of the positions and the pixel size"
        )
    step = float(np.median(cKDTree(known).query(known, k=2)[0][:, 1]))
    if step >= min(shape):
        raise GeometryError(
            f"{where}: the next frame is {step:.4g} pixels away (median), expected less than their size, "
            f"{shape}, so that frames overlap; check the positions' unit, the pixel size and the distance"
        )


def _data(scan: Scan) -> NDArray:
    if "data" not in scan.values:
        raise FrameError(
            f"{scan.path}: no 'data', expected counts (N, H, W); the file has "
            f"{', '.join(sorted(scan.values))}; {ADVICE}"
        )
    data = np.asarray(scan.values["data"])
    data = data[None] if data.ndim == 2 else data
    if data.ndim != 3 or data.dtype.kind not in "fiu":
        raise FrameError(f"{scan.path}: data is {data.dtype} {data.shape}, expected counts (N, H, W)")
    return data


def _numbers(scan: Scan) -> dict[str, float]:
    """Numbers of the optics; a pixel may be given twice, for rows and columns."""
    numbers = {}
    for name in NUMBERS:
        value = np.asarray(scan.values.get(name, ()))
        if name.endswith(("pixel_m", "pixel_size_m")) and value.size == 2:
            first, second = (float(pixel) for pixel in value.ravel())
            if abs(first - second) > 1e-3 * abs(first):
                raise GeometryError(
                    f"{scan.path}: {name} {value.ravel().tolist()}, expected square pixels; bin or resample"
                )
            numbers[name] = float(value.mean())
        elif (number := scan.number(name)) is not None:
            numbers[name] = number
    return numbers


def _mask(scan: Scan, shape: tuple[int, int], further: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """(H, W) True = not used, of everything that says so."""
    parts = {"--mask": further}
    for name, bad in (("mask", True), ("mask_good", False)):
        if name in scan.values:
            parts[name] = (np.asarray(scan.values[name]) != 0) == bad
    masks = {name: part for name, part in parts.items() if part is not None}
    for name, part in masks.items():
        if part.shape != shape:
            raise FrameError(f"{scan.path}: {name} {part.shape} does not match the frames {shape}")
    if not masks:
        return None
    mask = np.logical_or.reduce(list(masks.values()))
    if mask.all():
        raise FrameError(
            f"{scan.path}: every pixel is masked by {', '.join(masks)}; check what 1 means there"
        )
    return mask


def _with_centre(optics: Optics, some: NDArray, mask: NDArray[np.bool_] | None, where: str) -> Optics:
    if optics.centred is not None:
        return optics
    mean = np.mean(np.clip(some, 0, None), axis=0)
    centred = looks_centred(mean if mask is None else np.where(mask, 0, mean))
    if not centred:
        log.warning(
            "%s: the frames have the direct beam in their corner; centred=1 in the file denies it", where
        )
    return replace(optics, centred=centred)
