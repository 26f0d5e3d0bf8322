"""One frame that grows from the events of a run: a curve of their points, or the mean of their exposures."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from nfphasing_bluesky.core import (
    CurveGeometry,
    DataKeyError,
    Frame,
    FrameError,
    GeometryError,
    Origin,
    PointScan,
    StreamSettings,
)
from nfphasing_bluesky.documents.keys import Document, bounds_said, own_metadata
from nfphasing_bluesky.documents.units import inverse_angstrom, radians

SAME_PLACE = 0.1
"""Distance of a readback from the planned place that it is of, at most, over that of planned neighbours."""


def points_of(start: Document, settings: StreamSettings) -> PointScan | None:
    """Return how a run's points make a curve: as its start document says, else as the settings do.

    Raises:
        DataKeyError: what the start document says can't be read.
    """
    said = own_metadata(start).get("points")
    if said is None:
        return settings.points
    try:
        return PointScan.model_validate(said)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}".lstrip(": ")
            for each in error.errors()
        )
        raise DataKeyError(f"nfphasing.points in the start document: {wrong}") from None


def accumulates(start: Document, settings: StreamSettings) -> bool:
    """Return whether the frames of a run are exposures of one thing, to be joined as they come."""
    return bool(own_metadata(start).get("accumulate", settings.accumulate))


class PointCurve:
    """The curve that the points of one run make.

    Args:
        start, descriptor: of the run and the stream.
        scan: which data keys a point is made of.

    Raises:
        DataKeyError: the stream lacks one of them, or the place has units that are none of it.
    """

    def __init__(self, start: Document, descriptor: Document, scan: PointScan) -> None:
        missing = sorted(scan.keys - set(descriptor["data_keys"]))
        if missing:
            raise DataKeyError(
                f"stream {descriptor.get('name', '')!r} has no {', '.join(missing)}, which nfphasing.points "
                f"names; it has {', '.join(sorted(descriptor['data_keys']))}"
            )
        self._scan, self._said = scan, own_metadata(start)
        units = scan.units or descriptor["data_keys"][scan.place].get("units")
        where = f"{scan.intensity}, {scan.place}"
        try:
            self._unit = inverse_angstrom(units, where) if scan.q else radians(units, where)
        except GeometryError as error:
            raise DataKeyError(f"{error}; or say nfphasing.points.units in the start document") from None
        self._planned = self._q(np.array(scan.planned, dtype=np.float64))
        self._points: list[tuple[float, float, float, float]] = []

    @property
    def keys(self) -> frozenset[str]:
        """Data keys that every event must have."""
        return self._scan.keys

    def take(self, values: Mapping[str, Any], origin: Origin) -> list[Frame]:
        """Add one event's point; give the curve so far, once there were enough events.

        A point whose values are not finite is left out.

        Raises:
            FrameError: the value of a data key is no number, or too few points were any good.
        """
        due = self.due(origin.seq_num)
        try:
            point = self._point(values)
        except FrameError:
            if due:
                raise
            point = None
        if point is not None:
            self._points.append(point)
        return [self.frame(origin)] if due else []

    def due(self, seq_num: int) -> bool:
        """Return whether the event of this number makes a frame."""
        return seq_num >= self._scan.first

    def frame(self, origin: Origin) -> Frame:
        """Return the curve of all points so far; FrameError for fewer than two."""
        q, intensity, sigma = self._merged()
        ahead = self._ahead(q)
        if len(q) + len(ahead) < 2:
            raise FrameError(
                f"{origin.label}: {len(q)} points of {origin.seq_num} events were finite, expected at least 2"
            )
        places = np.concatenate([q, ahead])
        order = np.argsort(places)
        nothing = np.full(len(ahead), np.nan)
        return Frame(
            np.concatenate([intensity, nothing])[order],
            CurveGeometry(places[order], self._resolution(places[order])),
            np.concatenate([sigma, nothing])[order],
            np.concatenate([np.zeros(len(q), bool), np.ones(len(ahead), bool)])[order],
            origin=origin,
            bounds=bounds_said(self._said, self._scan.intensity),
            grows=True,
        )

    def _point(self, values: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
        """Return q, counts, their variance, their divisor; None where not finite, or in the direct beam."""
        scan = self._scan
        number = {key: _number(values[key], key) for key in self.keys}
        q = float(self._q(np.array(number[scan.place])))
        counts = number[scan.intensity]
        variance = counts if scan.sigma is None else number[scan.sigma] ** 2
        divisor = math.prod(number[key] for key in scan.divide_by)
        if q < 0:
            raise FrameError(
                f"{scan.place} is {number[scan.place]:g}, a momentum transfer of {q:.4g} 1/angstrom, "
                "expected a positive one; check the sign of the angle"
            )
        good = math.isfinite(q + counts + variance + divisor) and q > 0 and divisor > 0
        return (q, counts, variance, divisor) if good and (variance > 0 or scan.sigma is None) else None

    def _q(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._scan.q:
            return place * self._unit
        theta = place * self._unit * (0.5 if self._scan.two_theta else 1.0)
        return 4 * math.pi / (self._scan.wavelength_angstrom or math.nan) * np.sin(theta)

    def _merged(self) -> tuple[NDArray[np.float64], ...]:
        """Return q in order, intensity and sigma; points at one place are one, counted for longer."""
        found: list[list[float]] = []
        for q, *counted in sorted(self._points):
            if found and q - found[-1][0] <= 1e-6 * q:
                found[-1][1:] = [a + b for a, b in zip(found[-1][1:], counted, strict=True)]
            else:
                found.append([q, *counted])
        places, counts, variance, divisor = np.array(found).reshape(-1, 4).T
        if self._scan.sigma is None:
            # a point without a count still has an error
            variance = np.maximum(variance, 1.0)
        return places, counts / divisor, np.sqrt(variance) / divisor

    def _ahead(self, measured: NDArray[np.float64]) -> NDArray[np.float64]:
        """Planned places at which nothing was measured yet."""
        planned = np.unique(self._planned[self._planned > 0])
        if not planned.size or not measured.size:
            return planned
        near = SAME_PLACE * np.diff(planned).min() if planned.size > 1 else SAME_PLACE * planned[0]
        away = np.abs(planned[:, None] - measured).min(1)
        return planned[away > near]

    def _resolution(self, q: NDArray[np.float64]) -> NDArray[np.float64] | None:
        scan = self._scan
        parts = [scan.dq_inv_angstrom * np.ones_like(q), scan.dq_over_q * q]
        if scan.wavelength_angstrom is not None:
            longest = 4 * math.pi / scan.wavelength_angstrom
            parts.append(scan.dtheta_rad * np.sqrt(np.clip(longest**2 - q**2, 0.0, None)))
        found = np.sqrt(sum(part**2 for part in parts))
        return found if np.any(found > 0) else None


class Accumulated:
    """Frames of one run as exposures of one thing: their mean, or for images that are counts their sum."""

    def __init__(self) -> None:
        self._first: Frame | None = None
        self._total = self._variance = np.zeros(0)
        self._count = np.zeros(0, int)

    def add(self, frame: Frame) -> Frame:
        """Add an exposure; give all exposures so far as one frame, a point masked where none was any good.

        Raises:
            FrameError: another size or other places than the frames before.
        """
        if self._first is None:
            self._first = frame
            self._total, self._variance = np.zeros((2, *frame.intensity.shape))
            self._count = np.zeros(frame.intensity.shape, int)
        self._check(self._first, frame)
        good = frame.usable
        self._total += np.where(good, frame.intensity, 0.0)
        self._count += good
        if frame.sigma is None:
            return replace(frame, intensity=self._total.copy(), mask=self._count == 0, grows=True)
        self._variance += np.where(good, frame.sigma, 0.0) ** 2
        count = np.maximum(self._count, 1)
        # without a good exposure sigma is what it was: masked, but a number
        sigma = np.where(self._count > 0, np.sqrt(self._variance) / count, frame.sigma)
        return replace(frame, intensity=self._total / count, sigma=sigma, mask=self._count == 0, grows=True)

    def _check(self, first: Frame, frame: Frame) -> None:
        same = first.intensity.shape == frame.intensity.shape and type(first.geometry) is type(frame.geometry)
        if same and isinstance(first.geometry, CurveGeometry) and isinstance(frame.geometry, CurveGeometry):
            same = np.allclose(first.geometry.q_inv_angstrom, frame.geometry.q_inv_angstrom, rtol=1e-6)
        if not same or (first.sigma is None) != (frame.sigma is None):
            raise FrameError(
                f"{frame.origin.label}: event {frame.origin.seq_num} has {frame.intensity.shape} at other "
                f"places than the exposures before it, {first.intensity.shape}, expected the same to "
                "accumulate; leave nfphasing.accumulate out, or begin a run"
            )


def _number(value: Any, key: str) -> float:
    try:
        return float(np.asarray(value).reshape(-1)[0]) if np.asarray(value).size == 1 else float(value)
    except (TypeError, ValueError):
        raise FrameError(f"{key} is {value!r}, expected one number: a point of a curve") from None
