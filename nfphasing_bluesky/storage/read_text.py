"""Curves from text: two to four columns among headers, footers and comments of any kind."""

import codecs
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import GeometryError, StorageError
from nfphasing_bluesky.storage.column_names import named_columns, refuse_s
from nfphasing_bluesky.storage.curves import Columns, ReadOptions
from nfphasing_bluesky.storage.units import (
    heads_an_angle,
    per_cm_from_header,
    q_scale_from_header,
    q_scale_of_units,
)

log = logging.getLogger(__name__)

_COMMENT = re.compile(r"\s*(#|!|%|//|\"|')")
_MSVC_NAN = re.compile(r"-?1\.#(IND|QNAN|INF)\d*", re.IGNORECASE)
_FORTRAN = re.compile(r"([\d.])[dD]([-+]?\d+)$")
_DECLARED = re.compile(r"#\s*(\d+)\s*$")
_MIN_POINTS = 2


@dataclass(frozen=True)
class _Row:
    """A line of text that begins with a number; `values` is None when the rest of it does not parse."""

    line: int
    text: str
    values: tuple[float, ...] | None


def read_text(path: Path, options: ReadOptions) -> list[Columns]:
    """Read the table of numbers of a text file.

    The table is the longest run of rows with equally many numbers; text before it is header, comments may
    stand anywhere. Separators are white space, commas, semicolons or tabs, with a decimal comma where
    semicolons or tabs separate. The columns are those that the header names; without names the first three
    are q, I, sigma (the first two, where there are no more).

    Raises:
        GeometryError: its first column is headed as an angle or as s, and nobody says what it is.
        StorageError: there is no table, it is cut short, or a row in it cannot be read.
    """
    lines = _decoded(path.read_bytes()).splitlines()
    begins, table = _table([row for row in map(_row, range(1, len(lines) + 1), lines) if row], path)
    width = table.shape[1]
    _check_declared_length(lines, len(table), path)
    header = [line for line in lines[: begins - 1] if not _is_plain(line)]
    scale = q_scale_from_header([line for line in lines if not _is_plain(line)]) or q_scale_of_units(header)
    if options.q_unit is None:
        refuse_s(header, width, path)
        if scale is None:
            _check_heading(lines[: begins - 1], width, path)
    chosen = _pick(table, path, options.columns or named_columns(header, width))
    return [replace(chosen, q_scale=scale, per_cm=per_cm_from_header(header))]


def _decoded(content: bytes) -> str:
    """Text of a file: UTF-16 where it begins with that mark, as Windows writes it, else UTF-8."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")


def _check_heading(before: list[str], width: int, path: Path) -> None:
    """Raise GeometryError where the line above the table calls its first column an angle."""
    above = [line for line in before if line.strip()]
    if above and (angle := heads_an_angle(above[-1], width)):
        raise GeometryError(
            f"{path}: its first column is headed {angle!r}, an angle, expected q; pass "
            "q_unit='two_theta_degree' or 'theta_degree' and wavelength_angstrom=, or q_unit='1/angstrom' to "
            "insist"
        )


def _is_plain(line: str) -> bool:
    """Return whether a line is a row of numbers and not a header or comment."""
    return bool(re.match(r"\s*[-+.\d]", line))


def _row(number: int, line: str) -> _Row | None:
    """Parse a line that begins with a number; None for all others."""
    text = line.strip()
    if not text or _COMMENT.match(text):
        return None
    if ";" in text or "\t" in text:
        decimal_comma = "." not in text and re.search(r"\d,\d", text)
        text = text.replace(",", ".") if decimal_comma else text
    tokens = [token for token in re.split(r"[;,\s]+", re.split(r"\s#", text)[0]) if token]
    values = [_number(token) for token in tokens]
    if not values or values[0] is None:
        return None
    complete = tuple(value for value in values if value is not None)
    return _Row(number, line.strip(), complete if len(complete) == len(values) else None)


def _number(token: str) -> float | None:
    """Parse one number, also the NaN of Microsoft's runtime; None for words."""
    if _MSVC_NAN.fullmatch(token):
        return float("nan")
    try:
        return float(_FORTRAN.sub(r"\1e\2", token))
    except ValueError:
        return None


