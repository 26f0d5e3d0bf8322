"""Geometry of frames in grazing incidence: a detector's, the incidence angle, and where to cut.

Said as numbers by name, in the start document (`nfphasing={"geometry": {...}}`) or on the command line,
beside what says the detector's: `incidence_degree` or `incidence_rad`; and, where these are not as usual,
`normal_rad`, `rows_up` (1 where row 0 is the lowest), `exit_degree` (lowest and highest exit angle of the
in-plane cut), `q_y_inv_angstrom` (lowest and highest |q_y| of the out-of-plane cut).
"""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from nfphasing_bluesky.core import DetectorGeometry, GeometryError, GrazingGeometry

ANGLES = ("incidence_rad", "incidence_degree")
_SIZES = {"normal_rad": 1, "rows_up": 1, "exit_degree": 2, "q_y_inv_angstrom": 2} | dict.fromkeys(ANGLES, 1)

NAMES = tuple(_SIZES)
"""What a surface has beside its detector."""


def is_grazing(said: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether what is said of a geometry has an incidence angle."""
    return isinstance(said, Mapping) and any(name in said for name in ANGLES)


def of_the_detector(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the detector alone."""
    return {name: value for name, value in said.items() if name not in _SIZES}


def grazing_geometry(said: Mapping[str, Any], detector: DetectorGeometry, where: str) -> GrazingGeometry:
    """Put incidence angle and cuts to a detector.

    Args:
        said: numbers by name; those of the detector are left alone.
        detector: without tilts.
        where: what errors call the source.

    Raises:
        GeometryError: two angles, a tilted detector, or a value that cannot be.
    """
    found = {name: _numbers(name, said[name], where) for name in _SIZES if name in said}
    angles = [name for name in ANGLES if name in found]
    if len(angles) != 1:
        raise GeometryError(f"{where} has {' and '.join(angles) or 'no incidence angle'}, expected one angle")
    if any(detector.rotations_rad):
        raise GeometryError(
            f"{where}: the detector is turned by {detector.rotations_rad}, expected one upright to the beam, "
            "or tilted up by normal_rad; correct the frames, or leave the rotations out"
        )
    (incidence,) = found[angles[0]]
    exits = found.get("exit_degree")
    across = found.get("q_y_inv_angstrom")
    row, column = (p / size for p, size in zip(detector.poni_m, detector.pixel_size_m, strict=True))
    return GrazingGeometry(
        detector.wavelength_m,
        detector.distance_m,
        detector.pixel_size_m,
        (row, column),
        math.radians(incidence) if angles[0] == "incidence_degree" else incidence,
        normal_rad=found.get("normal_rad", (0.0,))[0],
        rows_up=bool(found.get("rows_up", (0.0,))[0]),
        exit_rad=None if exits is None else (math.radians(exits[0]), math.radians(exits[1])),
        q_y_inv_angstrom=None if across is None else (across[0], across[1]),
    )


def _numbers(name: str, value: object, where: str) -> tuple[float, ...]:
    try:
        numbers = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.size != _SIZES[name] or not np.isfinite(numbers).all():
        raise GeometryError(f"{where}: {name}={value!r}, expected {_SIZES[name]} number(s)")
    return tuple(float(v) for v in numbers)
