"""Where the positions of a ptychographic scan are in documents: data keys of motors, their units."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.documents.keys import Document, own_metadata
from nfphasing_bluesky.documents.units import metres

_PIXELS = ("px", "pixel", "pixels")


@dataclass(frozen=True)
class Motor:
    """A position of events: its data key, and metres or pixels of one unit."""

    key: str
    factor: float
    in_pixels: bool


def position_keys(
    start: Document, descriptor: Document, data_key: str, asked: tuple[str, str] | None
) -> tuple[str, str]:
    """Data keys of rows and columns: those asked for, those that the start document names, or its motors.

    Of two motors the one whose name ends in y moves along the rows and the one in x along the columns; where
    the names do not say so the slow one moves along the rows.

    Raises:
        GeometryError: no two positions are to be seen.
    """
    named = asked or own_metadata(start).get("positions")
    if named is not None and len(named) == 2:
        return str(named[0]), str(named[1])
    fields = position_fields(start) or [str(name) for name in start.get("motors") or ()]
    fields = [name for name in fields if name in descriptor["data_keys"]]
    if len(fields) == 2:
        ends = [name.lower().rstrip("0123456789_-")[-1:] for name in fields]
        if sorted(ends) == ["x", "y"]:
            return (fields[0], fields[1]) if ends[0] == "y" else (fields[1], fields[0])
        if len((start.get("hints") or {}).get("dimensions") or (1, 2)) == 2:
            return fields[0], fields[1]
    raise GeometryError(
        f"{data_key}: no two positions to be seen in the start document, which has "
        f"{', '.join(fields) or 'no motors'} in this stream; name the data keys of rows and columns, "
        "positions= in the settings or nfphasing={'positions': [rows, columns]} in the start document"
    )


def position_fields(start: Document) -> list[str]:
    """Data keys of the dimensions that a plan hints at, the slowest first."""
    dimensions = (start.get("hints") or {}).get("dimensions") or ()
    try:
        return [str(name) for fields, _ in dimensions for name in fields if name != "time"]
    except (TypeError, ValueError):
        return []


def motor_of(descriptor: Document, name: str) -> Motor:
    """Look up a position in a stream. Raises GeometryError where it is not, or is no length."""
    declared = descriptor["data_keys"].get(name)
    if declared is None:
        raise GeometryError(
            f"the position {name!r} is not in stream {descriptor.get('name', '')!r}, which has "
            f"{', '.join(sorted(descriptor['data_keys']))}; read it in every event"
        )
    units = declared.get("units")
    if str(units).strip().lower() in _PIXELS:
        return Motor(name, 1.0, True)
    return Motor(name, metres(units, f"position {name}"), False)


def position_number(value: Any, key: str) -> float:
    """One reading as a number. Raises GeometryError for anything else."""
    try:
        number = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        number = np.empty(0)
    if number.size != 1 or not np.isfinite(number[0]):
        raise GeometryError(
            f"position {key}={value!r}, expected a finite number; the frame's place is unknown"
        )
    return float(number[0])
