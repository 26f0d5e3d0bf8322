"""Frame: what one exposure measured, with its geometry and where it came from."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.errors import FrameError, GeometryError

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
        if not np.all(np.isfinite(q)) or q[0] < 0:
            raise GeometryError(
                "q holds NaN, infinite or negative values, expected finite q >= 0, 1/angstrom"
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


@dataclass(frozen=True)
class DetectorGeometry:
    """Geometry of a 2-D detector in transmission, pyFAI's PONI without tilts by default.

    Args:
        wavelength_m: X-ray wavelength, m.
        distance_m: sample to point of normal incidence, m.
        pixel_size_m: (row, column) pixel size, m.
        poni_m: (row, column) of the point of normal incidence from the outer corner of pixel [0, 0], m.
        rotations_rad: pyFAI's rot1, rot2, rot3, rad.
    """

    wavelength_m: float
    distance_m: float
    pixel_size_m: tuple[float, float]
    poni_m: tuple[float, float]
    rotations_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("wavelength_m", "distance_m"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise GeometryError(f"{name}={value!r}, expected a positive length in metres")
        if not all(np.isfinite(p) and p > 0 for p in self.pixel_size_m):
            raise GeometryError(f"pixel_size_m={self.pixel_size_m!r}, expected two positive lengths, m")


Geometry = CurveGeometry | DetectorGeometry


@dataclass(frozen=True)
class Origin:
    """Where a frame came from. `label` is what messages call it: a file name or data key."""

    label: str = "frame"
    raw_uid: str = ""
    stream: str = ""
    data_key: str = ""
    seq_num: int = 0
    time: float = 0.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One measured pattern.

    Args:
        intensity: (Q,) or (H, W), counts or reduced intensity, linear.
        geometry: CurveGeometry for (Q,), DetectorGeometry for (H, W).
        sigma: standard deviation of `intensity`, same shape; None where it was not measured.
        mask: same shape, True where a pixel or point must not be used; None for none.
        origin: provenance.
    """

    intensity: FloatArray
    geometry: Geometry
    sigma: FloatArray | None = None
    mask: NDArray[np.bool_] | None = None
    origin: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        intensity = np.asarray(self.intensity)
        if intensity.dtype.kind not in "fiu":
            raise FrameError(f"{self.origin.label}: intensity has dtype {intensity.dtype}, expected numbers")
        expected = self._expected_shape(intensity)
        if intensity.shape != expected:
            raise FrameError(
                f"{self.origin.label}: intensity has shape {intensity.shape}, expected {expected} "
                "from its geometry; check the data key or the ROI"
            )
        object.__setattr__(self, "intensity", intensity.astype(np.float64, copy=False))
        for name, dtype in (("sigma", np.float64), ("mask", np.bool_)):
            value = getattr(self, name)
            if value is None:
                continue
            value = np.asarray(value, dtype=dtype)
            if value.shape != intensity.shape:
                raise FrameError(
                    f"{self.origin.label}: {name} {value.shape} does not match frame {intensity.shape}; "
                    f"pass a {name} of the frame's shape"
                )
            object.__setattr__(self, name, value)

    def _expected_shape(self, intensity: np.ndarray) -> tuple[int, ...]:
        if isinstance(self.geometry, CurveGeometry):
            return self.geometry.q_inv_angstrom.shape
        if intensity.ndim != 2:
            raise FrameError(f"{self.origin.label}: intensity has shape {intensity.shape}, expected (H, W)")
        return intensity.shape

    @property
    def usable(self) -> NDArray[np.bool_]:
        """True where a point is unmasked and finite and its sigma, when known, is finite and positive."""
        good = np.isfinite(self.intensity)
        if self.mask is not None:
            good &= ~self.mask
        if self.sigma is not None:
            good &= np.isfinite(self.sigma) & (self.sigma > 0)
        return good

    def with_origin(self, **changes: object) -> "Frame":
        """Return the same frame with fields of its origin replaced."""
        return replace(self, origin=replace(self.origin, **changes))  # type: ignore[arg-type]