def _table(rows: list[_Row], path: Path) -> tuple[int, NDArray[np.float64]]:
    """Return the line on which the longest run of rows of equal width begins, and that, (N, columns)."""
    first = length = start = 0
    for i, row in enumerate(rows):
        if i and not _same_width(rows[start], row):
            start = i
        if row.values is not None and len(row.values) > 1 and i + 1 - start > length:
            first, length = start, i + 1 - start
    if length < _MIN_POINTS:
        raise StorageError(
            f"{path}: found no table of numbers, expected columns q, I, sigma; check that it is a curve"
        )
    if length > _MIN_POINTS and _counts(rows[first : first + length]):
        log.warning("%s: line %d (%r) is no point, but counts them", path, rows[first].line, rows[first].text)
        first, length = first + 1, length - 1
    table = np.array([row.values for row in rows[first : first + length]], dtype=np.float64)
    for row in rows[first + length :]:
        found = "text" if row.values is None else f"{len(row.values)} numbers"
        raise StorageError(
            f"{path}: line {row.line} ({row.text[:40]!r}) holds {found}, expected {table.shape[1]} numbers "
            f"as in the {length} rows before; the file is cut short or damaged: copy it again"
        )
    return rows[first].line, table


def _counts(rows: list[_Row]) -> bool:
    """Return whether the first row of a table counts the others: whole numbers, the first no q before theirs.

    A table that is written in whole numbers, or whose places fall, is left alone.
    """
    first, second, *others = rows
    assert first.values and second.values  # noqa: S101 - rows of a table have values
    fall = bool(others and others[0].values and others[0].values[0] < second.values[0])
    before = first.values[0] < second.values[0]
    return _whole(first) and not before and not fall and not any(map(_whole, (second, *others)))


def _whole(row: _Row) -> bool:
    return re.fullmatch(r"[-+\d\s,;]+", row.text) is not None


def _same_width(one: _Row, other: _Row) -> bool:
    """Return whether two rows belong to one table."""
    return one.values is not None and other.values is not None and len(one.values) == len(other.values)


def _check_declared_length(lines: list[str], found: int, path: Path) -> None:
    """Compare with the number of points that RAW writes below its `### DATA:` line."""
    for i, line in enumerate(lines):
        if line.strip() != "### DATA:":
            continue
        for declared in filter(None, map(_DECLARED.fullmatch, lines[i + 1 : i + 3])):
            if int(declared.group(1)) != found:
                raise StorageError(
                    f"{path}: found {found} points, expected {declared.group(1)} as its header says; the "
                    "file is cut short: copy it again"
                )


def _pick(table: NDArray[np.float64], path: Path, columns: tuple[int, ...] | None) -> Columns:
    """Take q, I, sigma and dq from the table."""
    available = table.shape[1]
    chosen = columns if columns is not None else tuple(range(min(3, available)))
    if not 2 <= len(chosen) <= 4 or not all(0 <= column < available for column in chosen):
        raise StorageError(
            f"{path}: columns={chosen} do not fit a table of {available} columns, expected two to four of "
            f"0 to {available - 1} for q, I, sigma, dq"
        )
    if columns is None and available == 4 and _like_a_resolution(table[:, 0], table[:, 3]):
        log.warning(
            "%s: the fourth column looks like a resolution and is not taken; columns=(0, 1, 2, 3) takes it, "
            "as a standard deviation (a full width at half maximum is 2.355 of these)",
            path,
        )
    q, intensity, *rest = (table[:, column] for column in chosen)
    return Columns(
        q=q,
        intensity=intensity,
        sigma=rest[0] if rest else None,
        dq=rest[1] if len(rest) > 1 else None,
    )


def _like_a_resolution(q: NDArray[np.float64], column: NDArray[np.float64]) -> bool:
    """Return whether a column may be dq: positive, below q but for a few points, and even."""
    known = np.isfinite(column)
    positive, below = column[known] > 0, column[known] < q[known]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.abs(np.diff(np.log(column[known])))
    even = step.size > 0 and float(np.median(step)) < 0.1
    return bool(positive.all() and below.size and below.mean() > 0.8 and even)
