"""Holograms as tensors: what a batch of them is, how frames become one, and how they are perturbed.

u of N objects is (N, C, H, W): the phase, rad, with an absorption that is tied to it, C = 1, or phase and
absorption, C = 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import Frame, FrameError, GeometryError, HologramGeometry
from nfphasing_bluesky.modalities.batches import Measured, Rows
from nfphasing_bluesky.physics.counting import dead_pixels, flat_corrected, random_flats
from nfphasing_bluesky.physics.holography import (
    ctf_phase,
    exit_wave,
    hologram,
    homogeneous_exit_wave,
    iterated_ctf,
)
from nfphasing_bluesky.physics.imaging.smooth_phase import smooth_phase, smooth_phase_and_absorption

SMALLEST_SIDE = 64

REGULARISATIONS = ((1e-5, 3e-3), (0.02, 0.3))
"""(low, high) frequencies of the linear back-projections that a network sees."""

ITERATED, AFTER = (1e-3, 0.2), (1, 4)
"""Regularisation and iterations of the phases of strong objects that it sees."""

LARGEST_PHASE_RAD = 0.05
"""Noise around nothing may be positive."""

ROUNDS, STEPS = 3, 8
"""Linearisations, and steps of conjugate gradients in each, of the estimate that the flow starts from."""

FREE_ROUNDS, FREE_STEPS = 2, 8
"""The same of phase and absorption, in each of their three estimates."""

LEAST_SCALE = 3e-3
LEAST_ABSORPTION = 0.02
"""Least scale of the absorption over that of the phase."""

LIMIT = 20.0
"""An absorption that was believed to be strong may be a hundred times the better one."""

LEAST_SIGMA = 1e-4


@dataclass(frozen=True)
class Hologram(Rows):
    """How B holograms came about, (B,) float64 each; NaN for lengths that are not known.

    Pixel Fresnel number, beta / delta (of no meaning where phase and absorption are not tied), wavelength in
    angstrom, pixel in metres.
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
        log_scale: (B, C or more) logarithms of the size of u's parts that the estimates show, and of others.
        surroundings: (B, C, H', W') u around the pixels; None where nothing is there.
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


@dataclass(frozen=True)
class Optics:
    """What u is and how a network sees a hologram of it.

    Args:
        parts: of u.
        lower, upper: bounds of each.
        channels, extras: of what the network sees.
        reference: channels that are estimates of u's parts, over their scales.
        context: of (B, H, W) intensity, sigma and mask and a geometry, channels (B, channels, H, W) and
            log scales (B, C or more).
        scalars: of a batch, (B, extras) of order 1, the log scales first.
    """

    parts: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    channels: int
    extras: int
    reference: tuple[int, ...]
    context: Callable[[Tensor, Tensor, Tensor, Hologram], tuple[Tensor, Tensor]]
    scalars: Callable[[HologramBatch], Tensor]

    def estimate(self, batch: HologramBatch) -> Tensor:
        """(B, C, H, W) smooth u that explains the holograms, within the bounds."""
        scale = batch.log_scale[:, : len(self.parts)].exp()
        u = batch.channels[:, list(self.reference)] * scale[:, :, None, None]
        low, high = (u.new_tensor(bounds)[:, None, None] for bounds in (self.lower, self.upper))
        return torch.minimum(torch.maximum(u, low), high)


def expected(u: Tensor, geometry: Hologram) -> Tensor:
    """(N, H, W) holograms of objects (N, C, H, W) with nothing around them."""
    if u.shape[1] == 1:
        wave = homogeneous_exit_wave(u[:, 0], geometry.beta_over_delta.to(u))
    else:
        wave = exit_wave(u[:, 0], u[:, 1])
    return hologram(wave, geometry.fresnel_number)


def _tied_context(
    intensity: Tensor, sigma: Tensor, mask: Tensor, geometry: Hologram
) -> tuple[Tensor, Tensor]:
    """Contrast, linear and iterated back-projections and the smooth phase over the scale; what it leaves.

    That is over sigma; noise and mask follow. The scale is the root mean square of the back-projection after
    one iteration. Masked pixels count as empty ones.
    """
    excess, deviation = _filled(intensity, sigma, mask)
    number, ratio = geometry.fresnel_number, geometry.beta_over_delta.to(intensity)
    linear, iterated, scale = _back_projections(excess, number, ratio)
    smooth, left = smooth_phase(
        excess + 1, deviation, mask, number, ratio, iterated[:, -1], scale, rounds=ROUNDS, steps=STEPS
    )
    images = torch.cat([excess[:, None], linear, iterated, smooth[:, None]], 1) / scale[:, None, None, None]
    return torch.cat([images, _rest(left, deviation, mask)], 1), scale.log()[:, None]


