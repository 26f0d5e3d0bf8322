"""From columns to a curve, the same for every file format: units, errors, and messages that name the file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import CurveGeometry, Frame, FrameError, GeometryError, Origin, PlaneGeometry
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.storage.units import (
    ANGLES,
    assumed_q_scale,
    q_of_degrees,
    require_scale,
    required_q_scale,
    stated_scale,
)


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about a file, over what the file says itself.

    Args:
        q_unit: unit of q, `1/angstrom` or `1/nm`; `two_theta_degree` or `theta_degree` where the column holds
            angles.
        columns: columns of text files: (q, I), (q, I, sigma) or (q, I, sigma, dq), counted from 0.
        relative_sigma: sigma as a fraction of the intensity, for files that hold no errors.
        dataset: path of the detector frames inside an HDF5 file.
        wavelength_angstrom: of the beam, where q is given as angles.
        q_range: lowest and highest q of curves to keep, 1/angstrom; None for all.
        join: neighbouring points of curves that become one, their mean.
        intensity_unit: 1/cm, 1/m or 1/mm for intensities on an absolute scale, else `arbitrary`.
        contrast_inv_cm2: scattering-length-density contrast of particle to solvent, 1/cm^2.
    """

    q_unit: str | None = None
    columns: tuple[int, ...] | None = None
    relative_sigma: float | None = None
    dataset: str | None = None
    wavelength_angstrom: float | None = None
    q_range: tuple[float, float] | None = None
    join: int = 1
    intensity_unit: str | None = None
    contrast_inv_cm2: float | None = None


@dataclass(frozen=True, eq=False)
class Columns:
    """A curve as its file has it.

    Args:
        q, intensity: (Q,), q in the file's unit.
        sigma, dq, mask: (Q,) or None where the file gives none; mask is True where a point must not be used.
        q_scale: factor from the file's unit of q to 1/angstrom; None where it names none.
        per_cm: factor from the file's unit of intensity to 1/cm; None where the scale is not absolute.
        number: place among the curves of the file, from 0.
    """

    q: FloatArray
    intensity: FloatArray
    sigma: FloatArray | None
    dq: FloatArray | None = None
    mask: NDArray[np.bool_] | None = None
    q_scale: float | None = None
    per_cm: float | None = None
    number: int = 0


def as_frame(columns: Columns, path: Path, options: ReadOptions) -> Frame:
    """Make a Frame of one curve.

    Raises:
        FrameError: there are no errors and no `relative_sigma`.
        GeometryError: q is not increasing, its unit is in doubt, or a contrast has no absolute scale.
    """
    if options.q_unit in ANGLES:
        columns = _without_angles(columns, path, options)
        scale = 1.0
    elif options.q_unit is not None:
        scale = required_q_scale(options.q_unit, path, "q_unit=")
    else:
        scale = columns.q_scale or assumed_q_scale(columns.q, path)
    sigma = _sigma(columns, path, options)
    per_cm = columns.per_cm if options.intensity_unit is None else stated_scale(options.intensity_unit, path)
    require_scale(per_cm is not None, options.contrast_inv_cm2, path)
    try:
        geometry = CurveGeometry(
            q_inv_angstrom=columns.q * scale,
            dq_inv_angstrom=None if columns.dq is None or not np.any(columns.dq > 0) else columns.dq * scale,
            absolute=per_cm is not None,
            contrast_inv_cm2=options.contrast_inv_cm2,
        )
        frame = Frame(
            intensity=columns.intensity * (per_cm or 1.0),
            sigma=sigma * (per_cm or 1.0),
            mask=columns.mask,
            geometry=geometry,
            origin=Origin(label=path.name, seq_num=columns.number + 1),
        )
        return joined(cut(frame, options.q_range, path), options.join, path)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def on_scale(frame: Frame, options: ReadOptions, path: Path) -> Frame:
    """Return a frame of two dimensions with the scale and the contrast that the caller gives, where any.

    Raises:
        GeometryError: a contrast, and no absolute scale; either of them for frames of another kind.
    """
    unit, geometry = options.intensity_unit, frame.geometry
    factor = None if unit is None else stated_scale(unit, path)
    if not isinstance(geometry, PlaneGeometry):
        if factor is not None:
            raise GeometryError(
                f"{path}: intensity_unit={unit!r} for counts of a detector, expected a reduced curve or "
                "pattern; leave it out"
            )
        require_scale(False, options.contrast_inv_cm2, path)
        return frame
    contrast = geometry.contrast_inv_cm2 if options.contrast_inv_cm2 is None else options.contrast_inv_cm2
    absolute = geometry.absolute if unit is None else factor is not None
    require_scale(absolute, contrast, path)
    try:
        geometry = replace(geometry, absolute=absolute, contrast_inv_cm2=contrast)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error
    sigma = None if frame.sigma is None else frame.sigma * (factor or 1.0)
    return replace(frame, geometry=geometry, intensity=frame.intensity * (factor or 1.0), sigma=sigma)


