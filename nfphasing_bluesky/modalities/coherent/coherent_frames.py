"""Coherent patterns as tensors: what a batch is, how frames become one, how they are perturbed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import DetectorGeometry, Frame, FrameError, GeometryError, PlaneGeometry
from nfphasing_bluesky.modalities.batches import Measured
from nfphasing_bluesky.physics.coherent import pattern_shape
from nfphasing_bluesky.physics.counting import beam_stop_disc, dead_pixels
from nfphasing_bluesky.physics.noise import poisson_counts

PHOTONS_PER_PIXEL = (10.0, 1e4)
"""Mean counts of a pattern's pixels, the beam stop's included."""
READOUT = 1.0
"""Standard deviation of the detector's own noise, photons."""
STOP_RADIUS = (0.0, 0.06)
"""Radius of the beam stop over the pattern's longer side; none in a quarter of the frames."""
DEAD = 0.01
OFF_CENTRE_PX = 0.15
UNEVEN_Q = 0.02
MIN_PIXELS = 8
MIN_SIGNAL_TO_NOISE = 10.0
POINTS = 256
"""Values of a pattern that the encoder sees, at most."""
CHANNELS, EXTRAS = 3, 2
STEEP = 3.0


@dataclass(frozen=True)
class CoherentBatch(Measured):
    """B patterns with q = 0 at [H // 2, W // 2].

    Args:
        intensity, sigma: (B, H, W).
        mask: (B, H, W) bool, True = do not use.
        scale: (B,) float64, intensity of a pixel over |FFT u|^2; the nominal one where it is not known.
        pixel_m: (B, 2) float64, pixel of u (row, column), m; NaN where not known.
        scale_known: (B,) bool, the frame says its scale, and has no background.
    """

    intensity: Tensor
    sigma: Tensor
    mask: Tensor
    scale: Tensor
    pixel_m: Tensor
    scale_known: Tensor

    @property
    def weight(self) -> Tensor:
        """(B, H, W) 1 / sigma^2, float64, zero where masked."""
        return torch.where(self.mask, 0.0, self.sigma.double().clamp_min(1e-30).reciprocal().square())

    def flat(self) -> "CoherentBatch":
        """Patterns as rows: intensity, sigma and mask (B, H W)."""
        intensity, sigma, mask = (v.flatten(1) for v in (self.intensity, self.sigma, self.mask))
        return CoherentBatch(intensity, sigma, mask, self.scale, self.pixel_m, self.scale_known)


