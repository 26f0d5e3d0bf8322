"""Curves on any q grid, resampled to one fixed log-q grid with their noise and coverage beside them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.flows.settings import LogGrid

CHANNELS = ("log_intensity", "signal_to_noise", "log_noise", "coverage", "offset")

# Divides the logarithmic channels, which span about +-10, down to the order of one.
LOG_UNIT = 4.0

# The normalisation averages bins with at least this signal-to-noise, within so many of the first of them.
NORMALISING_BINS = 8
NORMALISING_SIGNAL_TO_NOISE = 3.0


class CurveChannels(NamedTuple):
    """A resampled curve.

    Attributes:
        channels: (B, 5, N), in the order of `CHANNELS`, unchanged when intensity and sigma are multiplied
            by one number. With I and s the intensity and its standard deviation in a bin, over c:
            log of the positive part of I, log s + asinh(I / 2 s), which tends to log I above the noise and
            to log s within it; asinh(I / s); log s (all three divided by 4); coverage, 1 where points fell
            into the bin; offset of their mean log q from the bin's centre in bins. Bins between two points
            are interpolated (coverage 0, signal-to-noise not 0); beyond the data everything is 0.
        normalisation: (B,) c > 0, in units of the intensity; 1 where no point is usable.
    """

    channels: Tensor
    normalisation: Tensor


class CurveBins(NamedTuple):
    """Per bin (B, N): intensity, variance, position in bins from the first centre, and whether filled."""

    intensity: Tensor
    variance: Tensor
    position: Tensor
    filled: Tensor


def bin_centres(grid: LogGrid) -> Tensor:
    """(N,) centres of the bins, 1/angstrom, evenly spaced in log q from q_min to q_max."""
    low, high = math.log(grid.q_min_inv_angstrom), math.log(grid.q_max_inv_angstrom)
    return torch.linspace(low, high, grid.points, dtype=torch.float64).exp()


def resample_curve(
    q_inv_angstrom: Tensor, intensity: Tensor, sigma: Tensor, mask: Tensor, grid: LogGrid
) -> CurveChannels:
    """Resample curves to a fixed log-q grid.

    Points that share a bin are averaged with weights 1/sigma^2; bins between two filled ones are
    interpolated linearly with a variance that grows with the step between them, so that a gap does not pass
    for data. Points that are masked, not finite, with sigma <= 0 or outside the grid are left out.

    Args:
        q_inv_angstrom: (B, Q) momentum transfer; (Q,) where all curves share it.
        intensity: (B, Q), any scale.
        sigma: (B, Q) standard deviation of the intensity.
        mask: (B, Q) bool, True for points not to be used, padding among them.
        grid: the fixed grid.
    """
    bins, scale = _scaled_bins(q_inv_angstrom, intensity, sigma, mask, grid)
    normalisation = _normalisation(bins)
    value, variance, known = _interpolate(bins)
    channels = _channels(value / normalisation, variance.sqrt() / normalisation, bins, known)
    c = (normalisation * scale).squeeze(-1)
    return CurveChannels(channels, c.where(bins.filled.any(-1), 1.0))


def bin_curve(
    q_inv_angstrom: Tensor, intensity: Tensor, sigma: Tensor, mask: Tensor, grid: LogGrid
) -> CurveBins:
    """Average curves in the bins of a log-q grid, in their own units. Arguments as for `resample_curve`."""
    bins, scale = _scaled_bins(q_inv_angstrom, intensity, sigma, mask, grid)
    return bins._replace(intensity=bins.intensity * scale, variance=bins.variance * scale.square())


def _scaled_bins(
    q_inv_angstrom: Tensor, intensity: Tensor, sigma: Tensor, mask: Tensor, grid: LogGrid
) -> tuple[CurveBins, Tensor]:
    """Bins of curves divided by their largest sigma, and that sigma (B, 1)."""
    q = q_inv_angstrom.expand_as(intensity)
    if intensity.ndim != 2 or sigma.shape != intensity.shape or mask.shape != intensity.shape:
        raise GeometryError(
            f"intensity {tuple(intensity.shape)}, sigma {tuple(sigma.shape)} and mask {tuple(mask.shape)}: "
            "expected (B, Q) all three; pad a batch of curves and mask the padding"
        )
    dtype = torch.promote_types(intensity.dtype, torch.float32)
    q, intensity, sigma = q.to(dtype), intensity.to(dtype), sigma.to(dtype)
    position = _position(q, grid)
    usable = ~mask & torch.isfinite(intensity) & torch.isfinite(sigma) & (sigma > 0)
    usable = usable & (position >= -0.5) & (position < grid.points - 0.5)
    scale = sigma.where(usable, 0.0).amax(-1, keepdim=True)
    scale = scale.where(scale > 0, 1.0)
    return _average(position, intensity / scale, sigma / scale, usable, grid.points), scale


def _position(q: Tensor, grid: LogGrid) -> Tensor:
    """Log q in units of the bin width, 0 at the first centre; q <= 0 lies far below the grid."""
    low, high = math.log(grid.q_min_inv_angstrom), math.log(grid.q_max_inv_angstrom)
    log_q = torch.where(q > 0, q, torch.ones_like(q)).log()
    return torch.where(q > 0, (log_q - low) * ((grid.points - 1) / (high - low)), -torch.inf)


def _average(position: Tensor, intensity: Tensor, sigma: Tensor, usable: Tensor, points: int) -> CurveBins:
    index = position.where(usable, 0.0).round().long().clamp(0, points - 1)
    weight = torch.where(usable, sigma, 1.0).square().reciprocal() * usable
    intensity, position = intensity.where(usable, 0.0), position.where(usable, 0.0)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(values.shape[0], points).scatter_add(1, index, values)

    weights = total(weight)
    filled = total(usable.to(weight.dtype)) > 0
    safe = weights.where(filled, 1.0)
    return CurveBins(
        intensity=total(weight * intensity) / safe,
        variance=(1.0 / safe).where(filled, 0.0),
        position=total(weight * position) / safe,
        filled=filled,
    )


def _normalisation(bins: CurveBins) -> Tensor:
    """(B, 1) mean of the well-measured bins next to the lowest of them, weighted by signal-to-noise squared.

    The window is one in q, so that c does not depend on how densely the curve was measured. Where no bin is
    well measured: the inverse-variance mean of all, at least its own standard deviation.
    """
    places = torch.arange(bins.filled.shape[-1], device=bins.filled.device)
    deviation = bins.variance.sqrt()
    good = bins.filled & (bins.intensity > NORMALISING_SIGNAL_TO_NOISE * deviation)
    any_good = good.any(-1, keepdim=True)
    first = good.to(torch.uint8).argmax(-1, keepdim=True)
    chosen = torch.where(any_good, good & (places < first + NORMALISING_BINS), bins.filled)
    precision = torch.where(chosen, bins.variance, 1.0).reciprocal() * chosen
    weight = torch.where(any_good, precision * bins.intensity.square(), precision)
    total = weight.sum(-1, keepdim=True)
    mean = (weight * bins.intensity).sum(-1, keepdim=True) / total.where(total > 0, 1.0)
    summed = precision.sum(-1, keepdim=True)
    return torch.maximum(mean, summed.where(summed > 0, 1.0).rsqrt())


def _interpolate(bins: CurveBins) -> tuple[Tensor, Tensor, Tensor]:
    """Value, variance and knownness of every bin; those between filled ones are interpolated.

    The variance is that of a value taken from the left or the right neighbour with the interpolation
    weights as probabilities: the neighbours' own plus a term that grows with the step between them.
    """
    points = bins.filled.shape[-1]
    places = torch.arange(points, device=bins.filled.device).expand_as(bins.filled)
    left = torch.where(bins.filled, places, -1).cummax(-1).values
    right = torch.where(bins.filled, places, points).flip(-1).cummin(-1).values.flip(-1)
    known = (left >= 0) & (right < points)
    left, right = left.clamp_min(0), right.clamp_max(points - 1)
    x0, x1 = bins.position.gather(-1, left), bins.position.gather(-1, right)
    y0, y1 = bins.intensity.gather(-1, left), bins.intensity.gather(-1, right)
    v0, v1 = bins.variance.gather(-1, left), bins.variance.gather(-1, right)
    span = torch.where(right > left, x1 - x0, 1.0).clamp_min(1e-6)
    t = ((places - x0) / span).clamp(0.0, 1.0)
    value = torch.where(bins.filled, bins.intensity, torch.lerp(y0, y1, t))
    between = torch.lerp(v0, v1, t) + t * (1 - t) * (y1 - y0).square()
    return value, torch.where(bins.filled, bins.variance, between), known


def _channels(value: Tensor, sigma: Tensor, bins: CurveBins, known: Tensor) -> Tensor:
    sigma = torch.where(known, sigma, 1.0)
    log_sigma = sigma.log()
    log_value = log_sigma + torch.asinh(value / (2 * sigma))
    ratio = torch.asinh(value / sigma)
    centres = torch.arange(value.shape[-1], device=value.device, dtype=value.dtype)
    offset = torch.where(bins.filled, bins.position - centres, 0.0)
    logs = torch.stack((log_value, ratio, log_sigma), dim=1) / LOG_UNIT
    logs = torch.where(known.unsqueeze(1), logs, 0.0)
    return torch.cat((logs, torch.stack((bins.filled.to(value.dtype), offset), dim=1)), dim=1)
