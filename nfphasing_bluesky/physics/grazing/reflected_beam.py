"""The reflected beam in a frame in grazing incidence: it tells the incidence angle, whatever the sample is.

Dimension letters: H rows (row 0 below), W columns.
"""

import math

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame, GrazingGeometry
from nfphasing_bluesky.physics.grazing.grazing_frames import SPECULAR_INV_ANGSTROM, PixelMaps, pixel_maps

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

LOWEST_RAD = math.radians(0.03)
HIGHEST = 3.0
"""Exit angle over the incidence angle up to which the beam is looked for."""
BRIGHTER = 20.0
"""How much brighter it is than what lies around it; Yoneda's line is bright to both sides."""
NEAR_PX, FAR_PX, SPOT_PX = 8, 24, 4
LEAST_COUNTS = 100.0
OFF_RAD = math.radians(0.02)
"""As far as the models let the incidence angle be off."""


def reflected_exit(
    counts: FloatArray, used: BoolArray, maps: PixelMaps, incidence_rad: float
) -> float | None:
    """Exit angle of the reflected beam, rad; None where none stands out: behind a stop, or too weak.

    Args:
        counts: (H, W).
        used: (H, W) bool, pixels that may be used.
        maps: where the pixels look, for the incidence angle.
        incidence_rad: that is given.
    """
    middle, beside = (
        used & (maps.q_y >= low) & (maps.q_y < high)
        for low, high in (
            (0.0, SPECULAR_INV_ANGSTROM),
            (2 * SPECULAR_INV_ANGSTROM, 4 * SPECULAR_INV_ANGSTROM),
        )
    )
    in_plane, around = _row_means(counts, middle), _row_means(counts, beside)
    columns = middle.any(0)
    if not columns.any():
        return None
    exits = maps.exit_rad[:, columns].mean(1)
    place = np.isfinite(in_plane) & (exits > LOWEST_RAD) & (exits < HIGHEST * incidence_rad)
    if not place.any():
        return None
    row = int(np.where(place, in_plane, -np.inf).argmax())
    if in_plane[row] * middle[row].sum() < LEAST_COUNTS or not in_plane[row] > BRIGHTER * around[row]:
        return None
    for side in (
        in_plane[max(row - FAR_PX, 0) : max(row - NEAR_PX, 0)],
        in_plane[row + NEAR_PX : row + FAR_PX],
    ):
        seen = side[np.isfinite(side)]
        if not seen.size or not in_plane[row] > BRIGHTER * seen.max():
            return None
    spot = slice(max(row - SPOT_PX, 0), row + SPOT_PX + 1)
    weight = np.where(np.isfinite(in_plane[spot]), in_plane[spot], 0.0)
    return float((weight * exits[spot]).sum() / weight.sum())


def _row_means(counts: FloatArray, used: BoolArray) -> FloatArray:
    """(H,) means of the used pixels of each row, NaN where there are none."""
    number = used.sum(1)
    total = np.where(used, counts, 0.0).sum(1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def incidence_doubt(frame: Frame) -> str:
    """What the reflected beam says against the incidence angle of a frame, in words; empty for nothing."""
    geometry = frame.geometry
    if not isinstance(geometry, GrazingGeometry) or frame.intensity.ndim != 2:
        return ""
    shape = (frame.intensity.shape[0], frame.intensity.shape[1])
    order = slice(None) if geometry.rows_up else slice(None, None, -1)
    used, maps = (frame.usable & (frame.intensity >= 0))[order], pixel_maps(geometry, shape)
    found = reflected_exit(np.where(used, frame.intensity[order], 0.0), used, maps, geometry.incidence_rad)
    if found is None:
        return ""
    # it lies at twice the angle over the direct beam, whatever angle the exit is counted from
    angle = 0.5 * (found + geometry.incidence_rad)
    if abs(angle - geometry.incidence_rad) <= OFF_RAD + 0.5 * maps.pixel_rad:
        return ""
    return (
        f"the reflected beam lies where an incidence angle of {math.degrees(angle):.3f} degrees puts it, "
        f"{math.degrees(geometry.incidence_rad):.3f} are given: check the angle and the direct beam's row"
    )
