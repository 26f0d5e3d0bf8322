"""Frames of ptychographic scans from what documents and files say: optics, probe, places and counts."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nfphasing_bluesky.core import (
    Frame,
    FrameError,
    GeometryError,
    Origin,
    PtychographyGeometry,
)
from nfphasing_bluesky.core.orientation import Orientation
from nfphasing_bluesky.documents.bad_pixels import left_out
from nfphasing_bluesky.documents.holograms import near_field

log = logging.getLogger(__name__)

NAMES = (
    "fresnel_number",
    "wavelength_m",
    "distance_m",
    "pixel_size_m",
    "focus_to_sample_m",
    "object_pixel_m",
    "centred",
    "saturation",
)
"""Numbers that all frames of a scan share; `distance_m` is from the sample to the detector, `pixel_size_m`
the detector's pixel, `object_pixel_m` the object's, `centred` 1 where a far-field frame has the direct beam
in its middle and 0 where in its corner, `saturation` the counts from which a pixel is not believed."""

CLOSE = 1.5
"""Factor by which the photons of the probe and of the frames may differ before the probe is scaled."""

_DARK_SHARE = 0.5


@dataclass(frozen=True)
class Optics:
    """What the frames of a scan have in common, save the probe.

    Args:
        fresnel_number: pixel Fresnel number of the near field; None in the far field.
        pixel_m: rows' and columns' pixel of the object, m, or None.
        wavelength_m: or None.
        centred: where the direct beam of a far-field frame is; None to find out.
        saturation: counts from which a pixel is not believed, or None.
    """

    fresnel_number: float | None = None
    pixel_m: tuple[float, float] | None = None
    wavelength_m: float | None = None
    centred: bool | None = None
    saturation: float | None = None


def read_optics(values: Mapping[str, float], shape: tuple[int, int], where: str, advice: str) -> Optics:
    """Make the optics of named numbers.

    With a `fresnel_number` or a `focus_to_sample_m` the frames are near-field ones, else far-field ones. The
    object's pixel is lambda z / (N dp) in the far field and the effective one in the near field, where all of
    that is known, unless `object_pixel_m` says it.

    Args:
        values: of `NAMES`, as many as are known.
        shape: (H, W) of the frames.
        where: what the error calls their source.
        advice: what it says to do.

    Raises:
        GeometryError: a near field of which too little is known, or a value that cannot be.
    """
    positive = {n: v for n, v in values.items() if n not in ("centred",)}
    if wrong := [f"{n}={v!r}" for n, v in positive.items() if not (np.isfinite(v) and v > 0)]:
        raise GeometryError(f"{where}: {', '.join(wrong)}, expected positive numbers, lengths in metres")
    wavelength, saturation = values.get("wavelength_m"), values.get("saturation")
    centred = bool(values["centred"]) if "centred" in values else None
    known = values.get("object_pixel_m")
    if "fresnel_number" in values or "focus_to_sample_m" in values:
        number, pixel = near_field(values, where, advice)
        pixel = known or pixel
        return Optics(number, None if pixel is None else (pixel, pixel), wavelength, True, saturation)
    distance, detector = values.get("distance_m"), values.get("pixel_size_m")
    pixels = None if known is None else (known, known)
    if pixels is None and wavelength is not None and distance is not None and detector is not None:
        rows, columns = (wavelength * distance / (n * detector) for n in shape)
        pixels = (rows, columns)
    return Optics(None, pixels, wavelength, centred, saturation)


def as_probe(array: ArrayLike, shape: tuple[int, int], where: str) -> NDArray[np.complexfloating]:
    """Return a probe as (P, H, W) modes, without leading axes of one.

    Raises:
        GeometryError: it is not complex, of another size than the frames, or of several sets of modes.
    """
    probe = np.asarray(array)
    while probe.ndim > 3 and probe.shape[0] == 1:
        probe = probe[0]
    probe = probe[None] if probe.ndim == 2 else probe
    if probe.dtype.kind != "c" or probe.ndim != 3:
        raise GeometryError(
            f"{where}: probe is {probe.dtype} {probe.shape}, expected complex (H, W) or (P, H, W), P modes; "
            "choose one set of modes"
        )
    if probe.shape[1:] != shape:
        raise GeometryError(
            f"{where}: probe {probe.shape} does not match the frames {shape}; reconstruct it at their size, "
            "or crop or pad the frames about the direct beam"
        )
    return probe


def looks_centred(pattern: NDArray) -> bool:
    """Return whether a far-field pattern (H, W) has its light in the middle and not in the corners."""
    inner = tuple(slice(n // 4, n - n // 4) for n in pattern.shape)
    light = np.where(np.isfinite(pattern) & (pattern > 0), pattern, 0.0)
    return bool(light[inner].sum() >= np.fft.fftshift(light)[inner].sum())


def photon_scale(
    probe: NDArray[np.complexfloating],
    frames: Iterable[NDArray],
    optics: Optics,
    mask: NDArray[np.bool_] | None = None,
) -> float | None:
    """Return the median factor by which the photons of frames differ from those that the probe sends.

    Only usable pixels are compared. Where these leave out most of the light (a beam stop), and where frames
    are dark, there is no telling; None when that is so for all.

    Args:
        probe: (P, H, W).
        frames: counts (H, W) each.
        optics: says where the light falls.
        mask: (H, W) True = not used.
    """
    if optics.fresnel_number is None:
        empty = np.square(np.abs(np.fft.fft2(probe, norm="ortho"))).sum(0)
        empty = empty if optics.centred is False else np.fft.fftshift(empty)
    else:
        empty = np.square(np.abs(probe)).sum(0)
    scales = []
    for counts in frames:
        good = ~unusable(counts, optics, mask)
        sent, measured = float(empty[good].sum()), float(counts[good].sum())
        if measured > 0 and sent > _DARK_SHARE * float(empty.sum()):
            scales.append(measured / sent)
    return float(np.median(scales)) if scales else None


def probe_in_photons(
    probe: NDArray[np.complexfloating], scale: float | None, where: str
) -> NDArray[np.complexfloating]:
    """Scale a probe to the frames' photons where they differ by more than `CLOSE`, and say so in the log.

    A code whose Fourier transform is not normalised has a probe that is too small by sqrt(H W): where that
    explains the difference it is the factor taken. Otherwise it is the measured one, and the mean modulus of
    the object's transmission then becomes about 1.

    Args:
        probe: (P, H, W).
        scale: the frames' photons over the probe's, or None where that is not known.
        where: what the log calls its source.
    """
    if scale is None or 1 / CLOSE <= scale <= CLOSE:
        return probe
    pixels = float(probe.shape[-1] * probe.shape[-2])
    known = next((s for s in (pixels, 1 / pixels) if 1 / CLOSE <= scale / s <= CLOSE), None)
    why = (
        "a Fourier transform without norm explains that"
        if known
        else "the modulus of the transmission is now 1 on average, whatever the sample absorbs"
    )
    factor = float(np.sqrt(known or scale))
    log.warning(
        "%s: the frames have %.4g times the probe's photons; the probe is multiplied by %.6g: %s",
        where,
        scale,
        factor,
        why,
    )
    return (probe * factor).astype(probe.dtype)


def positions_from_lengths(
    lengths_m: NDArray, optics: Optics, where: str, advice: str
) -> NDArray[np.float64]:
    """Return positions (N, 2), row and column, in the object's pixels, of lengths in the same order, m.

    Raises:
        GeometryError: the object's pixel is not known.
    """
    if optics.pixel_m is None:
        raise GeometryError(
            f"{where}: positions in metres, but the object's pixel is not known, expected object_pixel_m, or "
            f"wavelength_m, distance_m and pixel_size_m; {advice}"
        )
    return np.asarray(lengths_m, dtype=np.float64) / np.asarray(optics.pixel_m)


def read_signs(value: Any, where: str) -> tuple[float, float]:
    """Return the signs of rows and columns from one number or two, each +1 or -1.

    Raises:
        GeometryError: it is something else.
    """
    signs = np.atleast_1d(np.asarray(value, dtype=np.float64)).ravel()
    if signs.size not in (1, 2) or not np.isin(signs, (-1, 1)).all():
        raise GeometryError(
            f"{where}: positions_sign={value!r}, expected +1 or -1, or one for rows and columns"
        )
    return float(signs[0]), float(signs[-1])


def positions_turn(signs: tuple[float, float], order: str, where: str) -> Orientation:
    """Return what is done to positions: `order` "xy" has columns first, then the signs count.

    Raises:
        GeometryError: another order.
    """
    if order not in ("yx", "xy"):
        raise GeometryError(
            f"{where}: positions_order={order!r}, expected 'yx', rows first, or 'xy', columns first"
        )
    return Orientation(order == "xy", signs[0] < 0, signs[1] < 0)


def turned(images: NDArray, turn: Orientation, optics: Optics) -> NDArray:
    """Turn frames or masks (..., H, W); the direct beam of a far field stays in its pixel."""
    if optics.fresnel_number is not None:
        return turn.image(images)
    side = images.shape[-1]
    return turn.image(images, centre=0 if optics.centred is False else side // 2)


def unusable(counts: NDArray, optics: Optics, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """(H, W) True where a pixel is masked, negative, saturated, or the largest value of an unsigned dtype."""
    bad = ~np.isfinite(counts) | (counts < 0)
    further = left_out(counts, mask, optics.saturation)
    return bad if further is None else bad | further


def ptychography_frame(
    counts: NDArray,
    optics: Optics,
    probe: NDArray[np.complexfloating],
    place: tuple[float, float],
    *,
    mask: NDArray | None = None,
    background: NDArray | None = None,
    origin: Origin,
    doubt: str = "",
) -> Frame:
    """Make one frame.

    Args:
        counts: (H, W).
        optics: of the scan; `centred` must be known.
        probe: (P, H, W), in photons^(1/2).
        place: row and column of pixel [0, 0] in the object's pixels.
        mask: (H, W) True = not used.
        background: (H, W) photons in every frame that never saw the object, where known.
        origin: of the frame.
        doubt: what is wrong with the scan.

    Raises:
        FrameError: no light, or a mask of another shape.
        GeometryError: a place that is not finite.
    """
    if counts.shape != probe.shape[1:]:
        raise FrameError(f"{origin.label}: frame {counts.shape} does not match the probe {probe.shape}")
    if mask is not None and mask.shape != counts.shape:
        raise FrameError(f"{origin.label}: mask {mask.shape} does not match the frame {counts.shape}")
    bad = unusable(counts, optics, mask)
    if not np.any(counts > 0, where=~bad):
        raise FrameError(
            f"{origin.label}: no photons in {counts.size - int(bad.sum())} usable of {counts.size} pixels; "
            "check shutter and mask"
        )
    rows, columns = optics.pixel_m or (None, None)
    square = rows is not None and columns is not None and abs(rows / columns - 1) < 1e-3
    geometry = PtychographyGeometry(
        probe,
        place,
        optics.fresnel_number,
        centred=optics.centred is not False,
        pixel_size_m=rows if square else None,
        wavelength_m=optics.wavelength_m,
        background=background,
    )
    return Frame(np.where(bad, 0, counts), geometry, mask=bad, origin=origin, doubt=doubt)
