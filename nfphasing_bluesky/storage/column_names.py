"""What the header of a text table calls its columns: q, I, sigma and dq, in whatever order."""

import re
from collections.abc import Sequence
from pathlib import Path

from nfphasing_bluesky.core import GeometryError

_Q = r"q([_ ]?(mod|vec|z|values?))?"
_INTENSITY = r"i|int|intensity|intensities|i_?\(?q\)?|counts"
_ERROR = r"sig(ma)?|err(or)?s?|std|s|d|e|uncertainty|idev|stdev|std[._ ]*dev[.]?"
_SIGMA = (
    rf"{_ERROR}|(sig(ma)?|delta|err(or)?|std|std[._ ]*dev[.]?|d|s|e)[_ ]?\(?({_INTENSITY})\)?|"
    rf"({_INTENSITY})[_ ](sig(ma)?|err(or)?|std|dev)"
)
_DQ = r"(sig(ma)?|delta|err(or)?|std|d|res(olution)?)[_ ]?\(?q\)?|q[_ ]?(dev|sig(ma)?|err(or)?|res(olution)?)"
_ROLES = {"q": _Q, "intensity": _INTENSITY, "sigma": _SIGMA, "dq": _DQ}
_UNIT = r"[\[({][^\])}]*[\])}]|(_|_?1/)(nm|a|å|\u212b|ang\w*|cm)\^?-?1?$"
_MARKS = "#!%/\"' \t"


def named_columns(header: Sequence[str], width: int) -> tuple[int, ...] | None:
    """Columns of q, I, sigma and, where there is one, dq, as the last line of a header names them.

    Args:
        header: lines before the table.
        width: columns of the table.

    Returns:
        None where the line does not name each of the first three once, in as many names as there are columns.
    """
    for names in _tables_of(header, width):
        found = {role: [i for i, n in enumerate(names) if _is(role, n)] for role in _ROLES}
        if all(len(found[role]) == 1 for role in ("q", "intensity", "sigma")):
            chosen = [found[role][0] for role in ("q", "intensity", "sigma")]
            return tuple(chosen + found["dq"] if len(found["dq"]) == 1 else chosen)
    return None


def refuse_s(header: Sequence[str], width: int, path: Path) -> None:
    """Raise GeometryError where the first column is called s, which is two things.

    ATSAS calls 4 pi sin(theta)/lambda so, others 2 sin(theta)/lambda.
    """
    for names in _tables_of(header, width):
        if names[0] == "s" and any(_is("intensity", name) for name in names):
            raise GeometryError(
                f"{path}: the first column is called s, expected q = 4 pi sin(theta)/lambda; if it is that, "
                "as in ATSAS, pass q_unit='1/angstrom' or '1/nm'; if it is 2 sin(theta)/lambda, "
                "multiply it by 2 pi"
            )


def _is(role: str, name: str) -> bool:
    return re.fullmatch(_ROLES[role], name) is not None


def _tables_of(header: Sequence[str], width: int) -> list[list[str]]:
    """Names in lower case, without units, of the last line with words, however they are separated."""
    lines = [line.strip(_MARKS) for line in header]
    lines = [line for line in lines if re.search(r"[A-Za-z]", line)][-2:]
    split = (
        [_plain(name) for name in re.split(separator, re.sub(r"(?<=\w)\s+(?=[\[({])", "", line.strip("| ")))]
        for line in reversed(lines)
        for separator in (r"\s*[|;,\t]\s*", r"\s+")
    )
    # of NIST's reduction the line begins with a sentence
    return [names[-width:] for names in split if len(names) in (width, width + 1) and width > 1]


def _plain(name: str) -> str:
    # the argument of I(q) is no unit
    name = re.sub(r"i\([qs]\)", "i", name.strip(_MARKS).lower())
    return re.sub(_UNIT, "", name).strip(_MARKS + "_")
