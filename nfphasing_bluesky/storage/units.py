"""Units that files give for q, intensities and lengths."""

import re
from pathlib import Path

import numpy as np

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.documents.units import metres, per_cm

Q_LIMIT_INV_ANGSTROM = 1.0
"""Curves with no stated unit must end below this: beyond it they are more likely in 1/nm."""

_PER_NM = (
    r"1\s*/\s*nm\b|(?<![A-Za-z])nm\s*(?:\^|\*\*)?\s*\{?\s*[(]?[-\u2212]\s*1|"
    r"(?<![A-Za-z])nm\u207b\u00b9|\bper\s+nm\b|[Ii]nverse\s+nanomet"
)
_ANGSTROM = r"(?:\u00c5|\u212b|A(?![a-z])|[Aa]ng\b|[Aa]ngstr\w*)"
_PER_ANGSTROM = (
    rf"1\s*/\s*{_ANGSTROM}|(?<![a-z]){_ANGSTROM}\s*(?:\^|\*\*)?\s*\{{?\s*[(]?[-\u2212]\s*1|"
    rf"{_ANGSTROM}\u207b\u00b9|\bper\s+[Aa]ngstr|[Ii]nverse\s+[Aa]ngstr|\binvA\b"
)
_PER_METRE = r"(?:1\s*/\s*m|(?<![A-Za-z])m\s*(?:\^|\*\*)?\s*-\s*1)(?![a-z])"
_Q_UNITS = ((_PER_NM, 0.1), (_PER_ANGSTROM, 1.0), (_PER_METRE, 1e-10))

_PER_LENGTH = (
    r"1\s*/\s*\(?(?:cm|mm|m)\b|(?:cm|mm|m)\s*(?:\^|\*\*)?\s*[({]?[-\u2212]\s*1|(?:cm|mm|m)\u207b\u00b9"
)
_INTENSITY = re.compile(
    r"(?<![A-Za-z])(?:I(?:\s*\(\s*[qQ]\s*\)|_?[qQ])?|[Ii]ntensit(?:y|ies))[\s_,:=\[({]*(?:in\s+)?"
    rf"({_PER_LENGTH})"
)
UNKNOWN_SCALES = ("arbitrary", "counts")
"""Words for intensities that are not on an absolute scale."""

