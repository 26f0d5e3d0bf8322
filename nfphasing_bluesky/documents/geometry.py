"""Geometry of two-dimensional frames from documents.

`saturation` beside any of what follows are the counts from which a pixel is not believed.

With an incidence angle in the start document frames are those of a surface: `documents.grazing`.

That of reduced small-angle patterns may be q of the pixels in the start document, `nfphasing={"geometry":
{"qx_inv_angstrom", "qy_inv_angstrom"}}`: axes, or one row of numbers for each row of pixels. That of a
hologram is in the start document, `nfphasing={"geometry": {"fresnel_number": ...}}` or what
`holograms.hologram_geometry` makes one of. That of a detector behind scattering is looked for, in this order:

1. the start document, in SI units: `nfphasing={"geometry": {"wavelength_m", "distance_m",
   "pixel_size_m": [row, column], "poni_m": [row, column], "rotations_rad": [rot1, rot2, rot3]}}`
   (`rotations_rad` may be left out);
2. the configuration recorded in the descriptor, key by key: `<device>_wavelength`, `<device>_distance`,
   `<device>_pixel_size`, `<device>_poni`, `<device>_rotations` with `units` in their data keys
   (`energy` and its kin are not guessed from), or the same names without the device.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nfphasing_bluesky.core import (
    DetectorGeometry,
    GeometryError,
    GrazingGeometry,
    HologramGeometry,
    PlaneGeometry,
)
from nfphasing_bluesky.documents.grazing import grazing_geometry, is_grazing, of_the_detector
from nfphasing_bluesky.documents.holograms import NAMES, TELLING, hologram_geometry
from nfphasing_bluesky.documents.keys import Document, object_of, own_metadata
from nfphasing_bluesky.documents.patterns import Q_NAMES
from nfphasing_bluesky.documents.units import metres, per_cm, radians

_FIELDS = ("wavelength", "distance", "pixel_size", "poni", "rotations")
_SIZES = {"wavelength": 1, "distance": 1, "pixel_size": 2, "poni": 2, "rotations": 3}


def image_geometry(
    start: Document, descriptor: Document, data_key: str
) -> DetectorGeometry | GrazingGeometry | HologramGeometry | PlaneGeometry:
    """Return the geometry of a stream's two-dimensional frames.

    Raises:
        GeometryError: it is missing or incomplete, or a value has no usable unit.
    """
    said = own_metadata(start).get("geometry")
    if isinstance(said, Mapping):
        said = {name: value for name, value in said.items() if name != "saturation"} or None
    if isinstance(said, Mapping) and TELLING & set(said):
        return _hologram(said, data_key)
    if isinstance(said, Mapping) and set(Q_NAMES) & set(said):
        units = descriptor["data_keys"][data_key].get("units") or ""
        return _plane(own_metadata(start), said, data_key, absolute=per_cm(units) == 1)
    if not is_grazing(said):
        return detector_geometry(said, descriptor, data_key)
    detector = detector_geometry(of_the_detector(said) or None, descriptor, data_key)
    return grazing_geometry(said, detector, f"{data_key}, nfphasing.geometry in the start document")


def saturation_said(start: Document, data_key: str) -> float | None:
    """Return the counts from which a pixel is not believed, `saturation` of the start document's geometry.

    Raises:
        GeometryError: it is no positive number.
    """
    said = own_metadata(start).get("geometry")
    value = said.get("saturation") if isinstance(said, Mapping) else None
    if value is None:
        return None
    if not isinstance(value, int | float) or not value > 0:
        raise GeometryError(
            f"{data_key}: saturation={value!r} in the start document's nfphasing.geometry, expected a "
            "positive number of counts"
        )
    return float(value)


def _plane(own: Mapping[str, Any], said: Mapping[str, Any], data_key: str, absolute: bool) -> PlaneGeometry:
    where = f"{data_key}, nfphasing.geometry in the start document"
    if set(said) != set(Q_NAMES):
        raise GeometryError(f"{where} has {', '.join(sorted(said))}, expected {' and '.join(Q_NAMES)}")
    try:
        qx, qy = (np.asarray(said[name], dtype=np.float64) for name in Q_NAMES)
    except (TypeError, ValueError):
        raise GeometryError(f"{where} has q that is no numbers, expected 1/angstrom") from None
    return PlaneGeometry(
        qx,
        qy,
        absolute=bool(own.get("absolute", absolute)),
        contrast_inv_cm2=own.get("contrast_inv_cm2"),
        q_relative_error=own.get("q_relative_error", 0.0),
    )


def _hologram(said: Mapping[str, Any], data_key: str) -> HologramGeometry:
    where = f"{data_key}, nfphasing.geometry in the start document"
    if unknown := sorted(set(said) - set(NAMES)):
        raise GeometryError(f"{where} has {', '.join(unknown)}, expected some of {', '.join(NAMES)}")
    try:
        values = {name: float(value) for name, value in said.items()}
    except (TypeError, ValueError):
        raise GeometryError(f"{where} is {dict(said)!r}, expected a number for each name") from None
    return hologram_geometry(values, where, "put what is missing beside them")


def detector_geometry(said: Any, descriptor: Document, data_key: str) -> DetectorGeometry:
    """Return the geometry of a detector behind scattering; `said` is the start document's, or None.

    Raises:
        GeometryError: it is missing or incomplete, or a value has no usable unit.
    """
    values = _from_start(said) if said is not None else from_configuration(descriptor, data_key)
    missing = [name for name in _FIELDS[:4] if name not in values]
    if missing:
        raise GeometryError(
            f"{data_key}: no {', '.join(missing)} in the start document or the device's configuration; "
            "pass a PONI file, or put nfphasing={'geometry': {'wavelength_m', 'distance_m', 'pixel_size_m', "
            "'poni_m'}} into the start document"
        )
    return DetectorGeometry(
        wavelength_m=values["wavelength"][0],
        distance_m=values["distance"][0],
        pixel_size_m=(values["pixel_size"][0], values["pixel_size"][1]),
        poni_m=(values["poni"][0], values["poni"][1]),
        rotations_rad=tuple(values.get("rotations", (0.0, 0.0, 0.0))),  # type: ignore[arg-type]
    )


def _from_start(said: Any) -> dict[str, tuple[float, ...]]:
    if not isinstance(said, Mapping):
        raise GeometryError(f"nfphasing.geometry in the start document is {said!r}, expected a mapping")
    names = {f"{name}_rad" if name == "rotations" else f"{name}_m": name for name in _FIELDS}
    unknown = sorted(set(said) - set(names))
    if unknown:
        raise GeometryError(
            f"nfphasing.geometry in the start document has {', '.join(unknown)}, expected {', '.join(names)}"
        )
    return {names[key]: _numbers(names[key], value, key) for key, value in said.items()}


def from_configuration(descriptor: Document, data_key: str) -> dict[str, tuple[float, ...]]:
    """Return what the configuration says of wavelength, distance, pixel size, PONI and rotations, SI units.

    Raises:
        GeometryError: a value without a usable unit, or with another number of numbers.
    """
    owner = object_of(descriptor, data_key)
    found: dict[str, tuple[float, ...]] = {}
    for name in _FIELDS:
        spellings = [f"{base}{sep}{name}" for base in (owner, data_key) if base for sep in "_-"] + [name]
        for device in (descriptor.get("configuration") or {}).values():
            key = next((key for key in spellings if key in device.get("data", {})), None)
            if key is None:
                continue
            convert = radians if name == "rotations" else metres
            factor = convert(device.get("data_keys", {}).get(key, {}).get("units"), key)
            found[name] = tuple(factor * v for v in _numbers(name, device["data"][key], key))
    return found


def _numbers(name: str, value: Any, key: str) -> tuple[float, ...]:
    try:
        numbers = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise GeometryError(f"{key}={value!r}, expected {_SIZES[name]} number(s)") from error
    if name == "pixel_size" and numbers.size == 1:
        numbers = np.repeat(numbers, 2)
    if numbers.size != _SIZES[name]:
        raise GeometryError(f"{key} has {numbers.size} values, expected {_SIZES[name]}")
    return tuple(float(v) for v in numbers)