def _free_context(
    intensity: Tensor, sigma: Tensor, mask: Tensor, geometry: Hologram
) -> tuple[Tensor, Tensor]:
    """The channels of a phase without absorption, with a smooth phase and absorption in place of its own.

    The absorption comes behind them, then phase and absorption of the estimate that takes it for strong. The
    scales are the root mean squares of both, that of the absorption at least a fiftieth of the phase's; the
    third is that of a phase without absorption.
    """
    excess, deviation = _filled(intensity, sigma, mask)
    number = geometry.fresnel_number
    linear, iterated, scale = _back_projections(excess, number, torch.zeros_like(intensity[:, 0, 0]))
    smooth, left, strong = smooth_phase_and_absorption(
        excess + 1, deviation, mask, number, iterated[:, -1], scale, rounds=FREE_ROUNDS, steps=FREE_STEPS
    )
    size = smooth.square().mean((2, 3)).sqrt()
    own = size[:, 0].clamp_min(LEAST_SCALE)
    scales = torch.stack([own, torch.hypot(size[:, 1], LEAST_ABSORPTION * own), scale], 1)
    (phase, absorption), other = (
        (smooth / scales[:, :2, None, None]).split(1, 1),
        strong / scales[:, :2, None, None],
    )
    images = torch.cat([excess[:, None], linear, iterated], 1) / scale[:, None, None, None]
    seen = [images, phase, _rest(left, deviation, mask), absorption, LIMIT * torch.tanh(other / LIMIT)]
    return torch.cat(seen, 1), scales.log()


def _filled(intensity: Tensor, sigma: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(mask, 0.0, intensity - 1), sigma.clamp_min(LEAST_SIGMA)


def _back_projections(excess: Tensor, number: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Linear (B, 2, H, W) and iterated (B, 2, H, W) phases, and the scale (B,) of the latter."""
    linear = ctf_phase(excess + 1, number, REGULARISATIONS, beta_over_delta=ratio)
    iterated, _ = iterated_ctf(
        excess + 1, number, ITERATED, AFTER, beta_over_delta=ratio, largest=LARGEST_PHASE_RAD
    )
    return linear, iterated, iterated[:, 0].square().mean((1, 2)).sqrt().clamp_min(LEAST_SCALE)


def _rest(left: Tensor, deviation: Tensor, mask: Tensor) -> Tensor:
    """(B, 3, H, W) what is not explained, noise and mask."""
    unexplained = torch.where(mask, 0.0, torch.asinh(left / deviation / 2))
    noise = torch.where(mask, 0.0, deviation.log() / 3 + 1)
    return torch.stack([unexplained, noise, mask.to(left)], 1)


def _tied_scalars(batch: HologramBatch) -> Tensor:
    """(B, 5) log scale, log Fresnel number, log noise, and beta / delta."""
    ratio = batch.geometry.beta_over_delta.to(batch.log_scale)
    return torch.cat(
        [
            batch.log_scale,
            _conditions(batch),
            torch.stack([10 * ratio, (ratio + 1e-3).log() / 2 + 2], 1),
        ],
        1,
    )


def _free_scalars(batch: HologramBatch) -> Tensor:
    """(B, 6) log scales, log Fresnel number, log noise, logs of absorption and of a pure phase over phase."""
    phase, absorption, pure = batch.log_scale.unbind(1)
    over = torch.stack([(absorption - phase) / 2 + 1.5, pure - phase], 1)
    return torch.cat([batch.log_scale[:, :2], _conditions(batch), over], 1)


def _conditions(batch: HologramBatch) -> Tensor:
    """(B, 2) log Fresnel number and log noise."""
    number = batch.geometry.fresnel_number.to(batch.log_scale)
    noise = median_sigma(batch).log()
    return torch.stack([(number.log() + 4.6) / 1.3, (noise + 3.5) / 1.7], 1)


_PHASE = 1 + len(REGULARISATIONS) + len(AFTER)

TIED = Optics(
    parts=("phase_rad",),
    lower=(-2.5,),
    upper=(0.25,),
    channels=_PHASE + 4,
    extras=5,
    reference=(_PHASE,),
    context=_tied_context,
    scalars=_tied_scalars,
)
"""One material, or none that absorbs."""

FREE = Optics(
    parts=("phase_rad", "absorption"),
    lower=(-2.5, -0.1),
    upper=(0.25, 1.6),
    channels=_PHASE + 7,
    extras=6,
    reference=(_PHASE, _PHASE + 4),
    context=_free_context,
    scalars=_free_scalars,
)
"""Phase and absorption each on its own."""


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


def collate(frames: Sequence[Frame], sigma_floor: float, optics: Optics) -> HologramBatch:
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
    return _batch_of(intensity, sigma, mask, geometry, optics)


def _batch_of(
    intensity: Tensor, sigma: Tensor, mask: Tensor, geometry: Hologram, optics: Optics
) -> HologramBatch:
    """Batch of whole frames."""
    channels, log_scale = optics.context(intensity, sigma, mask, geometry)
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
