"""What options of the command line say, and what it prints as JSON."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nfphasing_bluesky.core import GeometryError

Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]


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


def interval(text: str | None, option: str, example: str) -> tuple[float, float] | None:
    """Lowest and highest value, of LOW:HIGH."""
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r}, expected LOW:HIGH, as {example}") from None


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


def run_settings(texts: list[str] | None) -> dict[str, Any]:
    """Setting -> value, of NAME=VALUE; a value is read as JSON where it is some, else as text."""
    out: dict[str, Any] = {}
    for name, value in properties(texts).items():
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    return out


def properties(texts: list[str] | None) -> dict[str, str]:
    """Name -> value, of NAME=VALUE; the value may be empty and hold any character."""
    parts = [text.partition("=") for text in texts or ()]
    if wrong := [name for name, sign, _ in parts if not (name and sign)]:
        raise typer.BadParameter(f"{wrong[0]!r}, expected NAME=VALUE")
    return {name.strip(): value for name, _, value in parts}


def saturation(texts: list[str] | None) -> float | None:
    """Counts from which a pixel is not believed, `saturation` beside a geometry."""
    said = [text.partition("=")[2] for text in texts or () if text.partition("=")[0].strip() == "saturation"]
    try:
        return float(said[-1]) if said else None
    except ValueError:
        raise typer.BadParameter(f"saturation={said[-1]}, expected a number of counts") from None


def detector(texts: list[str] | None) -> Any:
    """Geometry of a detector or of holograms, or None where nothing was given."""
    texts = [text for text in texts or () if text.partition("=")[0].strip() != "saturation"]
    if not texts:
        return None
    from nfphasing_bluesky.documents.grazing import NAMES as OF_A_SURFACE
    from nfphasing_bluesky.documents.grazing import grazing_geometry, is_grazing, of_the_detector
    from nfphasing_bluesky.documents.holograms import NAMES, TELLING, hologram_geometry
    from nfphasing_bluesky.documents.patterns import DETECTOR_NAMES, detector_of

    try:
        values = {
            name: [float(part) for part in value.split(",")]
            for name, _, value in (text.partition("=") for text in texts)
        }
    except ValueError:
        raise typer.BadParameter(f"{', '.join(texts)}, expected NAME=NUMBER or NAME=ROW,COLUMN") from None
    advice = "add them as NAME=VALUE"
    if TELLING & set(values):
        if unknown := ", ".join(sorted(set(values) - set(NAMES))):
            raise typer.BadParameter(f"{unknown}, expected for holograms some of {', '.join(NAMES)}")
        return hologram_geometry({name: value[0] for name, value in values.items()}, "--geometry", advice)
    names = (*DETECTOR_NAMES, *OF_A_SURFACE)
    if unknown := ", ".join(sorted(set(values) - set(names))):
        raise typer.BadParameter(f"{unknown}, expected some of {', '.join(names)}")
    made = detector_of(of_the_detector(values), "--geometry", advice)
    return grazing_geometry(values, made, "--geometry") if is_grazing(values) else made


def contrast(text: str | None) -> float | None:
    """Contrast of particle to solvent, 1/cm^2, of a number with its unit."""
    if text is None:
        return None
    from nfphasing_bluesky.storage.units import contrast_inv_cm2

    try:
        return contrast_inv_cm2(text)
    except GeometryError as error:
        raise typer.BadParameter(str(error)) from None


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


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(value, indent=1, allow_nan=False))


def finite(value: Any) -> Any:
    """Plain JSON: NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return str(value) if isinstance(value, Path) else value
