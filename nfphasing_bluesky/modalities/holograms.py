"""Holograms as tensors: what a batch of them is, how frames become one, and how they are perturbed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import Frame, FrameError, GeometryError, HologramGeometry
from nfphasing_bluesky.modalities.batches import Measured, Rows
from nfphasing_bluesky.physics.counting import dead_pixels, flat_corrected, random_flats
from nfphasing_bluesky.physics.holography import (
    ctf_phase,
    hologram,
    homogeneous_exit_wave,
    iterated_ctf,
)
from nfphasing_bluesky.physics.smooth_phase import smooth_phase

SMALLEST_SIDE = 64

REGULARISATIONS = ((1e-5, 3e-3), (0.02, 0.3))
"""(low, high) frequencies of the linear back-projections that a network sees."""

ITERATED, AFTER = (1e-3, 0.2), (1, 4)
"""Regularisation and iterations of the phases of strong objects that it sees."""

LARGEST_PHASE_RAD = 0.05
"""Noise around nothing may be positive."""

ROUNDS, STEPS = 3, 8
"""Linearisations, and steps of conjugate gradients in each, of the estimate that the flow starts from."""

LEAST_SCALE = 3e-3
LEAST_SIGMA = 1e-4


@dataclass(frozen=True)
class Hologram(Rows):
    """How B holograms came about, (B,) float64 each; NaN for lengths that are not known.

    Pixel Fresnel number, beta / delta, wavelength in angstrom, pixel in metres.
    """

    fresnel_number: Tensor
    beta_over_delta: Tensor
    wavelength_angstrom: Tensor
    pixel_size_m: Tensor


@dataclass(frozen=True)
class HologramBatch(Measured):
    """B holograms of H x W pixels, and what a network sees of them.

    Args:
        intensity, sigma: (B, H, W), 1 without an object.
        mask: (B, H, W) bool, True = do not use.
        geometry: of each.
        channels: (B, C, H, W) context, made of the whole frame that the pixels may be cut from.
        log_scale: (B,) logarithm of the size of the phases that the back-projection shows, rad.
        surroundings: (B, H', W') phase around the pixels, rad; None where nothing is there.
        corner: (B, 2) row and column of pixel [0, 0] in the surroundings.
    """

    intensity: Tensor
    sigma: Tensor
    mask: Tensor
    geometry: Hologram
    channels: Tensor
    log_scale: Tensor
    surroundings: Tensor | None
    corner: Tensor


def expected(phase: Tensor, geometry: Hologram) -> Tensor:
    """(N, H, W) holograms of phases (N, H, W) with nothing around them."""
    wave = homogeneous_exit_wave(phase, geometry.beta_over_delta.to(phase))
    return hologram(wave, geometry.fresnel_number)


def context(intensity: Tensor, sigma: Tensor, mask: Tensor, geometry: Hologram) -> tuple[Tensor, Tensor]:
    """Channels (B, C, H, W) and log scale (B,).

    Contrast, linear and iterated back-projections and the smooth phase over the scale; what the last does not
    explain over sigma; noise; mask. The scale is the root mean square of the back-projection after one
    iteration. Masked pixels count as empty ones.
    """
    excess = torch.where(mask, 0.0, intensity - 1)
    number, ratio = geometry.fresnel_number, geometry.beta_over_delta.to(intensity)
    linear = ctf_phase(excess + 1, number, REGULARISATIONS, beta_over_delta=ratio)
    iterated, _ = iterated_ctf(
        excess + 1, number, ITERATED, AFTER, beta_over_delta=ratio, largest=LARGEST_PHASE_RAD
    )
    scale = iterated[:, 0].square().mean((1, 2)).sqrt().clamp_min(LEAST_SCALE)
    deviation = sigma.clamp_min(LEAST_SIGMA)
    smooth, left = smooth_phase(
        excess + 1, deviation, mask, number, ratio, iterated[:, -1], scale, rounds=ROUNDS, steps=STEPS
    )
    images = torch.cat([excess[:, None], linear, iterated, smooth[:, None]], 1) / scale[:, None, None, None]
    unexplained = torch.where(mask, 0.0, torch.asinh(left / deviation / 2))
    noise = torch.where(mask, 0.0, deviation.log() / 3 + 1)
    rest = torch.stack([unexplained, noise, mask.to(images)], 1)
    return torch.cat([images, rest], 1), scale.log()


ESTIMATE = 1 + len(REGULARISATIONS) + len(AFTER)
CHANNELS = ESTIMATE + 4


def last_estimate(batch: HologramBatch) -> Tensor:
    """(B, H, W) smooth phase, rad."""
    return batch.channels[:, ESTIMATE] * batch.log_scale.exp()[:, None, None]


def scalars(batch: HologramBatch) -> Tensor:
    """(B, E) log scale, log Fresnel number, log noise, and beta / delta, each of order 1."""
    g = batch.geometry
    noise = median_sigma(batch).log()
    ratio = g.beta_over_delta.to(noise)
    columns = [
        batch.log_scale,
        (g.fresnel_number.to(noise).log() + 4.6) / 1.3,
        (noise + 3.5) / 1.7,
        10 * ratio,
        (ratio + 1e-3).log() / 2 + 2,
    ]
    return torch.stack(columns, 1)


EXTRAS = 5


def median_sigma(batch: HologramBatch) -> Tensor:
    """(B,) median of sigma over the pixels in use."""
    return torch.where(batch.mask, torch.nan, batch.sigma).flatten(1).nanmedian(1).values


def measured(intensity: Tensor, photons: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Count holograms (B, H, W) behind a structured beam; the normalised image, its sigma and its mask.

    One to 100 empty images are averaged for the flat; in half of the frames up to 1 % of the pixels are dead,
    and an eighth has a gap of 1 to 6 pixels between detector modules, half of them each way.
    """
    b, device = len(intensity), generator.device
    shape = (intensity.shape[1], intensity.shape[2])
    flat = random_flats(b, shape, generator)
    empty = 100 ** torch.rand(b, generator=generator, device=device)
    image, sigma = flat_corrected(intensity, flat, photons, empty, generator)
    share = 0.01 * (2 * torch.rand(b, generator=generator, device=device) - 1).clamp_min(0.0)
    return image, sigma, dead_pixels(b, shape, share, generator) | _random_gaps(b, shape, generator)