def measured(
    expected: Tensor, shape: tuple[int, int], typical: float, generator: torch.Generator
) -> tuple[CoherentBatch, Tensor]:
    """Count patterns at a random dose, behind a beam stop, with dead pixels; they don't say their scale.

    sigma is that of the expected counts and the detector's noise.

    Args:
        expected: (B, H, W) |FFT u|^2, and the background in its units.
        shape: (h, w) of the pattern.
        typical: as in `collate`.
        generator: of dose and noise.

    Returns:
        The batch, and the (B,) true scales.
    """
    n, device = len(expected), generator.device

    def uniform() -> Tensor:
        return torch.rand(n, generator=generator, device=device, dtype=torch.float64)

    low, high = PHOTONS_PER_PIXEL
    photons = low * (high / low) ** uniform()
    scale = photons / expected.double().mean((1, 2)).clamp_min(1e-30)
    counts = expected.double() * scale[:, None, None]
    noise = READOUT * torch.randn(counts.shape, generator=generator, device=device, dtype=torch.float64)
    intensity = poisson_counts(counts, generator).double() + noise
    sigma = (counts + READOUT**2).sqrt()
    least, most = STOP_RADIUS
    radius = (least + (most - least) * (uniform() - 0.25).clamp_min(0.0) / 0.75) * max(shape)
    centre = torch.tensor([m // 2 for m in shape], device=device, dtype=torch.float64).expand(n, 2)
    mask = beam_stop_disc(shape, centre, radius)
    mask = mask | dead_pixels(n, shape, DEAD * uniform(), generator)
    seen = (~mask).double()
    nominal = (intensity * seen).sum((1, 2)).clamp_min(READOUT) / seen.sum((1, 2)).clamp_min(1) / typical
    pixel = torch.full((n, 2), torch.nan, dtype=torch.float64, device=device)
    known = torch.zeros(n, dtype=torch.bool, device=device)
    return CoherentBatch(intensity, sigma, mask, nominal, pixel, known), scale


def collate(frames: Sequence[Frame], shape: tuple[int, int], typical: float) -> CoherentBatch:
    """Frames to one batch, cut to the pattern's size about the beam.

    Args:
        frames: with a DetectorGeometry, or a PlaneGeometry of evenly spaced q.
        shape: (h, w) of the object.
        typical: mean of |FFT u|^2 of the prior; gives the nominal scale of frames that do not say theirs.

    Raises:
        FrameError, GeometryError: a frame that can't be used.
    """
    rows = [_row(frame, pattern_shape(shape), typical) for frame in frames]
    intensity, sigma, mask = (torch.from_numpy(np.stack([row[i] for row in rows])) for i in range(3))
    scale = torch.tensor([row[3] for row in rows], dtype=torch.float64)
    pixel = torch.tensor([row[4] for row in rows], dtype=torch.float64)
    known = torch.tensor([row[5] for row in rows])
    return CoherentBatch(intensity, sigma, mask, scale, pixel, known)


def _row(frame: Frame, size: tuple[int, int], typical: float) -> tuple:
    label = frame.origin.label
    centre, pixel, scale = _geometry(frame, size)
    cut = _window(centre, size)
    within = all(s.start >= 0 and s.stop <= m for s, m in zip(cut, frame.intensity.shape, strict=True))
    if not within:
        raise FrameError(
            f"{label}: a frame of {frame.intensity.shape} with the beam at {centre} does not hold the "
            f"{size} pixels about it that the model takes; bin or crop less, or use a model of its size"
        )
    usable = frame.usable[cut]
    intensity = np.where(usable, frame.intensity[cut], 0.0)
    if usable.sum() < MIN_PIXELS:
        raise FrameError(
            f"{label}: {usable.sum()} usable pixels, expected at least {MIN_PIXELS}; see the mask"
        )
    if frame.sigma is None:
        sigma = np.sqrt(_smoothed(np.maximum(intensity, 0), usable) + READOUT**2)
    else:
        sigma = np.where(usable, frame.sigma[cut], 1.0)
    total = float(intensity[usable].sum())
    if total < MIN_SIGNAL_TO_NOISE * float(np.sqrt((sigma[usable] ** 2).sum())):
        raise FrameError(
            f"{label}: the intensities add up to {total:.4g}, less than {MIN_SIGNAL_TO_NOISE:g} standard "
            "deviations; expected a pattern: check the shutter and the data key"
        )
    known = scale is not None
    if scale is None:
        scale = total / float(usable.sum()) / typical
    return intensity, sigma, ~usable, scale, pixel, known


def _window(centre: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    rows, columns = (slice(c - n // 2, c - n // 2 + n) for c, n in zip(centre, size, strict=True))
    return rows, columns


def window(frame: Frame, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a frame that are looked at for an object of shape (h, w)."""
    size = pattern_shape(shape)
    return _window(_geometry(frame, size)[0], size)


def _smoothed(counts: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Mean of the usable pixels within one pixel: an estimate of the expected counts."""
    total, number = np.zeros_like(counts), np.zeros_like(counts)
    for move in np.ndindex(3, 3):
        shift = (move[0] - 1, move[1] - 1)
        near = np.roll(usable, shift, (0, 1))
        total += np.where(near, np.roll(counts, shift, (0, 1)), 0.0)
        number += near
    return total / np.maximum(number, 1)


def _geometry(
    frame: Frame, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[float, float], float | None]:
    """Pixel of the direct beam, pixel of u in m, and scale."""
    geometry, label = frame.geometry, frame.origin.label
    if isinstance(geometry, DetectorGeometry):
        centre = [p / d - 0.5 for p, d in zip(geometry.poni_m, geometry.pixel_size_m, strict=True)]
        if any(geometry.rotations_rad):
            raise GeometryError(
                f"{label}: rotations_rad={geometry.rotations_rad}, expected none; regrid the pattern first"
            )
        span = geometry.wavelength_m * geometry.distance_m
        pixel = tuple(span / (n * d) for n, d in zip(size, geometry.pixel_size_m, strict=True))
        return _on_a_pixel(centre, label), (pixel[0], pixel[1]), None
    if isinstance(geometry, PlaneGeometry):
        qx, qy = geometry.maps()
        lines = (qy[:, 0], qx[0])
        steps = [_step(line, label) if line.size > 1 else np.nan for line in lines]
        centre = [0.0 if np.isnan(s) else -line[0] / s for line, s in zip(lines, steps, strict=True)]
        pixel = tuple(2e-10 * np.pi / (n * s) for n, s in zip(size, steps, strict=True))
        return _on_a_pixel(centre, label), (pixel[0], pixel[1]), geometry.coherent_scale
    raise GeometryError(
        f"{label}: geometry is {type(geometry).__name__}, expected DetectorGeometry or PlaneGeometry"
    )


def _step(line: np.ndarray, label: str) -> float:
    """Spacing of q along one axis, 1/angstrom."""
    steps = np.diff(line)
    step = float(steps.mean())
    if not step > 0 or np.abs(steps - step).max() > UNEVEN_Q * step:
        raise GeometryError(
            f"{label}: q runs from {line[0]:.4g} to {line[-1]:.4g} 1/angstrom in steps of "
            f"{steps.min():.4g} to {steps.max():.4g}, expected even and increasing; regrid the pattern first"
        )
    return step


def _on_a_pixel(centre: Sequence[float], label: str) -> tuple[int, int]:
    whole = [round(float(c)) for c in centre]
    if max(abs(c - w) for c, w in zip(centre, whole, strict=True)) > OFF_CENTRE_PX:
        raise GeometryError(
            f"{label}: the direct beam is at row {centre[0]:.2f} and column {centre[1]:.2f}, expected within "
            f"{OFF_CENTRE_PX} of a pixel's centre; regrid the pattern first"
        )
    return whole[0], whole[1]


def usable(batch: CoherentBatch) -> Tensor:
    """(B,) bool: patterns with enough signal that `collate` would take them."""
    seen = ~batch.mask
    total = torch.where(seen, batch.intensity, 0.0).sum((1, 2))
    noise = torch.where(seen, batch.sigma.square(), 0.0).sum((1, 2)).sqrt()
    return (total >= MIN_SIGNAL_TO_NOISE * noise) & (seen.sum((1, 2)) >= MIN_PIXELS)


def signal_to_noise(batch: CoherentBatch) -> Tensor:
    """(B,) root mean square of intensity over sigma."""
    seen = (~batch.mask).double()
    ratio = (batch.intensity / batch.sigma).double().square() * seen
    return (ratio.sum((1, 2)) / seen.sum((1, 2)).clamp_min(1)).sqrt()


def context(batch: CoherentBatch) -> tuple[Tensor, Tensor]:
    """Channels (B, C, N) and scalars (B, E): intensity and sigma over the mean, compressed, and mask.

    Patterns of more than `POINTS` pixels are averaged over blocks.
    """
    seen = (~batch.mask).double()
    mean = (batch.intensity * seen).sum((1, 2)) / seen.sum((1, 2)).clamp_min(1)
    mean = mean.abs().clamp_min(1e-300)[:, None, None]
    images = [torch.asinh(batch.intensity / mean * seen), (batch.sigma / mean).log() * seen / STEEP, seen]
    channels = torch.stack(images, 1)
    size = points(channels.shape[-2:])
    pooled = torch.nn.functional.adaptive_avg_pool2d(channels, size)
    extra = [signal_to_noise(batch).clamp_min(1e-3).log() / 3, seen.mean((1, 2))]
    return pooled.flatten(2).float(), torch.stack(extra, 1).float()


def points(size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of what the encoder sees of a pattern of that size."""
    rows, columns = size
    while rows * columns > POINTS:
        rows, columns = max(1, rows // 2), max(1, columns // 2)
    return rows, columns
