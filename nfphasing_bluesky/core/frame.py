"""Frame: what one exposure measured, with its geometry and where it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.errors import FrameError
from nfphasing_bluesky.core.geometry import (
    CurveGeometry,
    DetectorGeometry,
    FloatArray,
    Geometry,
    PlaneGeometry,
    PtychographyGeometry,
)
from nfphasing_bluesky.core.grazing_geometry import GrazingCutsGeometry


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
        geometry: CurveGeometry or GrazingCutsGeometry for (Q,), any other for (H, W).
        sigma: standard deviation of `intensity`, same shape; None where it was not measured.
        mask: same shape, True where a pixel or point must not be used; None for none.
        origin: provenance.
        neighbours: other frames of the scan that saw parts of the same object, for models that look at them.
        doubt: what is wrong with the measurement that it is of, in words; its posterior is then never VALID.
        bounds: what is known of the sample, for models that take it: parameter -> lowest and highest value.
        survey: what a model found of its part of a larger object in the whole scan; for that model alone.
        grows: whether the next frame of its run has all that this one has, and more.
    """

    intensity: FloatArray
    geometry: Geometry
    sigma: FloatArray | None = None
    mask: NDArray[np.bool_] | None = None
    origin: Origin = field(default_factory=Origin)
    neighbours: tuple["Frame", ...] = ()
    doubt: str = ""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    survey: object = None
    grows: bool = False

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
        if isinstance(self.geometry, GrazingCutsGeometry):
            return self.geometry.shape
        if intensity.ndim != 2:
            raise FrameError(f"{self.origin.label}: intensity has shape {intensity.shape}, expected (H, W)")
        if isinstance(self.geometry, PlaneGeometry):
            return self.geometry.shape
        made_for = self.geometry.shape if isinstance(self.geometry, DetectorGeometry) else None
        if made_for not in (None, intensity.shape):
            raise FrameError(
                f"{self.origin.label}: intensity has shape {intensity.shape}, expected {made_for}, that of "
                "the detector in its geometry: binned, cut out or of another detector; pass a "
                "geometry that was calibrated on such images"
            )
        return intensity.shape

    @property
    def usable(self) -> NDArray[np.bool_]:
        """True where a point is unmasked and finite and its sigma, when known, is finite and positive.

        Of counts, which have no sigma, negative whole numbers are a detector's marks of gaps and dead pixels.
        """
        good = np.isfinite(self.intensity)
        if self.mask is not None:
            good &= ~self.mask
        if self.sigma is not None:
            return good & np.isfinite(self.sigma) & (self.sigma > 0)
        return good & ((self.intensity >= 0) | (self.intensity != np.round(self.intensity)))

    @property
    def place(self) -> tuple[float, float] | None:
        """Row and column of pixel [0, 0] in a larger object's pixels; None where the frame is on its own."""
        return self.geometry.position_px if isinstance(self.geometry, PtychographyGeometry) else None

    @property
    def light(self) -> FloatArray | None:
        """(H, W) light on the pixels of a larger object, the brightest 1; None where all are lit.

        That of a near field does, with more and less between its speckles, and what it tells is not local.
        """
        geometry = self.geometry
        if isinstance(geometry, PtychographyGeometry) and geometry.fresnel_number is None:
            return geometry.light
        return None

    def masked(self, mask: NDArray[np.bool_]) -> "Frame":
        """Return the same frame without the pixels of a mask too. Raises FrameError for another shape."""
        if mask.shape != self.intensity.shape:
            raise FrameError(
                f"{self.origin.label}: mask {mask.shape} does not match frame {self.intensity.shape}; pass a "
                "mask of the frame's shape or check the ROI"
            )
        return replace(self, mask=mask if self.mask is None else mask | self.mask)

    def with_origin(self, **changes: object) -> "Frame":
        """Return the same frame with fields of its origin replaced."""
        return replace(self, origin=replace(self.origin, **changes))  # type: ignore[arg-type]


def refuse_bounds(frames: Sequence[Frame], model: str) -> None:
    """Raise FrameError for what is known of a sample where a model can't take it: it must not be lost."""
    for frame in frames:
        if frame.bounds:
            raise FrameError(
                f"{frame.origin.label}: bounds of {', '.join(frame.bounds)}, expected none for {model}, "
                "whose prior is fixed; leave them out"
            )
