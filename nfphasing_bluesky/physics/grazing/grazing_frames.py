"""Frames in grazing incidence become two cuts: masked, both sides of the plane of incidence together.

Where a geometry does not say where to cut, the in-plane cut goes through the brightest exit angle beside the
plane of incidence, Yoneda's as a rule, and the out-of-plane cut through the first side maximum over |q_y|, or
close to the plane of incidence where there is none.

Dimension letters: H rows (row 0 below), W columns.
"""

import itertools
import logging
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame, FrameError, GeometryError, GrazingCutsGeometry, GrazingGeometry
from nfphasing_bluesky.physics.grazing.gisaxs_cuts import check_horizon
from nfphasing_bluesky.physics.grazing.gisaxs_detector import GrazingDetector
from nfphasing_bluesky.physics.grazing.grazing import wave_number

log = logging.getLogger(__name__)

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

SPECULAR_INV_ANGSTROM = 0.003
"""|q_y| below which reflected beam and rough interfaces show; left out."""
FURTHEST_INV_ANGSTROM, FURTHEST_RAD = 0.25, math.radians(2.5)
"""|q_y| and exit angle where cuts end, at the latest."""
HALF_BAND_RAD = math.radians(0.025)
"""Half the width of an in-plane cut that is chosen here."""
HALF_BAND_SHARE = 0.05
"""Half the width of an out-of-plane cut that is chosen here, over its |q_y|."""
LOWEST_EXIT_RAD = math.radians(0.05)
HIGHEST_EXIT_RAD = math.radians(0.5)
"""Where the in-plane cut is looked for."""
SIDE_INV_ANGSTROM = (0.005, 0.06)
"""Where a side maximum is looked for."""
LEAST_COUNTS = 50.0
"""Counts of the lines on both sides of a gap: chance then leaves no line between dark."""


@dataclass(frozen=True, eq=False)
class PixelMaps:
    """Where the pixels of a frame look: (H, W) each, and a pixel's size.

    Attributes:
        exit_rad: exit angle, rad.
        q_y: |q_y|, 1/angstrom.
        q: length of q in the plane of the surface, 1/angstrom.
        pixel_rad, pixel_q: height and width of a pixel in these.
    """

    exit_rad: FloatArray
    q_y: FloatArray
    q: FloatArray
    pixel_rad: float
    pixel_q: float


def detector_of(geometry: GrazingGeometry, shape: tuple[int, int]) -> GrazingDetector:
    """Detector whose rows are counted from below."""
    row, column = geometry.beam_px
    row = row if geometry.rows_up else shape[0] - row
    return GrazingDetector(
        geometry.wavelength_m,
        geometry.distance_m,
        geometry.pixel_size_m,
        (row, column),
        shape,
        geometry.normal_rad,
    )


@lru_cache(maxsize=4)
def pixel_maps(geometry: GrazingGeometry, shape: tuple[int, int]) -> PixelMaps:
    """Where the pixels look, rows from below."""
    detector = detector_of(geometry, shape)
    up, across = (v.numpy() for v in detector.offsets_m())
    normal, distance = detector.normal_rad - geometry.incidence_rad, detector.distance_m
    y, x = up[:, None], across[None]
    r = np.sqrt(distance**2 + x**2 + y**2)
    exits = np.arcsin((distance * math.sin(normal) + y * math.cos(normal)) / r)
    k = wave_number(1e10 * geometry.wavelength_m)
    tall, wide = (size / distance for size in geometry.pixel_size_m)
    q_y = np.abs(k * x / r)
    along = (distance * math.cos(normal) - y * math.sin(normal)) / r - math.cos(geometry.incidence_rad)
    return PixelMaps(exits, q_y, np.hypot(k * along, q_y), tall, k * wide)


@dataclass(frozen=True, eq=False)
class LitPixels:
    """What a frame sees of a surface, rows from below, (H, W) each.

    Attributes:
        counts: 0 where they are not used.
        variance: of the counts.
        lit: bool, pixels over the horizon and beside the plane of incidence that are used.
        maps: where the pixels look.
        poisson: whether the variance is that of counting.
    """

    counts: FloatArray
    variance: FloatArray
    lit: BoolArray
    maps: PixelMaps
    poisson: bool