_CONTRAST = re.compile(
    r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(?:(e|1)?\s*/\s*(\w+?)\s*(?:\^|\*\*)?\s*([23])|"
    r"(e\s+)?([a-z\u00e5\u212b]+)\s*(?:\^|\*\*)?\s*-([23]))\s*",
    re.IGNORECASE,
)
_CM = {"cm": 1.0, "nm": 1e-7, "angstrom": 1e-8, "a": 1e-8, "\u00e5": 1e-8, "\u212b": 1e-8}


def q_scale(unit: str) -> float | None:
    """Return the factor from `unit` to 1/angstrom, or None when the text names no unit of q."""
    for pattern, scale in _Q_UNITS:
        if re.search(pattern, unit):
            return scale
    return None


def q_scale_from_header(lines: list[str]) -> float | None:
    """Return the factor to 1/angstrom from header text in which q is named with its unit, or None.

    Looked at is what directly follows a word `q` (`Q (1/nm)`, `q_A^-1`, `q [nm^-1]`).
    """
    units = "|".join(f"(?:{pattern})" for pattern, _ in _Q_UNITS)
    named = re.compile(
        rf"(?<![A-Za-z])[Qq](?:[Mm]od|[Vv]ec|-?[Vv]alues?|_?[Zz])?[\s_,:=\[\](){{}}]*(?:in\s+)?({units})"
    )
    for line in lines:
        found = named.search(line)
        if found:
            return q_scale(found.group(1))
    return None


_ANGLE = re.compile(
    r"\W*((?:2|two)[-_ ]?th(?:eta)?|tth|2[\u03b8\u0398]|theta|[\u03b8\u0398])(?![A-Za-z])(?!\s*[:=])",
    re.IGNORECASE,
)


def heads_an_angle(heading: str, columns: int) -> str | None:
    """Return what a heading of so many columns calls the first one, where that is an angle; else None."""
    found = _ANGLE.match(heading)
    words = [word for word in re.split(r"[\s,;#|]+", heading) if word]
    return found.group(1) if found and columns <= len(words) <= 2 * columns else None


def q_scale_of_units(header: list[str]) -> float | None:
    """Return the factor to 1/angstrom from the last line of a header that begins with a unit of q, or None.

    It is for tables whose units stand in a line of their own, below the names of the columns.
    """
    return next((scale for cells in map(_cells, reversed(header)) if (scale := _is_q_unit(cells[0]))), None)


def _cells(line: str) -> list[str]:
    """Return what stands in a line of a header, without brackets, however it is separated."""
    parts = re.split(r"[,;|\t]|\s+(?![-\u2212]\s*1)", line.strip("#!%/\"' \t"))
    return [part.strip("[](){} ") for part in parts]


def _is_q_unit(cell: str) -> float | None:
    """Return the factor to 1/angstrom where a cell is a unit of q and nothing else."""
    whole = (scale for pattern, scale in _Q_UNITS if re.fullmatch(f"(?:{pattern})1?[)}}]*", cell))
    return next(whole, None)


def required_q_scale(unit: str, path: Path, where: str) -> float:
    """Return the factor from `unit` to 1/angstrom.

    Raises:
        GeometryError: it is no unit of q.
    """
    scale = q_scale(unit)
    if scale is None:
        raise GeometryError(
            f"{path}: {where} gives q in {unit!r}, expected 1/angstrom or 1/nm; "
            "pass q_unit='1/angstrom' or '1/nm'"
        )
    return scale


def assumed_q_scale(q: FloatArray, path: Path) -> float:
    """Take q with no stated unit to be in 1/angstrom, provided that this is plausible.

    Raises:
        GeometryError: q goes beyond `Q_LIMIT_INV_ANGSTROM`, where small-angle curves in 1/angstrom have long
            ended and curves in 1/nm have not: guessing wrong would make every length ten times too large or
            small.
    """
    largest = float(np.nanmax(q))
    if largest > Q_LIMIT_INV_ANGSTROM:
        raise GeometryError(
            f"{path}: q reaches {largest:.4g} and the file names no unit; in 1/angstrom that is no "
            f"small-angle curve (expected at most {Q_LIMIT_INV_ANGSTROM:g}); pass q_unit='1/nm', "
            "'two_theta_degree' or 'theta_degree' with wavelength_angstrom= where they are angles, or "
            "'1/angstrom' to insist"
        )
    return 1.0


def per_cm_from_header(header: list[str]) -> float | None:
    """Return the factor to 1/cm from header text in which the intensity has such a unit, or None.

    It directly follows the intensity's name (`I(q) [cm^-1]`), or stands in a line of units, behind that of q.
    """
    for line in header:
        if found := _INTENSITY.search(line):
            return per_cm(found.group(1))
    cells = next((cells for cells in map(_cells, reversed(header)) if _is_q_unit(cells[0])), [])
    return next((factor for factor in map(per_cm, cells[1:]) if factor is not None), None)


def stated_scale(unit: str, path: Path) -> float | None:
    """Return the factor to 1/cm of intensities in `unit`, None where they have no absolute scale.

    Raises:
        GeometryError: it is neither.
    """
    factor = per_cm(unit)
    if factor is None and unit not in UNKNOWN_SCALES:
        raise GeometryError(
            f"{path}: intensity_unit={unit!r}, expected 1/cm, 1/m, 1/mm or arbitrary; pass "
            "intensity_unit='1/cm' for intensities on an absolute scale"
        )
    return factor


def require_scale(absolute: bool, contrast_inv_cm2: float | None, path: Path) -> None:
    """Raise GeometryError where there is a contrast, and nothing says that intensities are absolute."""
    if contrast_inv_cm2 is not None and not absolute:
        raise GeometryError(
            f"{path}: a contrast ({contrast_inv_cm2:.4g} 1/cm^2) for intensities of unknown scale, expected "
            "an absolute one; if they are in 1/cm, pass intensity_unit='1/cm', else leave the contrast out"
        )


def contrast_inv_cm2(text: str) -> float:
    """Return a contrast, a number with its unit, as a scattering-length density in 1/cm^2.

    Its unit is that of a scattering-length density (`9.4e10 1/cm^2`, `9.4e-6/angstrom^2`) or of an electron
    density (`0.33 e/angstrom^3`, `330 e/nm^3`), which is multiplied by the classical electron radius.

    Raises:
        GeometryError: it is no such thing.
    """
    found = _CONTRAST.fullmatch(text)
    if found:
        number, over, length, power, of_electrons, other, minus = found.groups()
        electrons = (over or of_electrons or "").strip().lower() == "e"
        size = _CM.get((length or other).lower())
        if size is not None and int(power or minus) == (3 if electrons else 2):
            return float(number) * (ELECTRON_RADIUS_ANGSTROM * 1e-8 / size**3 if electrons else size**-2)
    raise GeometryError(
        f"contrast {text!r}, expected a number with its unit, 1/cm^2, 1/angstrom^2, e/angstrom^3 or "
        "e/nm^3, as '9.4e10 1/cm^2' or '0.33 e/angstrom^3'"
    )


ANGLES = {"two_theta_degree": 0.5, "theta_degree": 1.0}
"""Names of units of q that are angles, and how much of each is the angle of incidence."""


def q_of_degrees(angle: FloatArray, unit: str, wavelength_angstrom: float | None, path: Path) -> FloatArray:
    """Return q, 1/angstrom, of a column of angles.

    Raises:
        GeometryError: there is no wavelength, or it is not a positive number.
    """
    if wavelength_angstrom is None or not 0 < wavelength_angstrom < np.inf:
        raise GeometryError(
            f"{path}: angles ({unit}) with wavelength_angstrom={wavelength_angstrom!r}, expected a positive "
            "number; pass wavelength_angstrom=1.5406 for Cu K alpha 1"
        )
    incidence = np.radians(ANGLES[unit] * angle)
    return 4 * np.pi / wavelength_angstrom * np.sin(incidence)


def length_m(value: float, unit: str) -> float | None:
    """Return a length in metres, or None when its unit is missing or not known."""
    try:
        return value * metres(unit, "length")
    except GeometryError:
        return None
