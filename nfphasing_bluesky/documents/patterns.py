"""2-D small-angle patterns from what documents and files say: q of the pixels, or a detector's geometry."""

from collections.abc import Collection, Mapping

import numpy as np

from nfphasing_bluesky.core import DetectorGeometry, GeometryError

Q_NAMES = ("qx_inv_angstrom", "qy_inv_angstrom")
PLAIN_Q_NAMES = ("qx", "qy")
CENTRE_NAMES = ("poni_m", "beam_center_px")
NUMBERS = ("contrast_inv_cm2", "q_relative_error", "absolute")
NAMES = (*Q_NAMES, *PLAIN_Q_NAMES, *CENTRE_NAMES, *NUMBERS, "rotations_rad", "sigma")
"""What only patterns have, beside `data`, `mask`, wavelength, distance and pixel size."""

_SIZES = {
    "wavelength_m": 1,
    "distance_m": 1,
    "pixel_size_m": 2,
    "poni_m": 2,
    "beam_center_px": 2,
    "rotations_rad": 3,
}


DETECTOR_NAMES = tuple(_SIZES)
"""What `detector_of` takes."""
_SAME_CENTRE_PX = 0.01


def holds_pattern(names: Collection[str]) -> bool:
    """Return whether things of these names are 2-D small-angle patterns."""
    return any(name in names for name in (*Q_NAMES, *PLAIN_Q_NAMES, *CENTRE_NAMES))


def detector_of(values: Mapping[str, object], where: str, advice: str) -> DetectorGeometry:
    """Make a detector's geometry of named numbers: SI units, and `beam_center_px` in place of `poni_m`.

    Args:
        values: as many as are known.
        where: what the error calls their source.
        advice: what it says to do.

    Raises:
        GeometryError: too little is known, two centres that are not one, or a value that cannot be.
    """
    found = {name: _row(values[name], name, size, where) for name, size in _SIZES.items() if name in values}
    missing = [name for name in ("wavelength_m", "distance_m", "pixel_size_m") if name not in found]
    if not any(name in found for name in CENTRE_NAMES):
        missing.append("poni_m or beam_center_px")
    if missing:
        raise GeometryError(f"{where}: no {', '.join(missing)}; {advice}")
    pixel = found["pixel_size_m"]
    centre = found.get("beam_center_px")
    poni = (
        found["poni_m"]
        if centre is None
        else tuple((c + 0.5) * p for c, p in zip(centre, pixel, strict=True))
    )
    other = found.get("poni_m", poni)
    if any(abs(a - b) > _SAME_CENTRE_PX * p for a, b, p in zip(poni, other, pixel, strict=True)):
        raise GeometryError(
            f"{where}: beam_center_px={list(centre or ())} and poni_m={list(other)} are two places, expected "
            "one; leave one out"
        )
    return DetectorGeometry(
        wavelength_m=found["wavelength_m"][0],
        distance_m=found["distance_m"][0],
        pixel_size_m=(pixel[0], pixel[1]),
        poni_m=(poni[0], poni[1]),
        rotations_rad=tuple(found.get("rotations_rad", (0.0, 0.0, 0.0))),  # type: ignore[arg-type]
    )


def _row(value: object, name: str, size: int, where: str) -> tuple[float, ...]:
    try:
        numbers = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise GeometryError(f"{where}: {name}={value!r}, expected {size} number(s)") from None
    if name == "pixel_size_m" and numbers.size == 1:
        numbers = np.repeat(numbers, 2)
    if numbers.size != size or not np.isfinite(numbers).all():
        raise GeometryError(f"{where}: {name}={numbers.tolist()}, expected {size} number(s)")
    return tuple(float(v) for v in numbers)
