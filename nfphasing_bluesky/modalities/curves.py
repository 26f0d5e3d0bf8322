"""Curves as tensors: what the 1-D modalities share before any particle or p(r) comes in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import CurveGeometry, Frame, FrameError, GeometryError
from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.modalities.batches import Measured
from nfphasing_bluesky.modalities.smeared_curves import Resolution
from nfphasing_bluesky.physics.noise import random_missing_ranges, reduced_curve_sigma, uneven_sigma

MIN_POINTS = 10
MIN_SIGNAL_TO_NOISE = 4.0


@dataclass(frozen=True)
class CurveBatch(Measured):
    """B curves padded to a common number of points.

    Args:
        q: (B, Q) 1/angstrom; padding repeats the last point and is masked.
        intensity, sigma: (B, Q); sigma includes the systematic floor.
        mask: (B, Q) bool, True = do not use.
        contrast: (B,) electron-density contrast in e/angstrom^3, NaN where it is not known.
        q_relative_error: (B,) standard deviation of the common relative error of q.
        resolution: of the instrument, for models that have one; None for curves without.
    """

    q: Tensor
    intensity: Tensor
    sigma: Tensor
    mask: Tensor
    contrast: Tensor
    q_relative_error: Tensor
    resolution: Resolution | None = None

    @property
    def model_q(self) -> Tensor:
        """(B, ...) what a model is computed at: q, or packed with the resolution that it is seen through."""
        return self.q if self.resolution is None else self.resolution.packed


def grouped(batch: CurveBatch, most: int) -> CurveBatch:
    """Average neighbouring points, with weights 1/sigma^2, so that at most `most` points are left."""
    size = -(-batch.q.shape[1] // most)
    if size == 1:
        return batch
    missing = -batch.q.shape[1] % size

    def groups(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (0, missing)).unflatten(1, (-1, size))

    weight = groups(batch.root_weight.square())
    total = weight.sum(2)
    empty = total <= 0
    safe = torch.where(empty, 1.0, total)
    q = torch.where(empty, batch.q[:, ::size], (weight * groups(batch.q)).sum(2) / safe)
    return CurveBatch(
        q=q.to(batch.q),
        intensity=((weight * groups(batch.intensity)).sum(2) / safe).to(batch.intensity),
        sigma=safe.rsqrt().to(batch.sigma),
        mask=empty,
        contrast=batch.contrast,
        q_relative_error=batch.q_relative_error,
    )


def collate(frames: Sequence[Frame], sigma_floor: float) -> CurveBatch:
    """Turn frames into a batch, checking each. Raises FrameError or GeometryError for a bad one."""
    rows = [_row(frame, sigma_floor) for frame in frames]
    width = max(row["q"].size for row in rows)
    stacked = {
        name: torch.from_numpy(np.stack([_pad(row[name], width, name) for row in rows]))
        for name in ("q", "intensity", "sigma", "mask")
    }
    contrast = [_contrast(frame) for frame in frames]
    error = [frame.geometry.q_relative_error for frame in frames]  # type: ignore[union-attr]
    known = {"contrast": torch.tensor(contrast), "q_relative_error": torch.tensor(error)}
    return CurveBatch(**stacked, **known, resolution=None)


def _row(frame: Frame, sigma_floor: float) -> dict[str, np.ndarray]:
    label = frame.origin.label
    if not isinstance(frame.geometry, CurveGeometry):
        raise GeometryError(
            f"{label}: found a {frame.intensity.ndim}-D frame, expected a curve I(q); integrate it first "
            "(give a PONI file or a detector geometry)"
        )
    if frame.sigma is None:
        raise FrameError(f"{label}: sigma is missing, expected one standard deviation per point; pass sigma")
    usable = frame.usable & (frame.geometry.q_inv_angstrom > 0)
    if usable.sum() < MIN_POINTS:
        raise FrameError(
            f"{label}: {int(usable.sum())} usable points of {usable.size}, expected at least {MIN_POINTS}; "
            "check the mask, NaN values and sigma"
        )
    intensity = np.where(usable, frame.intensity, 0.0)
    sigma = np.where(usable, frame.sigma, 1.0)
    weight = torch.from_numpy(np.where(usable, 1 / np.asarray(sigma, dtype=np.float64) ** 2, 0.0))
    signal = float(_signal_to_noise(torch.from_numpy(np.asarray(intensity, dtype=np.float64)), weight))
    if not signal > MIN_SIGNAL_TO_NOISE:
        raise FrameError(
            f"{label}: the mean intensity of the curve, or of its low-q part, has a signal-to-noise ratio of "
            f"{signal:.2g}, expected more than {MIN_SIGNAL_TO_NOISE:g}; no counts, or the buffer was "
            "subtracted twice"
        )
    sigma = np.hypot(sigma, sigma_floor * np.abs(intensity))
    return {"q": frame.geometry.q_inv_angstrom, "intensity": intensity, "sigma": sigma, "mask": ~usable}


def usable(batch: CurveBatch) -> Tensor:
    """(B,) bool: curves with enough signal that `collate` would take them."""
    return _signal_to_noise(batch.intensity.double(), batch.weight.double()) > MIN_SIGNAL_TO_NOISE


def _signal_to_noise(intensity: Tensor, weight: Tensor) -> Tensor:
    """Largest signal-to-noise ratio of the mean over q <= Q, for any Q past the first `MIN_POINTS` points."""
    total, information = (weight * intensity).cumsum(-1), weight.cumsum(-1)
    enough = (weight > 0).cumsum(-1) >= MIN_POINTS
    ratio = total / information.clamp_min(1e-300).sqrt()
    return torch.where(enough, ratio, -torch.inf).amax(-1)


def _pad(values: np.ndarray, width: int, name: str) -> np.ndarray:
    missing = width - values.size
    if name == "mask":
        return np.pad(values, (0, missing), constant_values=True)
    return np.pad(values, (0, missing), mode="edge").astype(np.float32)


def _contrast(frame: Frame) -> float:
    geometry = frame.geometry
    if isinstance(geometry, CurveGeometry) and geometry.absolute and geometry.contrast_inv_cm2 is not None:
        return geometry.contrast_inv_cm2 * 1e-16 / ELECTRON_RADIUS_ANGSTROM
    return float("nan")


@dataclass(frozen=True)
class CurveSimulation:
    """Ranges that simulated curves are drawn from; log-uniform unless it says otherwise.

    Args:
        q_min, q_max: first and last point, 1/angstrom.
        points: number of points.
        counts: of unit intensity in a bin of 0.001/angstrom at 0.1/angstrom (`physics.noise`), over 1 + 2
            buffer.
        floor: relative systematic floor of sigma.
        buffer: buffer scattering over scale.
        q_relative_error: largest standard deviation of the common relative error of q (uniform from 0).
    """

    q_min: tuple[float, float]
    q_max: tuple[float, float]
    points: tuple[int, int]
    counts: tuple[float, float]
    floor: tuple[float, float] = (0.01, 0.05)
    buffer: tuple[float, float] = (1e-5, 3.0)
    q_relative_error: float = 0.003


def log_uniform(bounds: tuple[float, float], n: int, generator: torch.Generator) -> Tensor:
    """(n,) log-uniform draws."""
    low, high = np.log(bounds[0]), np.log(bounds[1])
    u = torch.rand(n, generator=generator, device=generator.device)
    return torch.exp(low + u * (high - low))


def random_q(ranges: CurveSimulation, n: int, generator: torch.Generator) -> Tensor:
    """(n, Q) grids between linear and logarithmic spacing, Q common to the batch."""
    low, high = log_uniform(ranges.q_min, n, generator), log_uniform(ranges.q_max, n, generator)
    q_count = int(log_uniform((float(ranges.points[0]), float(ranges.points[1])), 1, generator).round())
    step = torch.linspace(0, 1, q_count, device=generator.device)
    linear = low[:, None] + (high - low)[:, None] * step
    logarithmic = low[:, None] * (high / low)[:, None] ** step
    share = torch.rand(n, 1, generator=generator, device=generator.device)
    share = torch.where(share < 0.4, 0.0, torch.where(share > 0.7, 1.0, share))
    return (1 - share) * linear + share * logarithmic


def perturb(
    q: Tensor,
    shape: Tensor,
    scale: Tensor,
    beta: Tensor,
    q_relative_error: Tensor,
    ranges: CurveSimulation,
    generator: torch.Generator,
) -> CurveBatch:
    """Measure s (P + beta) like a reduced curve: counts, buffer subtraction, floor, missing ranges.

    Args:
        q: (B, Q) nominal q.
        shape: (B, Q) P(q).
        scale: (B,) s.
        beta: (B,) background over scale.
        q_relative_error: (B,) what the geometry is said to be good to.
        ranges: of counts, floor and buffer.
        generator: of every random number.
    """
    n = q.shape[0]
    expected = shape + beta[:, None]
    buffer = log_uniform(ranges.buffer, n, generator)
    # Longer exposures over stronger buffers: the level of the noise is then log-uniform, and says nothing
    # about the scale.
    counts = log_uniform(ranges.counts, n, generator) * (1 + 2 * buffer)
    floor = log_uniform(ranges.floor, n, generator)
    sigma = reduced_curve_sigma(q, expected.clamp_min(0.0), counts=counts, floor=floor, buffer=buffer)
    sigma = uneven_sigma(sigma, generator)
    noise = torch.randn(expected.shape, generator=generator, device=q.device)
    mask = random_missing_ranges(q, generator)
    nothing = torch.full((n,), float("nan"), device=q.device)
    return CurveBatch(
        q=q,
        intensity=torch.where(mask, 0.0, scale[:, None] * (expected + sigma * noise)),
        sigma=scale[:, None] * sigma,
        mask=mask,
        contrast=nothing,
        q_relative_error=q_relative_error,
    )


def features(batch: CurveBatch) -> Mapping[str, Tensor]:
    """Properties of the curves that a card's ranges bound."""
    inside = ~batch.mask
    infinity = torch.full_like(batch.q, torch.inf)
    ratio = torch.where(inside, batch.sigma / batch.intensity.abs().clamp_min(1e-30), infinity)
    return {
        "q_min_inv_angstrom": torch.where(inside, batch.q, infinity).amin(1),
        "q_max_inv_angstrom": torch.where(inside, batch.q, -infinity).amax(1),
        "points": inside.sum(1).to(batch.q.dtype),
        "best_relative_sigma": ratio.amin(1),
    }


def size_factor(relative_error: Tensor, noise: Tensor) -> Tensor:
    """(N,) true length over apparent length for a common relative error of q; noise standard normal."""
    return torch.exp(relative_error * noise)
