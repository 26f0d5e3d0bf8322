"""Geometries: what a frame's points or pixels mean."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.errors import GeometryError
from nfphasing_bluesky.core.grazing_geometry import (
    DISTANCES_M,
    PIXELS_M,
    WAVELENGTHS_M,
    GrazingCutsGeometry,
    GrazingGeometry,
    check_length,
)

FloatArray = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class CurveGeometry:
    """Geometry of a reduced 1-D curve.

    Args:
        q_inv_angstrom: (Q,) momentum transfer 4 pi sin(theta)/lambda, strictly increasing, 1/angstrom.
        dq_inv_angstrom: (Q,) standard deviation of the instrumental resolution, 1/angstrom, or None.
        absolute: True when intensities are on an absolute scale, 1/cm.
        contrast_inv_cm2: scattering-length-density contrast of particle to solvent, 1/cm^2, or None.
        q_relative_error: standard deviation of the common relative error of q (wavelength, distance).
    """

    q_inv_angstrom: FloatArray
    dq_inv_angstrom: FloatArray | None = None
    absolute: bool = False
    contrast_inv_cm2: float | None = None
    q_relative_error: float = 0.0

    def __post_init__(self) -> None:
        q = np.asarray(self.q_inv_angstrom, dtype=np.float64)
        if q.ndim != 1 or q.size < 2:
            raise GeometryError(f"q has shape {q.shape}, expected (Q,), Q >= 2; pass one curve per frame")
        wrong = ~(np.isfinite(q) & (q >= 0))
        if wrong.any():
            i = int(np.argmax(wrong))
            raise GeometryError(
                f"{int(wrong.sum())} of {q.size} q are negative, infinite or NaN, the first q[{i}]={q[i]:.6g}"
                ", expected finite q >= 0, 1/angstrom; leave those points out"
            )
        step = np.diff(q)
        if np.any(step <= 0):
            i = int(np.argmax(step <= 0))
            raise GeometryError(
                f"q is not increasing: q[{i}]={q[i]:.6g}, then q[{i + 1}]={q[i + 1]:.6g} 1/angstrom, "
                "expected strictly increasing q; sort the curve and merge repeated points"
            )
        object.__setattr__(self, "q_inv_angstrom", q)
        if self.dq_inv_angstrom is not None:
            dq = np.asarray(self.dq_inv_angstrom, dtype=np.float64)
            if dq.shape != q.shape:
                raise GeometryError(f"dq has shape {dq.shape}, expected that of q, {q.shape}")
            object.__setattr__(self, "dq_inv_angstrom", dq)
        _check_contrast(self.contrast_inv_cm2, self.q_relative_error)


def _check_contrast(contrast_inv_cm2: object, q_relative_error: object) -> None:
    """Raise GeometryError for a contrast that is none, or an error of q that can't be."""
    if contrast_inv_cm2 is not None and not (_finite(contrast_inv_cm2) and contrast_inv_cm2 != 0):
        raise GeometryError(
            f"contrast_inv_cm2={contrast_inv_cm2!r}, expected a number that is not 0, 1/cm^2, or None"
        )
    if not (_finite(q_relative_error) and q_relative_error >= 0):  # type: ignore[operator]
        raise GeometryError(f"q_relative_error={q_relative_error!r}, expected 0 or a positive number")


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False


@dataclass(frozen=True)
class DetectorGeometry:
    """Geometry of a 2-D detector in transmission, pyFAI's PONI without tilts by default.

    Args:
        wavelength_m: X-ray wavelength, m.
        distance_m: sample to point of normal incidence, m.
        pixel_size_m: (row, column) pixel size, m.
        poni_m: (row, column) of the point of normal incidence from the outer corner of pixel [0, 0], m.
        rotations_rad: pyFAI's rot1, rot2, rot3, rad.
        shape: (H, W) of the detector that it was calibrated for, or None.
    """

    wavelength_m: float
    distance_m: float
    pixel_size_m: tuple[float, float]
    poni_m: tuple[float, float]
    rotations_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_length("wavelength_m", self.wavelength_m, [self.wavelength_m], WAVELENGTHS_M)
        check_length("distance_m", self.distance_m, [self.distance_m], DISTANCES_M)
        check_length("pixel_size_m", self.pixel_size_m, self.pixel_size_m, PIXELS_M)
        if not np.isfinite([*self.poni_m, *self.rotations_rad]).all():
            raise GeometryError(
                f"poni_m={self.poni_m!r}, rotations_rad={self.rotations_rad!r}, expected finite numbers"
            )


class EffectiveBeam(NamedTuple):
    """The parallel beam equivalent to a cone beam: magnification, pixel and distance, m."""

    magnification: Any
    pixel_m: Any
    distance_m: Any


