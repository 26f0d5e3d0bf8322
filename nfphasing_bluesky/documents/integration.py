"""2-D frames become curves: azimuthal averages with Poisson errors, and buffer subtraction."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyFAI.containers import ErrorModel, Integrate1dResult
from pyFAI.integrator.azimuthal import AzimuthalIntegrator
from pyFAI.io.ponifile import PoniFile

from nfphasing_bluesky.core import CurveGeometry, DetectorGeometry, Frame, FrameError, GeometryError
from nfphasing_bluesky.core.geometry import FloatArray

Method = tuple[str, str, str]
NO_SPLIT_CSR: Method = ("no", "csr", "cython")
"""Each pixel falls into one bin: bins are independent, so Poisson errors are exact and uncorrelated."""

_Q_UNIT = "q_A^-1"
_COMMON_POINTS = 0.9
_PONI_ORIENTATION = 3


def integrate(
    frame: Frame,
    npt: int | None = None,
    mask: NDArray[np.bool_] | None = None,
    method: Method = NO_SPLIT_CSR,
    normalisation: float = 1.0,
    q_range_inv_angstrom: tuple[float, float] | None = None,
) -> Frame:
    """Average a 2-D frame over rings of equal q, corrected for the pixels' solid angle.

    Masked are: `mask`, the frame's own mask, and every pixel that is negative or not finite (gaps and
    dead pixels of photon-counting detectors). Without `frame.sigma` the variance of a pixel is its
    number of counts, and a ring with no counts at all gets the error of one count rather than zero.
    With `frame.sigma` that is propagated instead. Rings without a pixel are left out of the curve.

    Args:
        frame: (H, W) counts with a DetectorGeometry.
        npt: number of bins between the ends of the q range; by default one a pixel width.
        mask: (H, W), True where a pixel must not be used.
        method: pyFAI's (splitting, algorithm, implementation).
        normalisation: monitor counts, transmission and the like; intensity and sigma are divided by it.
        q_range_inv_angstrom: outer edges of the first and last bin, 1/angstrom; by default the detector's.

    Returns:
        The curve: counts per pixel at the beam centre's solid angle, sigma, q of the bin centres.

    Raises:
        FrameError: the mask has another shape, or no pixel or fewer than two rings are usable.
        GeometryError: the frame is a curve already.
    """
    geometry, label = frame.geometry, frame.origin.label
    if not isinstance(geometry, DetectorGeometry):
        raise GeometryError(
            f"{label}: a frame with {type(geometry).__name__} cannot be integrated, expected "
            "DetectorGeometry; curves are used as they are"
        )
    if not (np.isfinite(normalisation) and normalisation > 0):
        raise FrameError(f"{label}: normalisation={normalisation!r}, expected a positive number")
    counts = _blank_unusable(frame, mask)
    # pyFAI's own Poisson model gives an empty pixel the variance of one count: far too much in sparse frames.
    poisson = frame.sigma is None
    variance = counts if frame.sigma is None else np.square(frame.sigma, dtype=np.float32)
    integrator, default_npt = _integrator(geometry, frame.intensity.shape, npt, method, q_range_inv_angstrom)
    result = integrator.integrate1d(
        counts,
        npt or default_npt,
        unit=_Q_UNIT,
        method=method,
        variance=variance,
        error_model=ErrorModel.VARIANCE,
        radial_range=q_range_inv_angstrom,
        normalization_factor=normalisation,
        correctSolidAngle=True,
        safe=False,
    )
    return _as_curve(frame, result, poisson)


def subtract(sample: Frame, buffer: Frame, scale: float = 1.0) -> Frame:
    """Return sample - scale * buffer with both errors propagated, at the points that both have.

    The two must lie on one q grid. Points that only one of them has (a ring that a mask emptied) are left
    out, as long as nine tenths of each curve remain.

    Raises:
        FrameError: sigma is missing in one of the two.
        GeometryError: one of the two is not a curve, or the grids differ.
    """
    geometry, sigma = _curve_with_errors(sample)
    buffer_geometry, buffer_sigma = _curve_with_errors(buffer)
    i, j = _common_points(geometry.q_inv_angstrom, buffer_geometry.q_inv_angstrom)
    if i.size < max(2, _COMMON_POINTS * max(sigma.size, buffer_sigma.size)):
        q, other = geometry.q_inv_angstrom, buffer_geometry.q_inv_angstrom
        raise GeometryError(
            f"{buffer.origin.label}: q grid ({other.size} points, {other[0]:.5g} to {other[-1]:.5g} "
            f"1/angstrom) shares {i.size} points with that of {sample.origin.label} ({q.size} points, "
            f"{q[0]:.5g} to {q[-1]:.5g}), expected nearly all; integrate both with the same geometry, npt "
            "and q range"
        )
    mask = _bool_mask(sample)[i] | _bool_mask(buffer)[j]
    dq = geometry.dq_inv_angstrom
    return Frame(
        intensity=sample.intensity[i] - scale * buffer.intensity[j],
        sigma=np.hypot(sigma[i], scale * buffer_sigma[j]),
        mask=mask if mask.any() else None,
        geometry=replace(
            geometry,
            q_inv_angstrom=geometry.q_inv_angstrom[i],
            dq_inv_angstrom=None if dq is None else dq[i],
        ),
        origin=replace(sample.origin, label=f"{sample.origin.label} - {buffer.origin.label}"),
    )


def mean_curve(frames: Sequence[Frame]) -> Frame:
    """Return the mean of exposures of one thing, as of a buffer, with its error.

    Args:
        frames: curves with sigma on one q grid; a point that one of them lacks is left out.

    Raises:
        FrameError: there is none, or sigma is missing in one.
        GeometryError: one is not a curve, or the grids differ.
    """
    if not frames:
        raise FrameError("found no curve to average, expected at least one; check what wrote the file")
    first, (geometry, _) = frames[0], _curve_with_errors(frames[0])
    for frame in frames[1:]:
        q = _curve_with_errors(frame)[0].q_inv_angstrom
        if q.shape != geometry.q_inv_angstrom.shape or not np.allclose(q, geometry.q_inv_angstrom, rtol=1e-6):
            raise GeometryError(
                f"{frame.origin.label}, frame {frame.origin.seq_num}: its q grid ({q.size} points) differs "
                f"from that of the first ({geometry.q_inv_angstrom.size} points), expected one; "
                "average them first"
            )
    sigmas = [_curve_with_errors(frame)[1] for frame in frames]
    mask = np.any([_bool_mask(frame) for frame in frames], axis=0)
    return replace(
        first,
        intensity=np.mean([frame.intensity for frame in frames], axis=0),
        sigma=np.sqrt(np.sum(np.square(sigmas), axis=0)) / len(frames),
        mask=mask if mask.any() else None,
    )


def detector_geometry_from_poni(path: str | Path) -> DetectorGeometry:
    """Read a pyFAI PONI file.

    Raises:
        GeometryError: the file is missing or unreadable, has no wavelength, or describes a detector whose
            pixels are counted from another corner than pyFAI's default (orientation 3).
    """
    path = Path(path)
    if not path.is_file():
        raise GeometryError(f"{path}: no such PONI file; expected one written by pyFAI-calib2")
    try:
        poni = PoniFile(data=str(path))
        detector = poni.detector
        pixel_size_m = (float(detector.pixel1), float(detector.pixel2))
        distance_m = float(poni.dist)
        shape = detector.shape or detector.max_shape
    except Exception as error:
        raise GeometryError(
            f"{path}: not a PONI file that pyFAI can read ({error}); save it again with pyFAI-calib2"
        ) from error
    if poni.wavelength is None:
        raise GeometryError(f"{path}: no Wavelength line, expected one in metres; add it to the PONI file")
    orientation = int(detector.orientation or _PONI_ORIENTATION)
    if orientation != _PONI_ORIENTATION:
        raise GeometryError(
            f"{path}: detector orientation {orientation}, expected {_PONI_ORIENTATION} (pixel [0, 0] first "
            "in memory); calibrate on images as they are stored"
        )
    return DetectorGeometry(
        wavelength_m=float(poni.wavelength),
        distance_m=distance_m,
        pixel_size_m=pixel_size_m,
        poni_m=(float(poni.poni1), float(poni.poni2)),
        rotations_rad=(float(poni.rot1), float(poni.rot2), float(poni.rot3)),
        shape=None if shape is None else (int(shape[0]), int(shape[1])),
    )


@lru_cache(maxsize=4)
def _integrator(
    geometry: DetectorGeometry,
    shape: tuple[int, int],
    npt: int | None,
    method: Method,
    q_range: tuple[float, float] | None,
) -> tuple[AzimuthalIntegrator, int]:
    """Return an integrator of its own for each distinct table, and its default number of bins.

    The look-up table costs far more than a frame. Masks are not part of it: masked pixels are NaN, which
    pyFAI leaves out, so a mask that changes from frame to frame costs nothing.
    """
    del npt, method, q_range  # They distinguish the tables; each integrator keeps only its latest.
    rot1, rot2, rot3 = geometry.rotations_rad
    integrator = AzimuthalIntegrator(
        dist=geometry.distance_m,
        poni1=geometry.poni_m[0],
        poni2=geometry.poni_m[1],
        rot1=rot1,
        rot2=rot2,
        rot3=rot3,
        pixel1=geometry.pixel_size_m[0],
        pixel2=geometry.pixel_size_m[1],
        wavelength=geometry.wavelength_m,
    )
    return integrator, _rings_of_a_pixel(geometry, shape)


def _rings_of_a_pixel(geometry: DetectorGeometry, shape: tuple[int, int]) -> int:
    """Count the rings of a pixel's width between the nearest and the farthest point of the detector."""
    nearest, farthest = [], []
    for size, pixel, poni in zip(shape, geometry.pixel_size_m, geometry.poni_m, strict=True):
        low, high = -poni, size * pixel - poni
        nearest.append(max(0.0, low, -high))
        farthest.append(max(abs(low), abs(high)))
    span_m = math.hypot(*farthest) - math.hypot(*nearest)
    return max(2, math.ceil(span_m / max(geometry.pixel_size_m)))