def lit_pixels(frame: Frame, mask: BoolArray | None = None) -> LitPixels:
    """Look where a frame sees the surface; arguments and errors as of `cuts_of`."""
    geometry, label = frame.geometry, frame.origin.label
    if not isinstance(geometry, GrazingGeometry):
        raise GeometryError(
            f"{label}: found a {type(geometry).__name__}, expected GrazingGeometry; give the incidence angle "
            "with the detector's geometry"
        )
    frame = frame if mask is None else frame.masked(mask)
    shape = (frame.intensity.shape[0], frame.intensity.shape[1])
    order = slice(None) if geometry.rows_up else slice(None, None, -1)
    used = (frame.usable & (frame.intensity >= 0))[order]
    counts = np.where(used, frame.intensity[order], 0.0)
    maps = pixel_maps(geometry, shape)
    beside = used & (maps.q_y >= SPECULAR_INV_ANGSTROM)
    detector = detector_of(geometry, shape)
    check_horizon(counts, ~beside, detector, geometry.incidence_rad, label=label, rows_up=geometry.rows_up)
    beside = beside & (maps.exit_rad > 0)
    lit = beside & ~_never_count(counts, beside, label, geometry.rows_up)
    lit = lit & (maps.exit_rad <= FURTHEST_RAD) & (maps.q_y <= FURTHEST_INV_ANGSTROM)
    if not lit.any():
        horizon = detector.row_of(0.0, geometry.incidence_rad)
        raise GeometryError(
            f"{label}: no usable pixel lies over the horizon, row {horizon:.1f} from below, beside the plane "
            "of incidence; check the beam's row, the mask and the incidence angle"
        )
    variance = counts if frame.sigma is None else np.where(used, frame.sigma[order] ** 2, 0.0)
    return LitPixels(counts, variance, lit, maps, frame.sigma is None)


def _never_count(counts: FloatArray, over: BoolArray, label: str, rows_up: bool) -> BoolArray:
    """(H, W) True in lines without a count between lines that have many: gaps that nobody masked.

    Looked at are pixels over the horizon alone: below it a surface's shadow may be dark.
    """
    dead, words = np.zeros(over.shape, bool), []
    for axis, name in ((0, "row"), (1, "column")):
        lines, seen = np.where(over, counts, 0.0).sum(1 - axis), over.sum(1 - axis)
        lit = np.flatnonzero(lines >= LEAST_COUNTS)
        for before, after in itertools.pairwise(lit):
            inner = slice(before + 1, after)
            if seen[inner].any() and not lines[inner].any():
                dead[(inner, slice(None)) if axis == 0 else (slice(None), inner)] = True
                first, last = before + 1, after - 1
                if axis == 0 and not rows_up:
                    first, last = len(lines) - 1 - last, len(lines) - 1 - first
                words.append(f"{name} {first}" if first == last else f"{name}s {first} to {last}")
    if words:
        _say(label, ", ".join(words))
    return dead


@lru_cache(maxsize=64)
def _say(label: str, words: str) -> None:
    """Say once what is left out of frames of one detector."""
    log.warning("%s: %s never count, between lines that do: a gap, left out; a mask says so", label, words)


