"""Curves from canSAS XML, versions 1.0 and 1.1."""

from pathlib import Path
from xml.etree.ElementTree import Element, fromstring  # noqa: S405 - documents with a DTD are refused below
from xml.parsers import expat

import numpy as np

from nfphasing_bluesky.core import FrameError, StorageError
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.documents.units import per_cm
from nfphasing_bluesky.storage.curves import Columns, ReadOptions
from nfphasing_bluesky.storage.units import required_q_scale


def read_canxml(path: Path, options: ReadOptions) -> list[Columns]:
    """Read every SASdata of a canSAS XML file, in its order.

    Raises:
        FrameError: the curve is slit-smeared.
        StorageError: the file is not well-formed, not canSAS, incomplete, or declares entities.
    """
    root = _parse(path)
    data = [element for element in root.iter() if _tag(element) == "SASdata"]
    if _tag(root) != "SASroot" or not data:
        raise StorageError(
            f"{path}: root element <{_tag(root)}> with {len(data)} SASdata, expected canSAS XML: "
            "<SASroot> with at least one; convert the file or export it again"
        )
    return [_columns(element, number, path, options) for number, element in enumerate(data)]


def _parse(path: Path) -> Element:
    """Parse XML, refusing document type declarations: no canSAS file has one and entities can be attacks."""
    content = path.read_bytes()

    def refuse(*_: object) -> None:
        raise StorageError(
            f"{path}: the XML declares a document type, expected none in canSAS XML; remove it"
        )

    try:
        scan = expat.ParserCreate()
        scan.StartDoctypeDeclHandler = refuse
        scan.Parse(content, True)
        return fromstring(content)  # noqa: S314 - no document type, so no entities
    except (expat.ExpatError, SyntaxError, ValueError, LookupError) as error:
        raise StorageError(
            f"{path}: not well-formed XML ({error}); the file is cut short or damaged: copy it again"
        ) from error


def _tag(element: Element) -> str:
    """Return the name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _columns(data: Element, number: int, path: Path, options: ReadOptions) -> Columns:
    """Read the Idata rows of one SASdata."""
    rows = [{_tag(child): child for child in row} for row in data if _tag(row) == "Idata"]
    if len(rows) < 2 or not all("Q" in row and "I" in row for row in rows):
        raise StorageError(
            f"{path}: SASdata {number} has {len(rows)} Idata rows or rows without Q or I, expected a curve; "
            "export the file again"
        )
    slit = _values(rows, "dQl", path)
    if slit is not None and np.any(slit > 0):
        raise FrameError(
            f"{path}: the curve is slit-smeared (dQl up to {np.nanmax(slit):.3g}), expected point "
            "collimation; desmear it first"
        )
    q, intensity = _values(rows, "Q", path), _values(rows, "I", path)
    assert q is not None and intensity is not None  # noqa: S101 - every row has them, for mypy
    unit = rows[0]["Q"].get("unit", "")
    known = unit and options.q_unit is None
    return Columns(
        q=q,
        intensity=intensity,
        sigma=_values(rows, "Idev", path),
        dq=_values(rows, "Qdev", path),
        q_scale=required_q_scale(unit, path, "SASdata") if known else None,
        per_cm=per_cm(rows[0]["I"].get("unit", "")),
        number=number,
    )


def _values(rows: list[dict[str, Element]], name: str, path: Path) -> FloatArray | None:
    """Return (Q,) values of one column, NaN where a row lacks it; None when no row has it."""
    if not any(name in row for row in rows):
        return None
    try:
        return np.array([float(row[name].text or "nan") if name in row else np.nan for row in rows])
    except ValueError as error:
        raise StorageError(
            f"{path}: {name} is not a number ({error}); correct or export the file again"
        ) from error
