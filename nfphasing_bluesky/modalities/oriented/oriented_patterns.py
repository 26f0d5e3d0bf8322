"""Patterns of oriented particles as tensors: how frames become a batch, what a network sees, perturbations.

The noise is Gaussian. Counts are Poisson, but a bin joins many pixels, and then scale and background, in
which the model is linear, can be integrated out exactly; sigma comes from the counts of a bin and its
neighbours (`noise.local_counts`), and the intensity makes up for what that does (`noise.made_up_for`).
Frames that are no counts any more bring their own sigma.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfphasing_bluesky.core import (
    DetectorGeometry,
    Frame,
    FrameError,
    GeometryError,
    PlaneGeometry,
    plane_of,
)
from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.modalities.batches import Measured, noise_channels
from nfphasing_bluesky.modalities.curves import log_uniform
from nfphasing_bluesky.modalities.oriented import polar
from nfphasing_bluesky.physics.counting import beam_stop_disc, module_gaps
from nfphasing_bluesky.physics.noise import local_counts, made_up_for, poisson_counts

Q_TOP = (0.05, 0.2)
"""Largest q of a pattern, 1/angstrom; pixels beyond the upper one are not looked at."""
SIDES = (64, 160)
COUNTS = (1e3, 1e9)
FLOOR = (0.005, 0.03)
Q_RELATIVE_ERROR = 0.01
CENTRE_ERROR_PX = 0.05
ARM_SHARE, ARM_HALF_WIDTH = 0.3, 0.03
MIN_BINS = 200
MIN_SIGNAL_TO_NOISE = 10.0
CONTEXT = 2
"""Bins each way that make one point of the network's map."""


