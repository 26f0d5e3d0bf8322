"""2-D small-angle patterns on disk: named arrays with q of the pixels or a detector's geometry."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    DetectorGeometry,
    Frame,
    GeometryError,
    Origin,
    PlaneGeometry,
)
from nfphasing_bluesky.documents.bad_pixels import BadPixels
from nfphasing_bluesky.documents.patterns import PLAIN_Q_NAMES, Q_NAMES, detector_of
from nfphasing_bluesky.storage.scans import Scan, image_stack, mask_of, sigmas_of
from nfphasing_bluesky.storage.units import assumed_q_scale, required_q_scale


def pattern_frames(
    scan: Scan, q_unit: str | None = None, mask: NDArray[np.bool_] | None = None
) -> Iterator[Frame]:
    """Yield the patterns of named arrays.

    `data` (H, W) or (N, H, W) are counts, or with `sigma` of one pattern's shape or of all, intensities;
    pixels are not used where `mask_of` says so, from `saturation` counts on, and where `BadPixels` finds
    them. The geometry is `qx` (W,) and `qy` (H,), or both of every
    pixel (H, W), in 1/angstrom (`q_unit` for others); or `wavelength_m`, `distance_m`, `pixel_size_m` (one
    number, or row and column), `poni_m` or `beam_center_px` (row and column, 0 the middle of the
    first) and, for a tilted detector, pyFAI's `rotations_rad`.

    Raises:
        FrameError: no data, or arrays whose shapes do not fit.
        GeometryError: too little is known, or a value that cannot be.
    """
    stack = image_stack(scan)
    geometry = _geometry(scan, q_unit)
    mask, sigmas = mask_of(scan, stack.shape[1:], mask), sigmas_of(scan, stack.shape)
    pixels = BadPixels(str(scan.path), scan.number("saturation"), pattern=True)
    for i, image in enumerate(stack):
        label = scan.path.name if len(stack) == 1 else f"{scan.path.name} {i + 1}"
        yield Frame(
            image,
            geometry,
            sigma=None if sigmas is None else sigmas[i],
            mask=pixels.of(image, mask, counted=sigmas is None),
            origin=Origin(label=label, seq_num=i + 1),
        )


def _geometry(scan: Scan, q_unit: str | None) -> PlaneGeometry | DetectorGeometry:
    names = Q_NAMES if Q_NAMES[0] in scan.values or Q_NAMES[1] in scan.values else PLAIN_Q_NAMES
    if any(name in scan.values for name in names):
        if missing := [name for name in names if name not in scan.values]:
            raise GeometryError(f"{scan.path}: no {missing[0]}, expected {names[0]} and {names[1]}")
        qx, qy = (np.asarray(scan.values[name], dtype=np.float64) for name in names)
        return _plane(scan, qx, qy, 1.0 if names == Q_NAMES else _scale(qx, qy, scan.path, q_unit))
    return detector_of(scan.values, str(scan.path), "rename what is there with --map theirs=ours")


def _scale(qx: NDArray, qy: NDArray, path: Path, q_unit: str | None) -> float:
    if q_unit is not None:
        return required_q_scale(q_unit, path, "q_unit=")
    return assumed_q_scale(np.abs(np.concatenate([qx.ravel(), qy.ravel()])), path)


def _plane(scan: Scan, qx: NDArray, qy: NDArray, scale: float) -> PlaneGeometry:
    absolute, contrast, error = (scan.number(n) for n in ("absolute", "contrast_inv_cm2", "q_relative_error"))
    try:
        return PlaneGeometry(qx * scale, qy * scale, bool(absolute), contrast, error or 0.0)
    except GeometryError as wrong:
        raise GeometryError(f"{scan.path}: {wrong}") from wrong