def cuts_of(frame: Frame, mask: BoolArray | None = None) -> Frame:
    """Cut a frame in plane and out of plane.

    Args:
        frame: (H, W) counts with a GrazingGeometry; negative pixels are gaps. Without sigma that of counting.
        mask: (H, W), True where a pixel must not be used, beside the frame's own.

    Returns:
        Frame of (Q,) mean counts of a pixel with a GrazingCutsGeometry.

    Raises:
        FrameError: another shape of the mask; no usable pixel where a cut lies.
        GeometryError: the frame's horizon lies elsewhere than its geometry says; it sees nothing above it.
    """
    seen, label = lit_pixels(frame, mask), frame.origin.label
    geometry = frame.geometry
    assert isinstance(geometry, GrazingGeometry)  # noqa: S101  `lit_pixels` has checked it
    counts, variance, lit, maps = seen.counts, seen.variance, seen.lit, seen.maps
    exits = geometry.exit_rad or _brightest_exit(counts, lit, maps)
    in_band = lit & (maps.exit_rad >= exits[0]) & (maps.exit_rad <= exits[1])
    in_plane = _profile(counts, variance, in_band, maps.q_y, maps.pixel_q, f"{label}, in-plane cut")
    across = geometry.q_y_inv_angstrom or _side(in_plane[0], in_plane[1])
    within = lit & (maps.q_y >= across[0]) & (maps.q_y <= across[1])
    upwards = _profile(counts, variance, within, maps.exit_rad, maps.pixel_rad, f"{label}, out-of-plane cut")
    bands = (_covered(maps.exit_rad, in_band, maps.pixel_rad), _covered(maps.q_y, within, maps.pixel_q))
    values, errors = (
        np.concatenate([_cut_errors(c, seen.poisson)[i] for c in (in_plane, upwards)]) for i in (0, 1)
    )
    made = GrazingCutsGeometry(in_plane[0], upwards[0], *bands, geometry.wavelength_m, geometry.incidence_rad)
    return replace(frame, intensity=values, sigma=errors, mask=None, geometry=made)


def _covered(place: FloatArray, within: BoolArray, size: float) -> tuple[float, float]:
    """What the pixels of a band cover, edges included."""
    return max(float(place[within].min()) - 0.5 * size, 0.0), float(place[within].max()) + 0.5 * size


Profile = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Place, mean, variance of the sum, pixels; (Q,) each."""


def _profile(
    counts: FloatArray, variance: FloatArray, within: BoolArray, place: FloatArray, step: float, label: str
) -> Profile:
    """Means of the pixels of a cut along it, a pixel's width each."""
    if not within.any():
        raise FrameError(f"{label}: no usable pixel lies in it; check the mask, or cut elsewhere")
    index = (place[within] / step).astype(np.int64)
    number: FloatArray = np.bincount(index).astype(np.float64)
    filled = number > 0
    number = number[filled]
    at, total, spread = (np.bincount(index, v[within])[filled] for v in (place, counts, variance))
    return at / number, total / number, spread, number


def _cut_errors(profile: Profile, poisson: bool) -> tuple[FloatArray, FloatArray]:
    """Mean and its standard deviation; of no counts that of one."""
    _, mean, variance, number = profile
    return mean, np.sqrt(np.maximum(variance, 1.0) if poisson else variance) / number


def _brightest_exit(counts: FloatArray, lit: BoolArray, maps: PixelMaps) -> tuple[float, float]:
    """Band about the exit angle at which most is scattered beside the plane of incidence."""
    near = lit & (maps.exit_rad >= LOWEST_EXIT_RAD) & (maps.exit_rad <= HIGHEST_EXIT_RAD)
    near = near if near.any() else lit
    at, mean, _, number = _profile(counts, counts, near, maps.exit_rad, maps.pixel_rad, "frame")
    smooth = _smoothed(mean, number, 3)
    middle = float(at[smooth.argmax()])
    low = max(middle - HALF_BAND_RAD, LOWEST_EXIT_RAD)
    return low, low + 2 * HALF_BAND_RAD


def _side(q_y: FloatArray, mean: FloatArray) -> tuple[float, float]:
    """Band about the first side maximum of an in-plane cut; the lowest |q_y| looked at without one."""
    inside = (q_y >= SIDE_INV_ANGSTROM[0]) & (q_y <= SIDE_INV_ANGSTROM[1])
    inside = inside if inside.sum() > 5 else np.ones_like(inside)
    at, value = q_y[inside], _smoothed(mean, np.ones_like(mean), 5)[inside]
    middle = float(at[value.argmax()])
    middle = max(middle, at[0] / (1 - HALF_BAND_SHARE))
    return middle * (1 - HALF_BAND_SHARE), middle * (1 + HALF_BAND_SHARE)


def _smoothed(mean: FloatArray, number: FloatArray, width: int) -> FloatArray:
    kernel = np.ones(width)
    total = np.convolve(mean * number, kernel, "same")
    smooth: FloatArray = total / np.maximum(np.convolve(number, kernel, "same"), 1e-12)
    return smooth
