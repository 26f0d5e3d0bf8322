"""What options of the command line say. Each function raises typer.BadParameter for what it can't read."""

from pathlib import Path
from typing import Any

import typer


def intervals(texts: list[str] | None) -> dict[str, tuple[float, float]]:
    """Name -> lowest and highest value, of NAME=LOW:HIGH."""
    out: dict[str, tuple[float, float]] = {}
    for text in texts or ():
        name, _, values = text.partition("=")
        low, _, high = values.partition(":")
        try:
            out[name.strip()] = (float(low), float(high))
        except ValueError:
            raise typer.BadParameter(
                f"{text!r}, expected NAME=LOW:HIGH, as thickness_1_angstrom=90:110"
            ) from None
    return out


def of_scans(
    rename: list[str] | None, probe: Path | None, sign: str | None, order: str | None, orientation: str | None
) -> dict[str, Any]:
    """Keyword arguments of `read_frames` for scans; None where nothing was asked."""
    return {
        "renamed": pairs(rename),
        "probe": probe,
        "positions_sign": signs(sign),
        "positions_order": order,
        "orientation": orientation,
    }


def pairs(texts: list[str] | None) -> dict[str, str] | None:
    """Map theirs to ours."""
    if not texts:
        return None
    parts = [text.partition("=") for text in texts]
    if wrong := [text for text, (theirs, _, ours) in zip(texts, parts, strict=True) if not (theirs and ours)]:
        raise typer.BadParameter(f"{wrong[0]!r}, expected theirs=ours")
    return {theirs: ours for theirs, _, ours in parts}


def detector(texts: list[str] | None) -> Any:
    """Geometry of a detector, or None where nothing was given."""
    if not texts:
        return None
    from nfphasing_bluesky.documents.patterns import detector_of

    try:
        values = {
            name: [float(part) for part in value.split(",")]
            for name, _, value in (text.partition("=") for text in texts)
        }
    except ValueError:
        raise typer.BadParameter(f"{', '.join(texts)}, expected NAME=NUMBER or NAME=ROW,COLUMN") from None
    return detector_of(values, "--geometry", "add them as NAME=VALUE")


def signs(text: str | None) -> tuple[float, float] | None:
    """Signs of rows and columns."""
    if text is None:
        return None
    known = {"1": 1.0, "+1": 1.0, "-1": -1.0}
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 2) or not set(parts) <= set(known):
        raise typer.BadParameter(f"{text!r}, expected 1, -1, or one for rows and one for columns as 1,-1")
    return known[parts[0]], known[parts[-1]]


def columns(text: str | None) -> tuple[int, ...] | None:
    """Column numbers."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}, expected column numbers from 0 as 0,3,4") from None
