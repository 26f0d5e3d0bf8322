"""How the events of one stream become Frames: which keys, which units, which geometry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    CurveGeometry,
    DetectorGeometry,
    Failure,
    Frame,
    FrameError,
    GeometryError,
    GrazingGeometry,
    HologramGeometry,
    Origin,
    PlaneGeometry,
    StreamSettings,
)
from nfphasing_bluesky.documents.bad_pixels import BadPixels
from nfphasing_bluesky.documents.geometry import image_geometry, saturation_said
from nfphasing_bluesky.documents.growing import Accumulated, PointCurve, accumulates, points_of
from nfphasing_bluesky.documents.holograms import hologram_frame
from nfphasing_bluesky.documents.keys import (
    ROLES,
    Document,
    bounds_said,
    choose_data_key,
    companion_names,
    companions_in,
    own_metadata,
)
from nfphasing_bluesky.documents.scan_frames import Beam, ScanFrames
from nfphasing_bluesky.documents.units import inverse_angstrom, per_cm

Array = NDArray[Any]
Detector = DetectorGeometry | GrazingGeometry | HologramGeometry | PlaneGeometry
"""Geometry of two-dimensional frames."""

_NO_IMAGE = GeometryError("the points of a curve are no image")


@dataclass(frozen=True, eq=False)
class Layout:
    """What a descriptor promises about the frames of its stream.

    Args:
        stream, data_key: where the intensities are.
        event_roles: role -> data key, for companions that arrive with every event.
        fixed: role -> value, for companions from the configuration or the start document.
        units: role -> units of that companion, as the document spells them.
        detector: geometry of two-dimensional frames, or why there is none.
        said: the start document's `nfphasing` entry.
        scan: makes the frames of a ptychographic scan, or why it cannot; None for all others.
        points: makes the curve that the points of all events are; None where each event has a frame.
        exposures: joins the frames of all events; None where they are frames of their own.
        pixels: finds bad pixels of two-dimensional frames.
        per_cm: factor from the intensity's units to 1/cm; None where its scale is not absolute.
    """

    stream: str
    data_key: str
    event_roles: Mapping[str, str]
    fixed: Mapping[str, Array]
    units: Mapping[str, str | None]
    detector: Detector | GeometryError
    said: Mapping[str, Any]
    scan: ScanFrames | GeometryError | None = None
    points: PointCurve | None = None
    exposures: Accumulated | None = None
    pixels: BadPixels = field(default_factory=lambda: BadPixels("frame"))
    per_cm: float | None = None

    @property
    def remarks(self) -> list[str]:
        """What the start document says in vain."""
        if self.said.get("contrast_inv_cm2") is None or self.per_cm is not None:
            return []
        return [
            "contrast_inv_cm2 under nfphasing in the start document is ignored, as the scale of "
            f"{self.data_key} is not absolute; if it is in 1/cm say nfphasing={{'absolute': True}}, or give "
            "its data key that unit"
        ]

    @property
    def needed(self) -> frozenset[str]:
        """Data keys that must have arrived before a frame can be built."""
        if self.points is not None:
            return self.points.keys
        places = self.scan.keys if isinstance(self.scan, ScanFrames) else ()
        return frozenset([self.data_key, *self.event_roles.values(), *places])

    def frames(self, values: Mapping[str, Any], origin: Origin) -> list[Frame | Failure]:
        """Take one event's values, data key -> array; give the frames that are ready now, mostly its own.

        Raises:
            FrameError, GeometryError: wrong shape or number of exposures, missing q, sigma or geometry.
        """
        if self.points is not None:
            return list(self.points.take(values, origin))
        made = self._of_event(values, origin)
        if self.exposures is None:
            return made
        return [self.exposures.add(one) if isinstance(one, Frame) else one for one in made]

    def _of_event(self, values: Mapping[str, Any], origin: Origin) -> list[Frame | Failure]:
        value = values[self.data_key]
        if isinstance(value, str):  # in place of its pixels, why there are none
            raise FrameError(f"{self.data_key}: {value}")
        intensity = self._one_exposure(np.asarray(value))
        roles = dict(self.fixed)
        roles.update({role: np.asarray(values[name]) for role, name in self.event_roles.items()})
        if intensity.ndim == 1:
            return [self._curve(intensity, roles, origin)]
        sigma, mask, flat = (_flat(roles.get(role), 2) for role in ("sigma", "mask", "flat"))
        dark = _flat(roles.get("dark"), 2)
        if isinstance(self.scan, GeometryError):
            raise self.scan
        if self.scan is not None:
            return self.scan.take(intensity, values, None if mask is None else mask != 0, origin)
        if isinstance(self.detector, GeometryError):
            raise self.detector
        bad = self.pixels.of(intensity, mask, counted=sigma is None)
        if isinstance(self.detector, HologramGeometry):
            return [
                hologram_frame(
                    intensity, self.detector, flat=flat, dark=dark, sigma=sigma, mask=bad, origin=origin
                )
            ]
        bounds = bounds_said(self.said, self.data_key)
        return [Frame(intensity, self.detector, sigma=sigma, mask=bad, origin=origin, bounds=bounds)]

    def due(self, seq_num: int) -> bool:
        """Return whether the event of this number makes a frame."""
        return self.points is None or self.points.due(seq_num)

    def release(self) -> list[Frame | Failure]:
        """Give the frames that wait for others which will not come."""
        return self.scan.release() if isinstance(self.scan, ScanFrames) else []

    def _curve(self, intensity: Array, roles: Mapping[str, Array], origin: Origin) -> Frame:
        q = self._in_inverse_angstrom("q", roles)
        if q is None:
            raise GeometryError(
                f"{self.data_key}: a curve of {intensity.size} points has no q; record {self.data_key}_q in "
                "the same event or the device's configuration, or name it in the start document, "
                "nfphasing={'q_key': ...}"
            )
        if roles.get("sigma") is None:
            raise FrameError(
                f"{self.data_key}: a curve has no sigma; record {self.data_key}_sigma beside it, or "
                "name it in the start document, nfphasing={'sigma_key': ...}"
            )
        if intensity.shape != q.shape:
            raise FrameError(
                f"{self.data_key}: intensity has shape {intensity.shape}, expected that of its q, {q.shape}"
            )
        geometry = CurveGeometry(
            q,
            dq_inv_angstrom=self._in_inverse_angstrom("dq", roles),
            absolute=self.per_cm is not None,
            contrast_inv_cm2=self.said.get("contrast_inv_cm2"),
            q_relative_error=self.said.get("q_relative_error", 0.0),
        )
        sigma, mask = _flat(roles["sigma"], 1), _flat(roles.get("mask"), 1)
        bounds = bounds_said(self.said, self.data_key)
        if self.per_cm not in (None, 1.0) and sigma is not None:
            intensity, sigma = self.per_cm * intensity, self.per_cm * sigma
        return Frame(intensity, geometry, sigma=sigma, mask=mask, origin=origin, bounds=bounds)

    def _in_inverse_angstrom(self, role: str, roles: Mapping[str, Array]) -> Array | None:
        value = roles.get(role)
        if value is None:
            return None
        units = self.units.get(role)
        if role == "dq" and not units:
            units = self.units.get("q")
        factor = inverse_angstrom(units, f"{self.data_key}, {role}")
        flat = _flat(np.asarray(value, dtype=np.float64), 1)
        return None if flat is None else flat * factor

    def _one_exposure(self, intensity: Array) -> Array:
        """Take (Q,), (H, W), or the same behind leading axes that count exposures; say how to join many."""
        while intensity.ndim > 1 and intensity.shape[0] == 1:
            intensity = intensity[0]
        if intensity.ndim == 3:
            how = self.said.get("exposures")
            if how == "sum":
                return intensity.sum(axis=0, dtype=np.float64)
            if how == "mean":
                return intensity.mean(axis=0, dtype=np.float64)
            raise FrameError(
                f"{self.data_key}: one event holds {intensity.shape[0]} exposures of {intensity.shape[1:]}, "
                "expected one; say in the start document how to join them, nfphasing={'exposures': 'sum'} "
                "or 'mean'"
            )
        if intensity.ndim not in (1, 2):
            raise FrameError(
                f"{self.data_key}: one event has shape {intensity.shape}, expected a curve (Q,) "
                "or an image (H, W)"
            )
        return intensity


def read_layout(
    start: Document,
    descriptor: Document,
    data_key: str | None,
    geometry: DetectorGeometry | None = None,
    beam: Beam | None = None,
    settings: StreamSettings | None = None,
) -> Layout:
    """Read from a start document and a descriptor how the stream's frames are made.

    Args:
        start: the run's start document.
        descriptor: of the stream.
        data_key: the key asked for, or None to find it.
        geometry: of two-dimensional frames where the caller knows better than the documents (a PONI file).
        beam: of ptychographic scans; with it every two-dimensional frame is taken for one of these.
        settings: whether frames grow, where the start document does not say.

    Raises:
        DataKeyError: no such data key, or no unique one.
    """
    settings = settings or StreamSettings()
    points = points_of(start, settings)
    if points is not None:
        curve = PointCurve(start, descriptor, points)
        stream, said = descriptor.get("name", ""), own_metadata(start)
        return Layout(stream, points.intensity, {}, {}, {}, _NO_IMAGE, said, points=curve)
    chosen = choose_data_key(start, descriptor, data_key)
    event_roles = companions_in(start, descriptor, chosen)
    fixed: dict[str, Array] = {}
    units = {role: descriptor["data_keys"][name].get("units") for role, name in event_roles.items()}
    for role in ROLES:
        if role in event_roles:
            continue
        value, unit = _fixed_companion(start, descriptor, chosen, role)
        if value is not None:
            fixed[role], units[role] = value, unit
    detector: Detector | GeometryError
    saturation = None
    try:
        saturation = saturation_said(start, chosen)
        detector = geometry or image_geometry(start, descriptor, chosen)
    except GeometryError as error:
        detector = error
    pixels = BadPixels(
        chosen,
        saturation,
        surface=isinstance(detector, GrazingGeometry),
        pattern=not isinstance(detector, HologramGeometry),
    )
    stream = descriptor.get("name", "")
    scan = None if beam is None else _scan(start, descriptor, chosen, beam)
    exposures = Accumulated() if accumulates(start, settings) else None
    said = own_metadata(start)
    return Layout(
        stream,
        chosen,
        event_roles,
        fixed,
        units,
        detector,
        said,
        scan,
        exposures=exposures,
        pixels=pixels,
        per_cm=_scale(said, descriptor, chosen, detector),
    )


def _scale(
    said: Mapping[str, Any], descriptor: Document, data_key: str, detector: Detector | GeometryError
) -> float | None:
    """Factor from a stream's intensities to 1/cm; None where nothing says that they are absolute."""
    if isinstance(detector, PlaneGeometry):
        return 1.0 if detector.absolute else None
    stated = per_cm(descriptor["data_keys"][data_key].get("units") or "")
    absolute = said.get("absolute")
    if absolute is None:
        return stated
    return (stated or 1.0) if absolute else None


def _scan(start: Document, descriptor: Document, data_key: str, beam: Beam) -> ScanFrames | GeometryError:
    try:
        return ScanFrames(start, descriptor, data_key, beam)
    except GeometryError as error:
        return error


def _fixed_companion(
    start: Document, descriptor: Document, data_key: str, role: str
) -> tuple[Array | None, str | None]:
    """Find a companion in the device configuration or, failing that, in the start document."""
    for name in companion_names(start, descriptor, data_key, role):
        for device in (descriptor.get("configuration") or {}).values():
            if name in device.get("data", {}):
                declared = device.get("data_keys", {}).get(name, {})
                return np.asarray(device["data"][name]), declared.get("units")
    said = own_metadata(start)
    if said.get(role) is not None:
        return np.asarray(said[role]), said.get(f"{role}_units")
    return None, None


def _flat(value: Array | None, ndim: int) -> Array | None:
    """Drop leading axes of length one, which AreaDetector and ophyd-async put before every array."""
    while value is not None and value.ndim > ndim and value.shape[0] == 1:
        value = value[0]
    return value
