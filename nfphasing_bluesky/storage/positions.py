"""Positions of ptychographic scans on disk."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.core.orientation import Orientation
from nfphasing_bluesky.documents.ptychography import (
    Optics,
    positions_from_lengths,
    positions_turn,
    read_signs,
)
from nfphasing_bluesky.storage.scans import Scan

FAR_OFF, LEAST_PLACES = 3.0, 11

ADVICE = "rename what is there with --map theirs=ours"


def read_positions(
    scan: Scan,
    optics: Optics,
    count: int,
    shape: tuple[int, int],
    signs: tuple[float, float] | None = None,
    order: str = "yx",
) -> tuple[NDArray[np.float64], Orientation]:
    """Return (N, 2) row and column of the frames in the object's pixels, and how they were turned.

    Args:
        scan: with positions_px, positions_m or translation_m.
        optics: with the object's pixel, for lengths.
        count: of the frames.
        shape: of the frames, as turned.
        signs: of rows and columns; None for what the scan says, else +1.
        order: "xy" where rows and columns are exchanged.

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
    turn = positions_turn(signs or read_signs(scan.values.get("positions_sign", 1.0), where), order, where)
    pixels = (found[:, [1, 0]] if (name == "translation_m") != turn.transpose else found).astype(np.float64)
    if name != "positions_px":
        pixels = positions_from_lengths(pixels, optics, where, ADVICE)
    pixels = pixels * np.array(turn.signs)
    _check_spread(pixels, shape, f"{where}: {name}")
    return pixels, turn


def far_off(pixels: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(N,) True for places that lie on no other frame and `FAR_OFF` times as far out as nine in ten of them.

    Args:
        pixels: (N, 2) row and column of the frames.
        shape: of the frames.
    """
    known = np.isfinite(pixels).all(1)
    result = np.zeros(len(pixels), bool)
    if known.sum() < LEAST_PLACES:
        return result
    places = pixels[known] / np.array(shape)
    alone = cKDTree(places).query(places, k=2, p=np.inf)[0][:, 1] >= 1
    out = np.abs(places - np.median(places, axis=0)).max(1)
    result[known] = alone & (out > FAR_OFF * (1 + np.quantile(out, 0.9)))
    return result


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