def fresnel_number(pixel_m: Any, wavelength_m: Any, distance_m: Any) -> Any:
    """Fr = dx^2 / (lambda z), of numbers or arrays, m."""
    return pixel_m * pixel_m / (wavelength_m * distance_m)


def effective_beam(focus_sample_m: Any, sample_detector_m: Any, detector_pixel_m: Any) -> EffectiveBeam:
    """Fresnel scaling theorem: M = (z01 + z12) / z01, dx = dp / M, z = z12 / M (Paganin 2006, app. B)."""
    magnification = (focus_sample_m + sample_detector_m) / focus_sample_m
    return EffectiveBeam(magnification, detector_pixel_m / magnification, sample_detector_m / magnification)


@dataclass(frozen=True)
class HologramGeometry:
    """Geometry of a near-field hologram of an object in a plane wave; a cone beam after Fresnel scaling.

    The frame is normalised: 1 where nothing is in the beam, and nothing is in the beam beyond its edges.

    Args:
        fresnel_number: pixel Fresnel number dx^2 / (lambda z) of the effective pixel and distance.
        beta_over_delta: of the object's material; 0 for one that only shifts the phase.
        pixel_size_m: effective pixel, m, or None.
        wavelength_m: X-ray wavelength, m, or None: with it u is a projected electron density.
        photons: counts per pixel of an empty image, from which sigma follows where the frame has none.
    """

    fresnel_number: float
    beta_over_delta: float = 0.0
    pixel_size_m: float | None = None
    wavelength_m: float | None = None
    photons: float | None = None

    def __post_init__(self) -> None:
        for name in ("fresnel_number", "pixel_size_m", "wavelength_m", "photons"):
            value = getattr(self, name)
            if not (value is None or (np.isfinite(value) and value > 0)):
                raise GeometryError(f"{name}={value!r}, expected a positive number; check its sign and unit")
        if not (np.isfinite(self.beta_over_delta) and self.beta_over_delta >= 0):
            raise GeometryError(
                f"beta_over_delta={self.beta_over_delta!r}, expected 0 (pure phase) or a positive ratio"
            )