def _random_gaps(n: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(n, H, W) True in the gap of some frames."""
    device = generator.device
    kind, width, place = torch.rand(3, n, generator=generator, device=device)
    wide = (1 + 6 * width).long()[:, None]
    lines = [torch.arange(pixels, device=device) - (place[:, None] * pixels).long() for pixels in shape]
    rows, columns = ((line >= 0) & (line < wide) for line in lines)
    rows, columns = rows & (kind < 0.0625)[:, None], columns & (kind > 0.9375)[:, None]
    return rows[:, :, None] | columns[:, None, :]


def collate(frames: Sequence[Frame], sigma_floor: float) -> HologramBatch:
    """Turn frames of one shape into a batch. Raises FrameError or GeometryError for a bad one."""
    rows = [_row(frame, sigma_floor) for frame in frames]
    intensity, sigma, mask = (torch.from_numpy(np.stack([row[i] for row in rows])) for i in range(3))
    geometries = [_geometry(frame) for frame in frames]
    rows_of_geometry = [
        (
            g.fresnel_number,
            g.beta_over_delta,
            np.nan if g.wavelength_m is None else 1e10 * g.wavelength_m,
            np.nan if g.pixel_size_m is None else g.pixel_size_m,
        )
        for g in geometries
    ]
    geometry = Hologram(*torch.tensor(rows_of_geometry, dtype=torch.float64).unbind(1))
    return batch_of(intensity, sigma, mask, geometry)


def batch_of(intensity: Tensor, sigma: Tensor, mask: Tensor, geometry: Hologram) -> HologramBatch:
    """Batch of whole frames."""
    channels, log_scale = context(intensity, sigma, mask, geometry)
    corner = torch.zeros(len(intensity), 2, dtype=torch.long, device=intensity.device)
    return HologramBatch(intensity, sigma, mask, geometry, channels, log_scale, None, corner)


def _geometry(frame: Frame) -> HologramGeometry:
    if not isinstance(frame.geometry, HologramGeometry):
        raise GeometryError(
            f"{frame.origin.label}: found a {type(frame.geometry).__name__}, expected a HologramGeometry; "
            "pass the pixel Fresnel number (fresnel_number), or wavelength, distances and pixel size"
        )
    return frame.geometry


def _row(frame: Frame, sigma_floor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    label, geometry = frame.origin.label, _geometry(frame)
    if min(frame.intensity.shape) < SMALLEST_SIDE:
        raise FrameError(
            f"{label}: {frame.intensity.shape} pixels, expected at least {SMALLEST_SIDE} a side; "
            "leave the frame larger or pad it with 1"
        )
    usable = frame.usable
    if usable.mean() < 0.5:
        raise FrameError(
            f"{label}: {usable.mean():.0%} of the pixels can be used, expected half of them; check the mask"
        )
    intensity = np.where(usable, frame.intensity, 1.0)
    if frame.sigma is not None:
        sigma = np.where(usable, frame.sigma, 1.0)
    elif geometry.photons is not None:
        sigma = np.sqrt(np.clip(intensity, 0, None) * geometry.photons + 1) / geometry.photons
    else:
        raise FrameError(
            f"{label}: neither sigma nor the counts of an empty image are known, expected one; store sigma, "
            "flat or photons beside the data, or pass them (--flat FILE, --geometry photons=NUMBER)"
        )
    level = float(np.median(intensity[usable]))
    if not 0.3 < level < 3.0:
        raise FrameError(
            f"{label}: the median intensity is {level:.3g}, expected about 1 (nothing in the beam); divide "
            "by the empty image"
        )
    sigma = np.hypot(sigma, sigma_floor)
    return intensity.astype(np.float32), sigma.astype(np.float32), ~usable
