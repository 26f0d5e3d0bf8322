"""Geometries of grazing incidence: of a detector behind a surface, and of the two cuts through its frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.errors import GeometryError

FloatArray = NDArray[np.floating]
STEEPEST_RAD = np.radians(10.0)
"""Largest incidence angle that counts as grazing."""


WAVELENGTHS_M = (1e-12, 1e-8)
DISTANCES_M = (1e-3, 300.0)
PIXELS_M = (1e-7, 1e-2)
"""Lengths that a beam, a sample's distance and a detector may have; others are in another unit."""


def check_length(name: str, value: object, lengths: Sequence[float], range_m: tuple[float, float]) -> None:
    """Raise GeometryError for lengths that are not positive, or hardly in metres: errors name `value`."""
    low, high = range_m
    if not all(np.isfinite(length) and length > 0 for length in lengths):
        raise GeometryError(f"{name}={value!r}, expected positive lengths in metres")
    wrong = next((length for length in lengths if not low <= length <= high), None)
    if wrong is None:
        return
    units = (("angstrom", 1e-10), ("nm", 1e-9)) if high < PIXELS_M[0] else (("um", 1e-6), ("mm", 1e-3))
    meant = [f"{wrong:g} {unit} are {wrong * f:g} m" for unit, f in units if low <= wrong * f <= high]
    raise GeometryError(
        f"{name}={value!r}, expected {low:g} to {high:g} m: give it in metres"
        + (f"; {' or '.join(meant)}" if meant else "")
    )


def check_incidence(incidence_rad: float) -> None:
    """Raise GeometryError for an angle at which a beam does not graze a surface."""
    if not (np.isfinite(incidence_rad) and 0 < incidence_rad < STEEPEST_RAD):
        raise GeometryError(
            f"incidence_rad={incidence_rad!r}, expected above 0 and below {STEEPEST_RAD:.3g}: a beam along "
            "the surface lights nothing; give the angle between beam and surface, in radians"
        )


@dataclass(frozen=True)
class GrazingGeometry:
    """Geometry of frames of a flat detector behind a surface in grazing incidence.

    The surface's normal points up in the frame: along falling rows as images are stored, or along rising
    ones.

    Args:
        wavelength_m: X-ray wavelength, m.
        distance_m: from the sample along the detector's normal, m.
        pixel_size_m: (row, column) pixel size, m.
        beam_px: (row, column) where the normal through the sample meets the detector, in pixels from the
            outer corner of pixel [0, 0]: the direct beam, for a detector upright to it.
        incidence_rad: angle between beam and surface, rad.
        normal_rad: angle of the detector's normal over the direct beam, rad.
        rows_up: whether rows are counted from below; images have row 0 on top.
        exit_rad: lowest and highest exit angle of the in-plane cut, rad; None for a choice of the program's.
        q_y_inv_angstrom: lowest and highest |q_y| of the out-of-plane cut, 1/angstrom; None as before.
    """

    wavelength_m: float
    distance_m: float
    pixel_size_m: tuple[float, float]
    beam_px: tuple[float, float]
    incidence_rad: float
    normal_rad: float = 0.0
    rows_up: bool = False
    exit_rad: tuple[float, float] | None = None
    q_y_inv_angstrom: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_length("wavelength_m", self.wavelength_m, [self.wavelength_m], WAVELENGTHS_M)
        check_length("distance_m", self.distance_m, [self.distance_m], DISTANCES_M)
        check_length("pixel_size_m", self.pixel_size_m, self.pixel_size_m, PIXELS_M)
        if not np.isfinite([*self.beam_px, self.normal_rad]).all():
            raise GeometryError(
                f"beam_px={self.beam_px!r}, normal_rad={self.normal_rad!r}, expected finite numbers"
            )
        check_incidence(self.incidence_rad)
        for name in ("exit_rad", "q_y_inv_angstrom"):
            band = getattr(self, name)
            if band is not None and not 0 <= band[0] < band[1]:
                raise GeometryError(f"{name}={band!r}, expected two numbers from 0, the lower one first")


@dataclass(frozen=True, eq=False)
class GrazingCutsGeometry:
    """Geometry of two cuts through a frame in grazing incidence, one behind the other: (Q,) points.

    The in-plane cut follows |q_y| at exit angles within `exit_band_rad`; the out-of-plane cut, behind it,
    follows the exit angle at |q_y| within `q_y_band_inv_angstrom`. Values are means over the bands.

    Args:
        q_y_inv_angstrom: (Q1,) of the in-plane cut, strictly increasing, at least 0, 1/angstrom.
        exit_rad: (Q2,) of the out-of-plane cut, strictly increasing, above 0, rad.
        exit_band_rad: lowest and highest exit angle of the in-plane cut, rad.
        q_y_band_inv_angstrom: lowest and highest |q_y| of the out-of-plane cut, 1/angstrom.
        wavelength_m: X-ray wavelength, m.
        incidence_rad: angle between beam and surface, rad.
    """

    q_y_inv_angstrom: FloatArray
    exit_rad: FloatArray
    exit_band_rad: tuple[float, float]
    q_y_band_inv_angstrom: tuple[float, float]
    wavelength_m: float
    incidence_rad: float

    def __post_init__(self) -> None:
        check_incidence(self.incidence_rad)
        check_length("wavelength_m", self.wavelength_m, [self.wavelength_m], WAVELENGTHS_M)
        for name in ("q_y_inv_angstrom", "exit_rad"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all() or values[0] < 0:
                raise GeometryError(
                    f"{name} has shape {values.shape}, expected (Q,) of at least 2 finite values from 0 up"
                )
            if np.any(np.diff(values) <= 0):
                raise GeometryError(f"{name} is not increasing; sort the cut and merge repeated points")
            object.__setattr__(self, name, values)
        for name in ("exit_band_rad", "q_y_band_inv_angstrom"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise GeometryError(f"{name}={(low, high)!r}, expected two numbers from 0, the lower first")

    @property
    def shape(self) -> tuple[int]:
        """(Q,) of the frame: both cuts."""
        return (self.q_y_inv_angstrom.size + self.exit_rad.size,)

    @property
    def in_plane(self) -> int:
        """Q1, points of the first cut."""
        return self.q_y_inv_angstrom.size

    @property
    def q_z_inv_angstrom(self) -> FloatArray:
        """(Q2,) q_z of the vacuum along the out-of-plane cut, k (sin(incidence) + sin(exit)), 1/angstrom."""
        k = 2e-10 * np.pi / self.wavelength_m
        q_z: FloatArray = k * (np.sin(self.incidence_rad) + np.sin(self.exit_rad))
        return q_z

    @property
    def q_inv_angstrom(self) -> FloatArray:
        """(Q,) q_y of the first cut, then q_z of the second, 1/angstrom."""
        return np.concatenate([self.q_y_inv_angstrom, self.q_z_inv_angstrom])