def _blank_unusable(frame: Frame, mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Return (H, W) counts with NaN at every pixel that must not be used."""
    bad = ~(frame.intensity >= 0)
    for extra in (frame.mask, mask):
        if extra is None:
            continue
        if np.shape(extra) != frame.intensity.shape:
            raise FrameError(
                f"{frame.origin.label}: mask {np.shape(extra)} does not match frame {frame.intensity.shape}; "
                "pass a mask of the frame's shape or check the ROI"
            )
        bad |= np.asarray(extra, dtype=np.bool_)
    if bad.all():
        raise FrameError(
            f"{frame.origin.label}: every pixel is masked, negative or NaN, expected at least two rings of "
            "usable pixels; check the mask (True means masked)"
        )
    counts = frame.intensity.astype(np.float32)
    counts[bad] = np.nan
    return counts


def _as_curve(frame: Frame, result: Integrate1dResult, poisson: bool) -> Frame:
    """Turn pyFAI's result into a Frame without its empty bins."""
    filled = np.asarray(result.count) > 0
    if np.count_nonzero(filled) < 2:
        raise FrameError(
            f"{frame.origin.label}: {np.count_nonzero(filled)} rings hold usable pixels, expected 2 or more; "
            "check the q range and the mask"
        )
    sigma = np.asarray(result.sigma, dtype=np.float64)[filled]
    if poisson:
        one_count = 1.0 / (np.asarray(result.sum_normalization, dtype=np.float64)[filled])
        sigma = np.where(np.asarray(result.sum_variance)[filled] > 0, sigma, one_count)
    return Frame(
        intensity=np.asarray(result.intensity, dtype=np.float64)[filled],
        sigma=sigma,
        geometry=CurveGeometry(np.asarray(result.radial, dtype=np.float64)[filled]),
        origin=frame.origin,
        bounds=frame.bounds,
    )


def _curve_with_errors(frame: Frame) -> tuple[CurveGeometry, FloatArray]:
    """Return the geometry and sigma of a frame that must be a curve with errors."""
    if not isinstance(frame.geometry, CurveGeometry):
        raise GeometryError(
            f"{frame.origin.label}: expected a curve to subtract; integrate() the frame first"
        )
    if frame.sigma is None:
        raise FrameError(
            f"{frame.origin.label}: sigma is missing, errors cannot be propagated; pass a curve with errors"
        )
    return frame.geometry, frame.sigma


def _common_points(q: FloatArray, other: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of points that two grids share: q equal to 1e-3 of the smaller step."""
    nearest = np.clip(np.searchsorted(other, q), 1, other.size - 1)
    nearest -= (q - other[nearest - 1]) < (other[nearest] - q)
    tolerance = 1e-3 * min(np.diff(q).min(), np.diff(other).min())
    shared = np.flatnonzero(np.abs(other[nearest] - q) <= tolerance)
    return shared, nearest[shared]


def _bool_mask(frame: Frame) -> NDArray[np.bool_]:
    """Return the frame's mask, all False where it has none."""
    return np.zeros(frame.intensity.shape, dtype=np.bool_) if frame.mask is None else frame.mask