def cut(frame: Frame, q_range: tuple[float, float] | None, path: Path) -> Frame:
    """Return a curve between two q, 1/angstrom. Raises FrameError where it has no two points there."""
    if q_range is None:
        return frame
    assert isinstance(frame.geometry, CurveGeometry)  # noqa: S101  as `as_frame` makes them
    q = frame.geometry.q_inv_angstrom
    kept = (q >= q_range[0]) & (q <= q_range[1])
    if kept.sum() < 2:
        raise FrameError(
            f"{path}: {int(kept.sum())} points between q = {q_range[0]:g} and {q_range[1]:g} 1/angstrom, "
            f"expected some: the curve goes from {q[0]:.4g} to {q[-1]:.4g}; pass q_range= in 1/angstrom, the "
            "lower one first"
        )
    return _picked(frame, lambda values: values[kept])


def joined(frame: Frame, count: int, path: Path) -> Frame:
    """Return a curve whose usable points are means of `count` neighbours; dq grows by their spread in q.

    Raises:
        FrameError: fewer than two would be left.
    """
    if count == 1:
        return frame
    assert isinstance(frame.geometry, CurveGeometry)  # noqa: S101  as `as_frame` makes them
    good = _picked(frame, lambda values: values[frame.usable])
    size = good.intensity.size
    if count < 1 or size < 2 * count:
        raise FrameError(f"{path}: join={count} of {size} points, expected at least two points to be left")
    group = np.minimum(np.arange(size) // count, size // count - 1)
    number = np.bincount(group)

    def mean(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(group, values) / number)

    assert isinstance(good.geometry, CurveGeometry) and good.sigma is not None  # noqa: S101  as above
    q, dq = good.geometry.q_inv_angstrom, good.geometry.dq_inv_angstrom
    spread = mean(q**2) - mean(q) ** 2 + (0.0 if dq is None else mean(dq**2))
    geometry = replace(
        good.geometry, q_inv_angstrom=mean(q), dq_inv_angstrom=np.sqrt(np.maximum(spread, 0.0))
    )
    sigma = np.sqrt(mean(good.sigma**2) / number)
    return replace(good, intensity=mean(good.intensity), sigma=sigma, mask=None, geometry=geometry)


def _picked(frame: Frame, pick: Callable[[NDArray[Any]], NDArray[Any]]) -> Frame:
    """Return a curve of some of its points."""
    assert isinstance(frame.geometry, CurveGeometry)  # noqa: S101  as `as_frame` makes them
    dq = frame.geometry.dq_inv_angstrom
    geometry = replace(
        frame.geometry,
        q_inv_angstrom=pick(frame.geometry.q_inv_angstrom),
        dq_inv_angstrom=None if dq is None else pick(dq),
    )
    sigma, mask = (None if v is None else pick(v) for v in (frame.sigma, frame.mask))
    return replace(frame, intensity=pick(frame.intensity), sigma=sigma, mask=mask, geometry=geometry)


def _without_angles(columns: Columns, path: Path, options: ReadOptions) -> Columns:
    """Return columns with q in place of angles, without the points at or below zero."""
    unit = str(options.q_unit)
    q = q_of_degrees(columns.q, unit, options.wavelength_angstrom, path)
    above = q > 0
    slope = np.gradient(q, columns.q) if q.size > 1 else q

    def kept(values: NDArray[Any] | None) -> Any:
        return None if values is None else values[above]

    return replace(
        columns,
        q=q[above],
        intensity=columns.intensity[above],
        sigma=kept(columns.sigma),
        dq=kept(None if columns.dq is None else columns.dq * slope),
        mask=kept(columns.mask),
    )


def _sigma(columns: Columns, path: Path, options: ReadOptions) -> FloatArray:
    """Return the file's errors, or those that the user gives for a file without."""
    known = columns.sigma is not None and bool(np.any(columns.sigma > 0))
    if columns.sigma is not None and known:
        return columns.sigma
    if options.relative_sigma is None:
        found = "no column of errors" if columns.sigma is None else "errors that are all zero or NaN"
        raise FrameError(
            f"{path}: found {found}, expected sigma next to q and I; say where the three are "
            "as columns=(0, 1, 2), or pass relative_sigma=0.02 for errors of 2 % of the intensity"
        )
    if not 0 < options.relative_sigma < np.inf:
        raise FrameError(f"{path}: relative_sigma={options.relative_sigma!r}, expected a positive fraction")
    return options.relative_sigma * np.abs(columns.intensity)