@dataclass(frozen=True, eq=False)
class PtychographyGeometry:
    """Geometry of one frame of a ptychographic scan with a known probe.

    The frame shows |D(probe transmission)|^2 summed over the probe's modes, D the unitary Fourier transform,
    or Fresnel propagation where a Fresnel number is given, over a background.

    Args:
        probe: (P, H, W) complex modes at the sample, photons^(1/2) per pixel; one array serves a whole scan.
        position_px: row and column of the frame's pixel [0, 0] in the object's pixels.
        fresnel_number: pixel Fresnel number of the near field; None in the far field.
        centred: the direct beam of a far-field frame is at [H // 2, W // 2], else at [0, 0].
        pixel_size_m: of the object, m, or None.
        wavelength_m: X-ray wavelength, m, or None.
        background: (H, W) photons in every frame that never saw the object; None where none is known.
    """

    probe: NDArray[np.complexfloating]
    position_px: tuple[float, float]
    fresnel_number: float | None = None
    centred: bool = True
    pixel_size_m: float | None = None
    wavelength_m: float | None = None
    background: FloatArray | None = None

    def __post_init__(self) -> None:
        probe = np.asarray(self.probe)
        if probe.ndim == 2:
            probe = probe[None]
        if probe.ndim != 3 or probe.dtype.kind != "c":
            raise GeometryError(
                f"probe is {probe.dtype} {probe.shape}, expected complex (H, W) or (P, H, W), P modes"
            )
        if not np.isfinite(probe).all() or not np.abs(probe).max() > 0:
            raise GeometryError("probe is not finite, or dark everywhere; reconstruct or load it again")
        if len(self.position_px) != 2 or not np.isfinite(self.position_px).all():
            raise GeometryError(
                f"position_px={self.position_px!r}, expected row and column in pixels of the object"
            )
        for name in ("fresnel_number", "pixel_size_m", "wavelength_m"):
            value = getattr(self, name)
            if not (value is None or (np.isfinite(value) and value > 0)):
                raise GeometryError(f"{name}={value!r}, expected a positive number; check its sign and unit")
        object.__setattr__(self, "probe", probe)
        if self.background is not None:
            object.__setattr__(
                self, "background", self._checked(np.asarray(self.background), probe.shape[1:])
            )

    @staticmethod
    def _checked(background: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        if background.shape != shape or not np.isfinite(background).all() or (background < 0).any():
            raise GeometryError(
                f"background is {background.dtype} {background.shape} from {background.min():.4g} to "
                f"{background.max():.4g}, expected photons {shape}, finite and not negative"
            )
        return background

    @property
    def light(self) -> FloatArray:
        """(H, W) photons on each pixel of the sample over those on the brightest."""
        photons = np.square(self.probe.real).sum(0) + np.square(self.probe.imag).sum(0)
        return photons / photons.max()


@dataclass(frozen=True, eq=False)
class PlaneGeometry:
    """Geometry of a 2-D small-angle pattern of known q: of a detector after calibration, or reduced.

    Args:
        qx_inv_angstrom: (W,) along a row, or (H, W) of every pixel, 1/angstrom.
        qy_inv_angstrom: (H,) along a column, or (H, W), 1/angstrom.
        absolute: True when intensities are on an absolute scale, 1/cm.
        contrast_inv_cm2: scattering-length-density contrast of particle to solvent, 1/cm^2, or None.
        q_relative_error: standard deviation of the common relative error of q (wavelength, distance).
        coherent_scale: of a coherent pattern, intensity of a pixel over |FFT u|^2 with u at most 1, or None.
    """

    qx_inv_angstrom: FloatArray
    qy_inv_angstrom: FloatArray
    absolute: bool = False
    contrast_inv_cm2: float | None = None
    q_relative_error: float = 0.0
    coherent_scale: float | None = None

    def __post_init__(self) -> None:
        qx, qy = (np.asarray(q, dtype=np.float64) for q in (self.qx_inv_angstrom, self.qy_inv_angstrom))
        if (qx.ndim, qy.ndim) not in ((1, 1), (2, 2)) or (qx.ndim == 2 and qx.shape != qy.shape):
            raise GeometryError(
                f"qx has shape {qx.shape} and qy {qy.shape}, expected axes (W,) and (H,), or (H, W) both"
            )
        if not (np.isfinite(qx).all() and np.isfinite(qy).all()):
            raise GeometryError("qx or qy holds NaN or infinite values, expected finite q, 1/angstrom")
        _check_contrast(self.contrast_inv_cm2, self.q_relative_error)
        scale = self.coherent_scale
        if scale is not None and not (np.isfinite(scale) and scale > 0):
            raise GeometryError(f"coherent_scale={scale!r}, expected a positive number, or None")
        object.__setattr__(self, "qx_inv_angstrom", qx)
        object.__setattr__(self, "qy_inv_angstrom", qy)

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) of the frame."""
        if self.qx_inv_angstrom.ndim == 2:
            return self.qx_inv_angstrom.shape
        return (self.qy_inv_angstrom.size, self.qx_inv_angstrom.size)

    def maps(self) -> tuple[FloatArray, FloatArray]:
        """(H, W) qx and qy of every pixel, 1/angstrom."""
        if self.qx_inv_angstrom.ndim == 2:
            return self.qx_inv_angstrom, self.qy_inv_angstrom
        qx, qy = np.meshgrid(self.qx_inv_angstrom, self.qy_inv_angstrom)
        return qx, qy


def plane_of(geometry: DetectorGeometry, shape: tuple[int, int]) -> PlaneGeometry:
    """Give the q of the pixels of a detector; without tilts qx grows with the column, qy with the row.

    The azimuth from qx to qy is pyFAI's chi, q its q: a pixel is turned by rot1, rot2, rot3 about the sample
    (Kieffer et al., J. Synchrotron Rad. 27, 558 (2020), eq. 1).

    Args:
        geometry: of the detector.
        shape: (H, W) of its frames.
    """
    y, x = (
        (np.arange(n) + 0.5) * pixel - poni
        for n, pixel, poni in zip(shape, geometry.pixel_size_m, geometry.poni_m, strict=True)
    )
    x, y = np.meshgrid(x, y)
    place = np.stack([y, x, np.full_like(x, geometry.distance_m)])
    y, x, z = np.tensordot(_turned(geometry.rotations_rad), place, 1)
    r = np.hypot(x, y)
    q = 4e-10 * np.pi / geometry.wavelength_m * np.sin(0.5 * np.arctan2(r, z))
    along = q / np.where(r > 0, r, 1.0)
    return PlaneGeometry(along * x, along * y)


def _turned(rotations_rad: tuple[float, float, float]) -> FloatArray:
    """(3, 3) rotation of (row, column, beam), R3 R2 R1 of pyFAI, where rot1 and rot2 turn backwards."""
    (c1, c2, c3), (s1, s2, s3) = np.cos(rotations_rad), np.sin(rotations_rad)
    first = np.array([[1, 0, 0], [0, c1, s1], [0, -s1, c1]])
    second = np.array([[c2, 0, -s2], [0, 1, 0], [s2, 0, c2]])
    third = np.array([[c3, -s3, 0], [s3, c3, 0], [0, 0, 1]])
    turned: FloatArray = third @ second @ first
    return turned


Geometry = (
    CurveGeometry
    | DetectorGeometry
    | HologramGeometry
    | PtychographyGeometry
    | PlaneGeometry
    | GrazingGeometry
    | GrazingCutsGeometry
)
