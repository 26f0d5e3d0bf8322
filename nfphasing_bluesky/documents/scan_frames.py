"""Frames of ptychographic scans from events: places from motors, the probe from elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame, GeometryError, Origin, Window
from nfphasing_bluesky.documents.geometry import from_configuration
from nfphasing_bluesky.documents.keys import Document, own_metadata
from nfphasing_bluesky.documents.ptychography import (
    NAMES,
    Optics,
    as_probe,
    looks_centred,
    photon_scale,
    positions_from_lengths,
    probe_in_photons,
    ptychography_frame,
    read_optics,
    read_signs,
)
from nfphasing_bluesky.documents.units import metres

_PIXELS = ("px", "pixel", "pixels")
_MARGIN_PX = 2
_ADVICE = "put it into the start document, nfphasing={'geometry': {...}}, or record it with the detector"


@dataclass(frozen=True, eq=False)
class Beam:
    """What documents do not say of a ptychographic scan.

    Args:
        probe: complex (H, W) or (P, H, W).
        label: what messages call the probe's source.
        positions: data keys of the positions of rows and columns; None finds them.
        signs: of rows and columns, +1 or -1; None takes the start document's `positions_sign`, else +1.
        mask: (H, W) True = not used.
    """

    probe: NDArray
    label: str = "probe"
    positions: tuple[str, str] | None = None
    signs: tuple[float, float] | None = None
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class _Motor:
    """A position of events: its data key, and metres or pixels of one unit."""

    key: str
    factor: float
    in_pixels: bool


class ScanFrames:
    """Makes the frames of one stream.

    Whether the direct beam is in the middle and whether the probe is in photons is found from the first frame
    with light, unless the start document says `centred`.

    The optics are named numbers, `ptychography.NAMES`, in the start document's `nfphasing.geometry`; without
    that wavelength, distance and pixel size from the detector's configuration.

    Args:
        start, descriptor: of the run and the stream.
        data_key: of the frames.
        beam: probe and what the caller knows of the positions.

    Raises:
        GeometryError: no positions, or none that could be lengths; numbers that no optics have.
    """

    def __init__(self, start: Document, descriptor: Document, data_key: str, beam: Beam) -> None:
        self._data_key, self._beam, self._start = data_key, beam, start
        self._values = _optics_values(start, descriptor, data_key)
        self._motors = tuple(
            _motor(descriptor, name) for name in _position_keys(start, descriptor, data_key, beam.positions)
        )
        said = own_metadata(start).get("positions_sign", 1)
        self._signs = beam.signs or read_signs(said, f"{data_key}, start document")
        self._ready: tuple[Optics, NDArray[np.complexfloating]] | None = None

    @property
    def keys(self) -> frozenset[str]:
        """Data keys that every event must have besides the frame."""
        return frozenset(motor.key for motor in self._motors)

    def frame(
        self, counts: NDArray, values: Mapping[str, Any], mask: NDArray[np.bool_] | None, origin: Origin
    ) -> Frame:
        """Build the frame of one event.

        Raises:
            FrameError, GeometryError: no light, another size than the probe's, a place that is no number.
        """
        mask = _either(mask, self._beam.mask, counts.shape)
        optics, probe = self._ready or self._prepare(counts, mask)
        place = self._place([_number(values[m.key], m.key) for m in self._motors], optics)
        frame = ptychography_frame(counts, optics, probe, place, mask=mask, origin=origin)
        self._ready = optics, probe
        return frame

    def window(self) -> Window | None:
        """Rectangle of the object that the scan covers, from the extents of a grid scan; None until a frame.

        The ends are those that the plan asked for, and some pixels more; None too where the start document
        has no extents, or has them relative to where the motors were.
        """
        extents = self._start.get("extents")
        names = self._start.get("motors")
        if self._ready is None or not extents or not names or len(extents) != len(names):
            return None
        if str(self._start.get("plan_name", "")).startswith("rel"):
            return None
        limits = dict(zip(_fields(self._start) or names, extents, strict=False))
        if any(motor.key not in limits for motor in self._motors):
            return None
        optics, probe = self._ready
        try:
            low, high = (
                np.array(self._place([float(limits[m.key][end]) for m in self._motors], optics))
                for end in (0, 1)
            )
        except (TypeError, ValueError, IndexError):
            return None
        low, high = np.minimum(low, high), np.maximum(low, high)
        margin = _MARGIN_PX + np.ceil(0.01 * (high - low))
        first = np.floor(low + 0.5 - margin).astype(int)
        last = np.floor(high + 0.5 + margin).astype(int) + np.array(probe.shape[1:])
        rows, columns = (int(n) for n in last - first)
        return Window(int(first[0]), int(first[1]), rows, columns)

    def _prepare(
        self, counts: NDArray, mask: NDArray[np.bool_] | None
    ) -> tuple[Optics, NDArray[np.complexfloating]]:
        shape = (counts.shape[0], counts.shape[1])
        optics = read_optics(self._values, shape, self._data_key, _ADVICE)
        if optics.centred is None:
            light = counts if mask is None else np.where(mask, 0, counts)
            optics = replace(optics, centred=looks_centred(light))
        where = f"{self._data_key}, {self._beam.label}"
        probe = as_probe(self._beam.probe, shape, where)
        return optics, probe_in_photons(probe, photon_scale(probe, [counts], optics, mask), where)

    def _place(self, readings: list[float], optics: Optics) -> tuple[float, float]:
        lengths = np.array([m.factor * v for m, v in zip(self._motors, readings, strict=True)])
        if not all(motor.in_pixels for motor in self._motors):
            lengths = positions_from_lengths(lengths, optics, self._data_key, _ADVICE)
        row, column = lengths * np.array(self._signs)
        return float(row), float(column)


def _optics_values(start: Document, descriptor: Document, data_key: str) -> dict[str, float]:
    said = own_metadata(start).get("geometry")
    if said is None:
        found = from_configuration(descriptor, data_key)
        lengths = {name: found[name] for name in ("wavelength", "distance", "pixel_size") if name in found}
        if "pixel_size" in lengths and not np.allclose(
            lengths["pixel_size"], lengths["pixel_size"][0], atol=0
        ):
            raise GeometryError(f"{data_key}: pixels {lengths['pixel_size']} m, expected square ones")
        return {f"{name}_m": value[0] for name, value in lengths.items()}
    where = f"{data_key}, nfphasing.geometry in the start document"
    if not isinstance(said, Mapping) or (unknown := sorted(set(said) - set(NAMES))):
        names = ", ".join(unknown) if isinstance(said, Mapping) else repr(said)
        raise GeometryError(f"{where} has {names}, expected some of {', '.join(NAMES)}")
    try:
        return {name: float(value) for name, value in said.items()}
    except (TypeError, ValueError):
        raise GeometryError(f"{where} is {dict(said)!r}, expected a number for each name") from None


def _position_keys(
    start: Document, descriptor: Document, data_key: str, asked: tuple[str, str] | None
) -> tuple[str, str]:
    """Data keys of rows and columns: those asked for, those that the start document names, or its motors.

    Of two motors the one whose name ends in y moves along the rows and the one in x along the columns; where
    the names do not say so the slow one moves along the rows.
    """
    named = asked or own_metadata(start).get("positions")
    if named is not None and len(named) == 2:
        return str(named[0]), str(named[1])
    fields = _fields(start) or [str(name) for name in start.get("motors") or ()]
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


def _fields(start: Document) -> list[str]:
    """Data keys of the dimensions that a plan hints at, the slowest first."""
    dimensions = (start.get("hints") or {}).get("dimensions") or ()
    try:
        return [str(name) for fields, _ in dimensions for name in fields if name != "time"]
    except (TypeError, ValueError):
        return []


def _motor(descriptor: Document, name: str) -> _Motor:
    declared = descriptor["data_keys"].get(name)
    if declared is None:
        raise GeometryError(
            f"the position {name!r} is not in stream {descriptor.get('name', '')!r}, which has "
            f"{', '.join(sorted(descriptor['data_keys']))}; read it in every event"
        )
    units = declared.get("units")
    if str(units).strip().lower() in _PIXELS:
        return _Motor(name, 1.0, True)
    return _Motor(name, metres(units, f"position {name}"), False)


def _number(value: Any, key: str) -> float:
    try:
        number = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        number = np.empty(0)
    if number.size != 1 or not np.isfinite(number[0]):
        raise GeometryError(
            f"position {key}={value!r}, expected a finite number; the frame's place is unknown"
        )
    return float(number[0])


def _either(
    one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None, shape: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    for mask in (one, other):
        if mask is not None and mask.shape != shape:
            raise GeometryError(f"mask {mask.shape} does not match the frame {shape}; check the ROI")
    return other if one is None else one if other is None else one | other
