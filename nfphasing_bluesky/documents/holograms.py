"""Near-field holograms from what documents and files say: geometry, and counts over the empty beam."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    Frame,
    FrameError,
    GeometryError,
    HologramGeometry,
    Origin,
    effective_beam,
    fresnel_number,
)

NAMES = (
    "fresnel_number",
    "beta_over_delta",
    "wavelength_m",
    "distance_m",
    "pixel_size_m",
    "focus_to_sample_m",
    "photons",
)
"""Numbers that make a geometry; `distance_m` is from the sample to the detector, `pixel_size_m` its pixel."""

SAME_NUMBER = 0.01
"""Relative difference up to which a Fresnel number is what the lengths make of it."""

TELLING = frozenset({"fresnel_number", "focus_to_sample_m", "beta_over_delta", "photons"})
"""Of these, those that no other geometry has."""


def hologram_geometry(values: Mapping[str, float], where: str, advice: str) -> HologramGeometry:
    """Make a geometry of named numbers.

    It takes `fresnel_number`, or `wavelength_m`, `distance_m`, `pixel_size_m` and, for a cone beam,
    `focus_to_sample_m`: pixel and distance are then the effective ones.

    Args:
        values: of `NAMES`, as many as are known.
        where: what the error calls their source.
        advice: what it says to do.

    Raises:
        GeometryError: too little is known, or a value that cannot be.
    """
    lengths = {name: value for name, value in values.items() if name.endswith("_m")}
    if wrong := [f"{name}={value!r}" for name, value in lengths.items() if not value > 0]:
        raise GeometryError(f"{where}: {', '.join(wrong)}, expected positive lengths in metres")
    number, pixel = near_field(values, where, advice)
    return HologramGeometry(
        fresnel_number=number,
        beta_over_delta=values.get("beta_over_delta", 0.0),
        pixel_size_m=pixel,
        wavelength_m=values.get("wavelength_m"),
        photons=values.get("photons"),
    )


def near_field(values: Mapping[str, float], where: str, advice: str) -> tuple[float, float | None]:
    """Pixel Fresnel number, and the effective pixel, m, where that is known; arguments as above.

    Raises:
        GeometryError: too little is known, or two things that are not both true.
    """
    wavelength, pixel = values.get("wavelength_m"), values.get("pixel_size_m")
    distance, focus = values.get("distance_m"), values.get("focus_to_sample_m")
    if pixel is not None and distance is not None and focus is not None:
        beam = effective_beam(focus, distance, pixel)
        pixel, distance = float(beam.pixel_m), float(beam.distance_m)
    said = values.get("fresnel_number")
    if wavelength is None or distance is None or pixel is None:
        if said is None:
            raise GeometryError(
                f"{where}: a near field with neither fresnel_number nor all of wavelength_m, distance_m and "
                f"pixel_size_m, but {', '.join(sorted(values)) or 'nothing'}; {advice}"
            )
        return said, pixel
    number = float(fresnel_number(pixel, wavelength, distance))
    if said is not None and not abs(said - number) <= SAME_NUMBER * number:
        raise GeometryError(
            f"{where}: fresnel_number={said:.6g}, but wavelength, distances and pixel make it {number:.6g}, "
            f"expected the same within {SAME_NUMBER:.0%}; correct or leave out what is wrong (distance_m is "
            "from sample to detector, pixel_size_m the detector's)"
        )
    return said or number, pixel


def hologram_frame(
    counts: NDArray,
    geometry: HologramGeometry,
    *,
    flat: NDArray | None = None,
    dark: NDArray | None = None,
    sigma: NDArray | None = None,
    mask: NDArray | None = None,
    origin: Origin,
) -> Frame:
    """Divide counts by those of the empty beam.

    What is negative, as a detector's marks are, is masked.

    Args:
        counts: (H, W).
        geometry: its `photons` are the empty beam's counts where there is no `flat`.
        flat: (H, W) counts of an empty image; pixels without any are masked.
        dark: (H, W) counts without light, which are taken off counts and flat.
        sigma: (H, W) of the counts, by default from themselves. With neither flat nor photons counts and
            sigma are taken to be normalised already.
        mask: (H, W) True = not used.
        origin: of the frame.

    Raises:
        FrameError: flat or dark image have another shape, or nothing is brighter than the dark image.
    """
    bad = counts < 0
    if mask is not None:
        bad |= mask
    for name, image in (("flat", flat), ("dark", dark)):
        if image is not None and np.shape(image) != counts.shape:
            raise FrameError(
                f"{origin.label}: {name} {np.shape(image)} does not match the frame {counts.shape}; measure "
                "it with the same region of interest"
            )
    values = counts if dark is None else counts - dark
    empty = geometry.photons if flat is None else flat
    if empty is None:
        return Frame(values, geometry, sigma, bad, origin)
    bright = np.asarray(empty, dtype=np.float64)
    if dark is not None and flat is not None:
        bright = bright - dark
    lit = bright > 0
    if not lit.any():
        raise FrameError(
            f"{origin.label}: the empty image has no light beyond the dark one, expected some; check which "
            "is which"
        )
    if not lit.all():
        bad |= ~lit
    scale = 1.0 / np.where(lit, bright, 1.0)
    deviation = _poisson_deviation(counts) if sigma is None else sigma
    values = np.multiply(values, scale, dtype=np.float64)
    return Frame(values, geometry, np.multiply(deviation, scale, dtype=np.float64), bad, origin)


def _poisson_deviation(counts: NDArray) -> NDArray[np.float32]:
    """Square root of counts plus one, to seven digits: in double it takes longer than all else of a frame."""
    deviation = np.add(counts, np.float32(1.0), dtype=np.float32, casting="same_kind")
    if counts.dtype.kind != "u" and not deviation.min() >= 1.0:
        np.maximum(deviation, np.float32(1.0), out=deviation)
    return np.sqrt(deviation, out=deviation)
