"""Frames of ptychographic scans from events: places from motors, the probe from elsewhere."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Failure, Frame, GeometryError, NFPhasingError, Origin, Window
from nfphasing_bluesky.core.orientation import read_orientation
from nfphasing_bluesky.documents.gaps import bad_of_scan
from nfphasing_bluesky.documents.geometry import from_configuration
from nfphasing_bluesky.documents.keys import Document, own_metadata
from nfphasing_bluesky.documents.ptychography import (
    NAMES,
    Optics,
    as_probe,
    looks_centred,
    photon_scale,
    positions_from_lengths,
    positions_turn,
    probe_in_photons,
    ptychography_frame,
    read_optics,
    read_signs,
    turned,
)
from nfphasing_bluesky.documents.scan_places import (
    motor_of,
    position_fields,
    position_keys,
    position_number,
)
from nfphasing_bluesky.documents.scan_start import LEAST_FRAMES, Applied, Watch, find_probe, shots_of

log = logging.getLogger(__name__)

_MARGIN_PX = 2
_ADVICE = "put it into the start document, nfphasing={'geometry': {...}}, or record it with the detector"


@dataclass(frozen=True, eq=False)
class Beam:
    """What documents do not say of a ptychographic scan.

    Args:
        probe: complex (H, W) or (P, H, W); None to find it from the first frames.
        label: what messages call the probe's source.
        positions: data keys of the positions of rows and columns; None finds them.
        signs: of rows and columns, +1 or -1; None takes the start document's `positions_sign`, else +1.
        mask: (H, W) True = not used, as the frames are stored.
        orientation: what must be done to the frames, a name of `core.orientation`; None takes the start
            document's `orientation`, else nothing.
        order: "xy" exchanges rows and columns of the positions; None takes the start document's
            `positions_order`, else "yx".
        probe_frames: frames that a probe is found from.
        check_frames: frames after which it is looked whether frames and positions agree; 0 for never.
    """

    probe: NDArray | None
    label: str = "probe"
    positions: tuple[str, str] | None = None
    signs: tuple[float, float] | None = None
    mask: NDArray[np.bool_] | None = None
    orientation: str | None = None
    order: str | None = None
    probe_frames: int = 100
    check_frames: int = 20


@dataclass(frozen=True, eq=False)
class _Held:
    """A frame that waits for others: counts and mask as turned, place as read."""

    counts: NDArray
    mask: NDArray[np.bool_] | None
    readings: list[float]
    origin: Origin


class ScanFrames:
    """Makes the frames of one stream.

    The first ones wait for each other: where there is no probe until it was found from them, and in any case
    until it was looked whether frames and positions agree. What cannot be told then (frames of one line say
    nothing of the next) is looked at again later; frames have a `doubt` once something is wrong.

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
            motor_of(descriptor, name) for name in position_keys(start, descriptor, data_key, beam.positions)
        )
        said, where = own_metadata(start), f"{data_key}, start document"
        signs = beam.signs or read_signs(said.get("positions_sign", 1), where)
        positions = positions_turn(signs, beam.order or said.get("positions_order", "yx"), where)
        frames = read_orientation(beam.orientation or said.get("orientation", "as-is"), where)
        self._applied = Applied(frames, positions)
        self._ready: tuple[Optics, NDArray[np.complexfloating]] | None = None
        self._held: list[_Held] | None = []
        self._dead: NDArray[np.bool_] | None = None
        self._source = "" if beam.probe is None else beam.label
        self._watch = Watch(beam.check_frames, self._applied, retrieved=beam.probe is None)

    @property
    def keys(self) -> frozenset[str]:
        """Data keys that every event must have besides the frame."""
        return frozenset(motor.key for motor in self._motors)

    @property
    def notes(self) -> dict[str, str]:
        """What was found out about the scan: where its probe is from, whether frames and positions agree."""
        return {"probe": self._source, "orientation": self._watch.said} if self._ready else {}

    def take(
        self, counts: NDArray, values: Mapping[str, Any], mask: NDArray[np.bool_] | None, origin: Origin
    ) -> list[Frame | Failure]:
        """Take what one event brought, and give the frames that are ready.

        Raises:
            FrameError, GeometryError: no light, another size than the probe's, a place that is no number.
        """
        mask = _either(mask, self._beam.mask, counts.shape)
        if self._ready is None:
            self._prepare(counts, mask, origin)
        held = self._turned(counts, values, mask, origin)
        if self._held is None:
            frame = self._frame(held)
            self._watch.add([frame])
            return [replace(frame, doubt=self._watch.doubt)]
        if self._ready is not None:
            self._frame(held)  # what is wrong with it is said at once
        self._held.append(held)
        return self.release() if len(self._held) >= self._wanted else []

    def release(self) -> list[Frame | Failure]:
        """Give the frames that wait, however few they are."""
        held, self._held = self._held or [], None
        if not held:
            return []
        held = self._without_bad(held)
        try:
            if self._ready is None:
                self._find_probe(held)
        except NFPhasingError as error:
            self._held = []
            return [Failure(item.origin, f"{type(error).__name__}: {error}") for item in held]
        made: list[Frame | Failure] = []
        for item in held:
            try:
                made.append(self._frame(item))
            except NFPhasingError as error:
                made.append(Failure(item.origin, f"{type(error).__name__}: {error}"))
        self._watch.add([one for one in made if isinstance(one, Frame)], last=True)
        doubt = self._watch.doubt
        return [replace(one, doubt=doubt) if isinstance(one, Frame) else one for one in made]

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
        limits = dict(zip(position_fields(self._start) or names, extents, strict=False))
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

    @property
    def _wanted(self) -> int:
        """How many frames wait for each other."""
        return max(1, self._beam.check_frames, self._beam.probe_frames if self._beam.probe is None else 0)

    def _prepare(self, counts: NDArray, mask: NDArray[np.bool_] | None, origin: Origin) -> None:
        """Scale a known probe to a frame with light; check the optics in any case."""
        optics = self._optics(counts, mask)
        if self._beam.probe is None:
            return
        where = f"{self._data_key}, {self._beam.label}"
        frame = turned(counts, self._applied.frames, optics)
        dead = None if mask is None else turned(mask, self._applied.frames, optics)
        probe = as_probe(self._beam.probe, (frame.shape[0], frame.shape[1]), where)
        # a dark frame is refused here
        ptychography_frame(frame, optics, probe, (0.0, 0.0), mask=dead, origin=origin)
        self._scale(optics, frame, dead)

    def _scale(self, optics: Optics, frame: NDArray, dead: NDArray[np.bool_] | None) -> None:
        """Scale the known probe to a frame, as it is turned."""
        if self._beam.probe is None:
            return
        where = f"{self._data_key}, {self._beam.label}"
        probe = as_probe(self._beam.probe, (frame.shape[0], frame.shape[1]), where)
        self._ready = optics, probe_in_photons(probe, photon_scale(probe, [frame], optics, dead), where)

    def _without_bad(self, held: list[_Held]) -> list[_Held]:
        """Mask dead lines and hot pixels of the frames that wait, here and in all that follow."""
        if len(held) < LEAST_FRAMES or len({item.counts.shape for item in held}) > 1:
            return held
        self._dead, words = bad_of_scan(np.array([item.counts for item in held]), held[0].mask)
        if not words:
            return held
        log.warning("%s: %s; now masked", self._data_key, words)
        held = [replace(item, mask=_either(item.mask, self._dead, item.counts.shape)) for item in held]
        if self._ready is not None:
            self._scale(self._ready[0], held[0].counts, held[0].mask)
        return held

    def _find_probe(self, held: list[_Held]) -> None:
        optics = self._optics(np.mean([np.clip(item.counts, 0, None) for item in held], axis=0), None)
        places = [self._place(item.readings, optics) for item in held]
        shots = shots_of([item.counts for item in held], places, optics, [item.mask for item in held])
        found = find_probe(shots, optics)
        self._ready, self._source = (optics, found.probe), found.source

    def _optics(self, counts: NDArray, mask: NDArray[np.bool_] | None) -> Optics:
        shape = counts.shape[::-1] if self._applied.frames.transpose else counts.shape
        optics = read_optics(self._values, (shape[0], shape[1]), self._data_key, _ADVICE)
        if optics.centred is None:
            light = counts if mask is None else np.where(mask, 0, counts)
            optics = replace(optics, centred=looks_centred(light))
        return optics

    def _turned(
        self, counts: NDArray, values: Mapping[str, Any], mask: NDArray[np.bool_] | None, origin: Origin
    ) -> _Held:
        optics = self._ready[0] if self._ready else self._optics(counts, mask)
        turn, readings = self._applied.frames, [position_number(values[m.key], m.key) for m in self._motors]
        self._place(readings, optics)
        frame = turned(counts, turn, optics)
        dead = _either(None if mask is None else turned(mask, turn, optics), self._dead, frame.shape)
        return _Held(frame, dead, readings, origin)

    def _frame(self, held: _Held) -> Frame:
        assert self._ready is not None  # noqa: S101  asked for only then
        optics, probe = self._ready
        place = self._place(held.readings, optics)
        return ptychography_frame(held.counts, optics, probe, place, mask=held.mask, origin=held.origin)

    def _place(self, readings: list[float], optics: Optics) -> tuple[float, float]:
        lengths = np.array([m.factor * v for m, v in zip(self._motors, readings, strict=True)])
        turn = self._applied.positions
        if turn.transpose:
            lengths = lengths[::-1]
        if not all(motor.in_pixels for motor in self._motors):
            lengths = positions_from_lengths(lengths, optics, self._data_key, _ADVICE)
        row, column = lengths * np.array(turn.signs)
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


def _either(
    one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None, shape: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    for mask in (one, other):
        if mask is not None and mask.shape != shape:
            raise GeometryError(f"mask {mask.shape} does not match the frame {shape}; check the ROI")
    return other if one is None else one if other is None else one | other