@dataclass(frozen=True)
class PatternBatch(Measured):
    """B patterns in polar bins, azimuths counted from each pattern's own axis.

    Args:
        intensity, sigma: (B, R, A) mean per pixel, made up for weights; sigma includes the systematic floor.
        mask: (B, R, A) bool, True = no pixels.
        azimuth, azimuth_variance: (B, R, A) of the bins' pixels, rad.
        radial: (B, R, A, 3) weights of the ring's moduli.
        axis: (B,) azimuth of the pattern's axis, rad.
        q_top: (B,) largest q, 1/angstrom.
        contrast: (B,) electron-density contrast in e/angstrom^3, NaN where it is not known.
        q_relative_error: (B,) standard deviation of the common relative error of q.
    """

    intensity: Tensor
    sigma: Tensor
    mask: Tensor
    azimuth: Tensor
    azimuth_variance: Tensor
    radial: Tensor
    axis: Tensor
    q_top: Tensor
    contrast: Tensor
    q_relative_error: Tensor

    def waves(self, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """(B, R, 2 K, A) see `polar.waves`."""
        return polar.waves(self.azimuth.to(dtype), self.azimuth_variance.to(dtype), count)


def binned(
    sums: Tensor,
    variances: Tensor | None,
    nominal: polar.Sectors,
    floor: Tensor,
    q_top: Tensor,
    contrast: Tensor,
    q_relative_error: Tensor,
) -> PatternBatch:
    """Turn fine bins to the pattern's axis and join them.

    Args:
        sums: (B, R, F) of the intensities.
        variances: (B, R, F) sums of sigma^2; None when the intensities are counts.
        nominal: where the pixels are held to be.
        floor: (B,) relative systematic error.
        q_top: (B,).
        contrast: (B,).
        q_relative_error: (B,).
    """
    azimuth, _, _ = nominal.places()
    axis = polar.principal_axis(nominal.pixels, sums / nominal.pixels.clamp_min(1.0), azimuth)
    steps = polar.whole_steps(axis)
    own = nominal.turned(steps).joined()
    total = polar.joined_parts(polar.turned(sums, steps)).sum(3)
    n = own.pixels.clamp_min(1.0)
    floor = floor[:, None, None]
    if variances is None:
        level, follows = local_counts(total, own.pixels, circular=True)
        variance, slope = level / n, follows / n
    else:
        level, follows = total / n, torch.ones_like(n)
        variance = polar.joined_parts(polar.turned(variances, steps)).sum(3) / n.square()
        slope = torch.zeros_like(n)
    variance = variance + (floor * level).square()
    slope = slope + 2 * floor.square() * level * follows
    empty = own.pixels == 0
    intensity = made_up_for(total / n, torch.where(empty, 1.0, variance), slope)
    mean, spread, radial = own.places()
    return PatternBatch(
        intensity=torch.where(empty, 0.0, intensity).float(),
        sigma=torch.where(empty, 1.0, variance).sqrt().float(),
        mask=empty,
        azimuth=mean,
        azimuth_variance=spread,
        radial=radial,
        axis=steps.double() * (pi / polar.FINE),
        q_top=q_top.double(),
        contrast=contrast,
        q_relative_error=q_relative_error,
    )


def collate(frames: Sequence[Frame], sigma_floor: float) -> PatternBatch:
    """Turn frames of any size into a batch. Raises FrameError or GeometryError for a bad one."""
    rows = [_row(frame, sigma_floor) for frame in frames]
    return PatternBatch(*(torch.cat([getattr(row, f.name) for row in rows]) for f in fields(PatternBatch)))


def _plane(frame: Frame) -> PlaneGeometry:
    geometry = frame.geometry
    if isinstance(geometry, DetectorGeometry):
        height, width = frame.intensity.shape
        return plane_of(geometry, (height, width))
    if isinstance(geometry, PlaneGeometry):
        return geometry
    raise GeometryError(
        f"{frame.origin.label}: found a {type(geometry).__name__}, expected a PlaneGeometry (q of the "
        "pixels) or a DetectorGeometry; pass one of them"
    )


def used_pixels(frame: Frame, q: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(H, W) bool: pixels that a fit looks at. Raises FrameError where there are none."""
    label = frame.origin.label
    seen = frame.usable
    lowest = float(frame.intensity[seen].min(initial=0.0))
    if frame.sigma is None and lowest < 0:
        raise FrameError(
            f"{label}: the smallest intensity is {lowest:.3g}, expected counts; mask bad pixels, or pass "
            "sigma where the frame is no counts any more"
        )
    used = seen & (q > 0) & (q <= Q_TOP[1])
    if not used.any():
        raise FrameError(
            f"{label}: no usable pixel has 0 < q <= {Q_TOP[1]:g} 1/angstrom; the frame's q goes from "
            f"{q.min():.3g} to {q.max():.3g}, {100 * seen.mean():.3g} % of its pixels are finite, not "
            "negative and not masked; check the mask, the beam centre and the unit of q"
        )
    return used


def pixels(frame: Frame) -> tuple[NDArray[np.floating], NDArray[np.floating], float]:
    """(H, W) qx and qy of a frame, and the largest q that is looked at, 1/angstrom."""
    qx, qy = _plane(frame).maps()
    q = np.hypot(qx, qy)
    return qx, qy, float(q[used_pixels(frame, q)].max())


def _row(frame: Frame, sigma_floor: float) -> PatternBatch:
    label, plane = frame.origin.label, _plane(frame)
    qx, qy = plane.maps()
    q = np.hypot(qx, qy)
    used = used_pixels(frame, q)
    values = np.where(used, frame.intensity, 0.0)
    tensors = (torch.from_numpy(np.ascontiguousarray(v).reshape(1, -1)) for v in (qx, qy, used, values))
    x, y, inside, intensity = tensors
    top = torch.tensor([float(q[used].max())], dtype=torch.float64)
    index = polar.bin_index(x, y, inside, top)
    variances = None
    if frame.sigma is not None:
        square = np.where(used, frame.sigma, 0.0).reshape(1, -1) ** 2
        variances = polar.summed(index, torch.from_numpy(square), 1)
    batch = binned(
        polar.summed(index, intensity, 1),
        variances,
        polar.sectors(index, x, y, top),
        torch.tensor([sigma_floor], dtype=torch.float64),
        top,
        torch.tensor([_contrast(plane)]),
        torch.tensor([plane.q_relative_error]),
    )
    _check(batch, label)
    return batch


def _check(batch: PatternBatch, label: str) -> None:
    filled = int((~batch.mask).sum())
    if filled < MIN_BINS:
        raise FrameError(
            f"{label}: {filled} of {batch.mask.numel()} polar bins have a usable pixel, expected at least "
            f"{MIN_BINS}; check the mask and the q of the pixels, or bin the frame less"
        )
    signal = float(_signal_to_noise(batch))
    if not signal > MIN_SIGNAL_TO_NOISE:
        raise FrameError(
            f"{label}: the mean intensity has a signal-to-noise ratio of {signal:.2g}, expected more than "
            f"{MIN_SIGNAL_TO_NOISE:g}; expose longer, or sum frames"
        )


def _contrast(plane: PlaneGeometry) -> float:
    if plane.absolute and plane.contrast_inv_cm2 is not None:
        return plane.contrast_inv_cm2 * 1e-16 / ELECTRON_RADIUS_ANGSTROM
    return float("nan")


def usable(batch: PatternBatch) -> Tensor:
    """(B,) bool: patterns that `collate` would take."""
    filled = (~batch.mask).flatten(1).sum(1) >= MIN_BINS
    return filled & (_signal_to_noise(batch) > MIN_SIGNAL_TO_NOISE)


def _signal_to_noise(batch: PatternBatch) -> Tensor:
    weight = batch.root_weight.square()
    return (weight * batch.intensity).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-300).sqrt()


CHANNELS = 4
MAP = (polar.RINGS // CONTEXT) * (polar.SECTORS // CONTEXT)
EXTRAS = 2


def context(batch: PatternBatch) -> tuple[Tensor, Tensor]:
    """Channels (B, C, MAP) and scalars (B, 1 + EXTRAS), the first of them the axis.

    Log of intensity and of noise over the mean, signal to noise, and mask, on a map of half the resolution.
    """
    weight = batch.root_weight.square()

    def joined(values: Tensor) -> Tensor:
        parts = values.unflatten(2, (-1, CONTEXT)).unflatten(1, (-1, CONTEXT))
        return parts.sum((2, 4)).flatten(1)

    total = joined(weight)
    empty = total <= 0
    safe = torch.where(empty, 1.0, total)
    mean, noise = joined(weight * batch.intensity) / safe, safe.rsqrt()
    channels = noise_channels(mean, noise, ~empty)
    extra = [batch.axis, 2 * (batch.q_top / 0.1).log(), _signal_to_noise(batch).clamp_min(1.0).log() / 4 - 1]
    return channels, torch.stack(extra, 1).float()


def features(batch: PatternBatch) -> Mapping[str, Tensor]:
    """Properties of the patterns that a card's ranges bound."""
    filled = ~batch.mask
    ratio = torch.where(filled, batch.sigma / batch.intensity.abs().clamp_min(1e-30), torch.inf)
    return {
        "q_top_inv_angstrom": batch.q_top,
        "points": filled.flatten(1).sum(1).double(),
        "best_relative_sigma": ratio.flatten(1).amin(1).double(),
    }


@dataclass(frozen=True)
class Exposure:
    """Detectors that see N patterns: fine bins where they are held to be, and where they are."""

    nominal: polar.Sectors
    true: polar.Sectors
    q_top: Tensor


def random_exposure(n: int, generator: torch.Generator) -> Exposure:
    """Square detectors of one size for all: centre, its error, beam stop, its holder and gaps differ."""
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device, dtype=torch.float64)

    side = int(log_uniform((float(SIDES[0]), float(SIDES[1])), 1, generator).round())
    off = torch.where(uniform(n, 1) < 0.5, 0.02, 0.3) * side * (2 * uniform(n, 2) - 1)
    centre = (side - 1) / 2 + off
    mask = beam_stop_disc((side, side), centre, uniform(n) * 0.05 * side)
    gaps = torch.where(uniform(2, n, 1) < 0.4, uniform(2, n, 1) * side, 2 * side).long()
    mask = mask | module_gaps((side, side), gaps[0], gaps[1], max(1, side // 40))
    step = torch.arange(side, dtype=torch.float64, device=device)
    y = (step[:, None] - centre[:, 0, None, None]).expand(n, side, side).flatten(1)
    x = (step - centre[:, 1, None, None]).expand(n, side, side).flatten(1)
    used = ~(mask.flatten(1) | _holder(x, y, uniform(3, n, 1), side))
    radius = torch.where(used, torch.hypot(x, y), 0.0).amax(1)
    q_top = log_uniform(Q_TOP, n, generator).double()
    pixel = (q_top / radius)[:, None]
    x, y = x * pixel, y * pixel
    index = polar.bin_index(x, y, used, q_top)
    shift = CENTRE_ERROR_PX * (2 * uniform(2, n, 1) - 1) * pixel
    return Exposure(
        polar.sectors(index, x, y, q_top), polar.sectors(index, x + shift[0], y + shift[1], q_top), q_top
    )


def _holder(x: Tensor, y: Tensor, u: Tensor, side: int) -> Tensor:
    """(B, P) True behind the arm of a beam stop, if there is one, along a row or a column to an edge.

    Args:
        x: (B, P) from the beam, pixels.
        y: (B, P) from the beam, pixels.
        u: (3, B, 1) uniform: whether there is one, which way, how wide.
        side: of the detector, pixels.
    """
    turned = torch.where(u[1] < 0.5, x, y), torch.where(u[1] < 0.5, y, x)
    along = turned[0] * torch.where((2 * u[1]).remainder(1) < 0.5, 1.0, -1.0)
    return (u[0] < ARM_SHARE) & (along > 0) & (turned[1].abs() < u[2] * ARM_HALF_WIDTH * side)


def measured(
    exposure: Exposure,
    expected: Tensor,
    error: Tensor,
    generator: torch.Generator,
) -> tuple[PatternBatch, Tensor]:
    """Count patterns at a random dose; also the (B,) counts of unit intensity in a pixel.

    Args:
        exposure: of each.
        expected: (B, R, F) intensity at the fine bins' true places.
        error: (B,) what q is said to be good to.
        generator: of every random number.
    """
    n, pixels = len(expected), exposure.nominal.pixels
    counts = log_uniform(COUNTS, n, generator).double()
    scale = counts / (pixels * expected).sum((1, 2)).clamp_min(1e-300)
    floor = log_uniform(FLOOR, n, generator).double()
    # so that the mean over the fine bins that are joined is uneven by the floor
    share = pixels / polar.neighbouring(pixels).clamp_min(1.0)
    uneven = torch.randn(expected.shape, generator=generator, device=expected.device)
    uneven = 1 + floor[:, None, None] * share.clamp_min(1e-3).rsqrt() * uneven
    mean = (scale[:, None, None] * pixels * expected * uneven).clamp_min(0.0)
    sums = poisson_counts(mean, generator).double()
    nothing = torch.full((n,), torch.nan, device=expected.device)
    return binned(sums, None, exposure.nominal, floor, exposure.q_top, nothing, error), scale
