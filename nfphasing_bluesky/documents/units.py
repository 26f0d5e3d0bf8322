"""Units as documents spell them, converted to the ones this package computes in."""

import re

from nfphasing_bluesky.core import GeometryError

_LENGTHS_M = {
    "m": 1.0,
    "cm": 1e-2,
    "mm": 1e-3,
    "um": 1e-6,
    "micron": 1e-6,
    "nm": 1e-9,
    "angstrom": 1e-10,
    "a": 1e-10,
    "pm": 1e-12,
}
_ANGLES_RAD = {"rad": 1.0, "mrad": 1e-3, "deg": 0.017453292519943295, "degree": 0.017453292519943295}
_PER_ANGSTROM = {"angstrom": 1.0, "a": 1.0, "nm": 0.1}
_PER_CM = {"cm": 1.0, "m": 1e-2, "mm": 10.0}


def _plain(units: str) -> str:
    text = units.strip().lower().replace("å", "angstrom").replace("\u212b", "angstrom")
    text = text.replace("µ", "u").replace("μ", "u").replace("**", "^").replace(" ", "")
    return text.replace("angstroms", "angstrom").replace("⁻¹", "^-1")


def inverse_angstrom(units: str | None, where: str) -> float:
    """Return the factor that takes momentum transfer in `units` to 1/angstrom.

    Raises:
        GeometryError: units are missing, or neither 1/angstrom nor 1/nm.
    """
    text = _plain(units or "")
    if text.startswith("1/"):
        length = text[2:]
    else:
        length = text.removesuffix("^-1").removesuffix("-1")
        length = length if length != text else ""
    factor = _PER_ANGSTROM.get(length.strip("()"))
    if factor is None:
        raise GeometryError(
            f"{where}: q has units {units!r}, expected '1/angstrom' or '1/nm'; "
            "set `units` in the data key of q, or `q_units` beside `q` in the start document"
        )
    return factor


def per_cm(units: str) -> float | None:
    """Return the factor that takes an absolute intensity in `units` to 1/cm; None for other units.

    Known are 1/cm, 1/m and 1/mm, with or without 1/sr, however they are spelt.
    """
    text = re.sub(r"[(){}]", "", _plain(units)).replace("\u2212", "-")
    text = re.sub(r"/?sr(\^?-1)?$", "", text)
    found = re.fullmatch(r"1/(\w+)|(\w+?)\^?-1", text)
    return None if found is None else _PER_CM.get(found[1] or found[2])


def metres(units: str | None, where: str) -> float:
    """Return the factor that takes a length in `units` to metres; GeometryError for unknown units."""
    return _factor(_LENGTHS_M, units, where, "a length")


def radians(units: str | None, where: str) -> float:
    """Return the factor that takes an angle in `units` to radians; GeometryError for unknown units."""
    return _factor(_ANGLES_RAD, units, where, "an angle")


def _factor(table: dict[str, float], units: str | None, where: str, what: str) -> float:
    text = _plain(units or "")
    factor = table.get(text, table.get(text.removesuffix("s")))
    if factor is None:
        raise GeometryError(f"{where}: units {units!r} are not {what}, expected one of {', '.join(table)}")
    return factor
