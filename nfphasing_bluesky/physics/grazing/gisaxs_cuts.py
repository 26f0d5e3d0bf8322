"""Cuts through frames in grazing incidence, and where the horizon lies in a frame.

An in-plane cut follows q_y over the columns, at exit angles between two; an out-of-plane cut follows q_z over
the rows, at q_y between two. Values are mean counts of the pixels that are used, so that masks and gaps do
not show; sigma is that of counting.

Dimension letters: H rows (row 0 below), W columns, Q points.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import FrameError, GeometryError
from nfphasing_bluesky.physics.grazing.gisaxs_detector import GrazingDetector, detector_pixels
from nfphasing_bluesky.physics.grazing.grazing import wave_number

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cut:
    """Q points in the order of the detector's rows or columns; those without a usable pixel are left out.

    Args:
        q_inv_angstrom: (Q,) q_y, negative left of the plane of incidence, or q_z.
        mean: (Q,) counts of a pixel.
        sigma: (Q,) its standard deviation; of no counts that of one.
    """

    q_inv_angstrom: FloatArray
    mean: FloatArray
    sigma: FloatArray


def in_plane_cut(
    counts: FloatArray,
    mask: BoolArray,
    detector: GrazingDetector,
    incidence_rad: float,
    exit_rad: tuple[float, float],
) -> Cut:
    """Cut along q_y through (H, W) counts; mask is True where a pixel is not to be used.

    Raises:
        FrameError: shapes differ.
        GeometryError: no row lies between the exit angles.
    """
    _check_shapes(counts, mask, detector)
    pixels = detector_pixels(detector, incidence_rad)
    alpha = pixels.exit_rad()[0].numpy()
    within = (alpha >= exit_rad[0]) & (alpha <= exit_rad[1])
    low, high = np.degrees(exit_rad)
    _check_any(within, f"exit angles between {low:.4g} and {high:.4g} degrees", np.degrees(alpha), "degrees")
    return _cut(counts, within & ~mask, pixels.q_plane[1][0].numpy(), 0)


def out_of_plane_cut(
    counts: FloatArray,
    mask: BoolArray,
    detector: GrazingDetector,
    incidence_rad: float,
    q_y_inv_angstrom: tuple[float, float],
) -> Cut:
    """Cut along q_z through (H, W) counts, of the rows above the horizon; arguments as of `in_plane_cut`.

    q_z is that of the vacuum, k (sin(incidence) + sin(exit)).
    """
    _check_shapes(counts, mask, detector)
    pixels = detector_pixels(detector, incidence_rad)
    q_y = pixels.q_plane[1][0].numpy()
    low, high = q_y_inv_angstrom
    within = (q_y >= low) & (q_y <= high)
    _check_any(within, f"q_y between {low:.4g} and {high:.4g} 1/angstrom", q_y, "1/angstrom")
    alpha = pixels.exit_rad()[0].numpy()
    q_z = wave_number(pixels.wavelength_angstrom) * (np.sin(incidence_rad) + np.sin(alpha))
    return _cut(counts, within & ~mask & (alpha > 0), q_z, 1)


def _cut(counts: FloatArray, used: BoolArray, q: FloatArray, axis: int) -> Cut:
    number = used.sum(axis)
    seen = number > 0
    number = number[seen]
    total = np.where(used, counts, 0.0).sum(axis)[seen]
    at = np.where(used, q, 0.0).sum(axis)[seen] / number
    return Cut(at, total / number, np.sqrt(np.maximum(total, 1.0)) / number)


def _check_shapes(counts: FloatArray, mask: BoolArray, detector: GrazingDetector) -> None:
    if not counts.shape == mask.shape == detector.shape:
        raise FrameError(
            f"frame {counts.shape} and mask {mask.shape}, expected the detector's {detector.shape}; crop the "
            "detector as the frame was, or check the ROI"
        )


def _check_any(within: BoolArray, wanted: str, seen: FloatArray, unit: str) -> None:
    if not within.any():
        raise GeometryError(
            f"no pixel has {wanted}: the detector sees {seen.min():.4g} to {seen.max():.4g} {unit}; check "
            "the distance, the pixel size and the incidence angle"
        )


CLEAR = 5.0
"""Standard deviations over the background at which a row is lit."""
DARK, RISE = 0.05, 1.5
"""A row is dark at that share of the brightest, and bright again at that multiple of the darkest."""
LEAST_DEGREE, MOST_DEGREE = 0.05, 10.0
"""Angles of incidence that may be meant."""
FRINGED = 0.9
"""Share of rows that are lit, at least, between a surface's horizon and a fringe's minimum above it."""


def first_lit_row(counts: FloatArray, mask: BoolArray) -> int | None:
    """Lowest row from which (H, W) counts stay over the background up to the brightest one; None if dark.

    Nothing that a surface scatters comes from below its horizon. The background is that of the darkest tenth
    of the rows under the brightest one, down to where it gets bright again: about a direct beam.
    """
    if mask.all():
        return None
    rows, total, number = _row_sums(counts, mask)
    mean = total / number
    top = int(mean.argmax())
    if top == 0:
        return None
    first = _bright_again(mean[: top + 1])
    rows, total, number, top = rows[first:], total[first:], number[first:], top - first
    unlit = np.flatnonzero(~_over_darkest(total, number, top)[: top + 1])
    lit = int(unlit[-1]) + 1 if unlit.size else 0
    return int(rows[lit]) if lit <= top else None


def _bright_again(mean: FloatArray) -> int:
    """First of (H,) rows, of which the last is the brightest, between which and that it is dark but once."""
    downwards = mean[::-1]
    lowest = np.minimum.accumulate(downwards)
    rises = (lowest < DARK * mean[-1]) & (downwards > RISE * lowest)
    return len(mean) - int(rises.argmax()) if rises.any() else 0


def _under_fringes(counts: FloatArray, mask: BoolArray, first: int) -> int:
    """Lowest row from which up to the `first` one nearly all are over the background of the darkest tenth.

    A fringe's minimum may be as dark as what is below the sample; it is narrow.
    """
    rows, total, number = _row_sums(counts, mask)
    downwards = np.flatnonzero(rows < first)[::-1]
    below = _over_darkest(total, number, len(rows))[downwards]
    share = np.cumsum(below) / np.arange(1, below.size + 1)
    reached = np.flatnonzero(below & (share > FRINGED))
    return int(rows[downwards[reached[-1]]]) if reached.size else first


def _row_sums(counts: FloatArray, mask: BoolArray) -> tuple[NDArray[np.intp], FloatArray, NDArray[np.intp]]:
    """Rows with over half the used pixels of the fullest: which, their sums, and of how many pixels."""
    number = (~mask).sum(1)
    rows = np.flatnonzero(number > 0.5 * number.max())
    return rows, np.where(mask, 0.0, counts).sum(1)[rows], number[rows]


def _over_darkest(total: FloatArray, number: NDArray[np.intp], first: int) -> BoolArray:
    """(H,) bool: rows over the background, that of the darkest tenth of the `first` ones."""
    mean = total / number
    darkest = np.argsort(mean[:first])[: max(1, first // 10)]
    dark = total[darkest].sum() / number[darkest].sum()
    over: BoolArray = mean - dark > CLEAR * np.sqrt(np.maximum(dark * number, 1.0)) / number
    return over


def check_horizon(
    counts: FloatArray,
    mask: BoolArray,
    detector: GrazingDetector,
    incidence_rad: float,
    *,
    tolerance_px: float = 2.0,
    dark_rad: float = 0.005,
    label: str = "frame",
    rows_up: bool = True,
) -> None:
    """Raise GeometryError where a frame shows its horizon elsewhere than the geometry says.

    Its rows are those of the frame as it is stored.

    Args:
        counts: (H, W).
        mask: (H, W) bool, True = do not use; the direct beam and what is below the sample belong there.
        detector: of the frame.
        incidence_rad: that it is said to have.
        tolerance_px: rows below the horizon that may be lit.
        dark_rad: exit angle up to which a sample may be dark; a frame that is dark altogether says nothing.
        label: of the frame.
        rows_up: whether the frame is stored with row 0 below, as counts are here.
    """
    _check_shapes(counts, mask, detector)
    found = first_lit_row(counts, mask)
    horizon = detector.row_of(0.0, incidence_rad)
    if found is None:
        return
    highest = detector.row_of(dark_rad, incidence_rad)
    if found > highest:
        found = _under_fringes(counts, mask, found)
    if max(horizon, 0) - tolerance_px <= found <= highest:
        return
    last = detector.shape[0] - 1
    lit, expected = (found, horizon) if rows_up else (last - found, last - horizon)
    raise GeometryError(
        f"{label}: the surface scatters from row {lit} on, expected from its horizon on, row {expected:.1f} "
        f"for an incidence angle of {np.degrees(incidence_rad):.4g} degrees; "
        + _where_else(found, detector, incidence_rad, tolerance_px, dark_rad, rows_up)
    )


def _where_else(
    found: int,
    detector: GrazingDetector,
    incidence_rad: float,
    tolerance_px: float,
    dark_rad: float,
    rows_up: bool,
) -> str:
    """What to look at where a frame is lit from another row on than its horizon."""
    height, (row, column) = detector.shape[0], detector.normal_px
    other = replace(detector, normal_px=(height - row, column))
    low, high = (other.row_of(angle, incidence_rad) for angle in (0.0, dark_rad))
    advice = "check the direct beam's row and column, and mask what goes around or below the sample"
    if max(low, 0) - tolerance_px <= found <= high:
        side = "above" if rows_up else "below"
        advice += f"; it would fit if that row was counted from {side}: rows_up says where row 0 is"
    away = (found - detector.row_of(0.0, incidence_rad)) * detector.pixel_size_m[0]
    perhaps = np.degrees(incidence_rad + np.arctan(away / detector.distance_m))
    likely = LEAST_DEGREE < perhaps < MOST_DEGREE
    return f"{advice}, or check whether the angle is {perhaps:.3g} degrees" if likely else advice
