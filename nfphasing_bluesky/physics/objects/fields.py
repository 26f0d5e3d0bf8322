"""Gaussian random fields and what is made of them: smooth, log-normal, terraced."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import (
    Shape,
    angles,
    each,
    integers,
    log_uniform,
    normal,
    to_peak_one,
    uniform,
)

_MARGIN = 1.5
"""Fields are periodic on a grid longer by this factor and cropped, so that opposite edges don't match."""


class Spectrum(NamedTuple):
    """Power spectra of n fields; frequencies in cycles/px."""

    exponent: Tensor
    """(n,) beta of k^-beta above the corner frequency."""
    corner: Tensor
    """(n,) below this frequency the power falls to nothing: 0 for a pure power law."""
    stretch: Tensor
    """(n,) how much longer features are along `angle` than across it."""
    angle: Tensor
    """(n,) rad."""


def power_laws(n: int, generator: Generator, low: float = 1.0, high: float = 4.0) -> Spectrum:
    """Power laws of exponents uniform in low to high; one in three is drawn out along a direction."""
    stretch = log_uniform(generator, (n,), 0.2, 5).clamp(min=1)
    zero = torch.zeros(n, device=generator.device)
    return Spectrum(uniform(generator, (n,), low, high), zero, stretch, angles(generator, (n,)))


def bands(n: int, generator: Generator, shortest: float, longest: float) -> Spectrum:
    """Bands about wavelengths (px) log-uniform between two: labyrinths, foams, spinodal patterns."""
    law = power_laws(n, generator, 6, 16)
    return law._replace(corner=1 / log_uniform(generator, (n,), shortest, longest))


def gaussian_field(spectrum: Spectrum, shape: Shape, generator: Generator) -> Tensor:
    """Gaussian random fields (n, H, W), each of zero mean and unit variance over its frame."""
    H, W = shape
    n, size = spectrum.exponent.shape[0], (int(_MARGIN * H), int(_MARGIN * W))
    white = torch.fft.rfft2(normal(generator, (n, *size)).to(spectrum.exponent))
    field = torch.fft.irfft2(white * _amplitude(spectrum, size), s=size)[:, :H, :W]
    field = field - field.mean((1, 2), keepdim=True)
    return field / field.std((1, 2), keepdim=True).clamp(min=1e-12)


def _amplitude(spectrum: Spectrum, size: Shape) -> Tensor:
    device, dtype = spectrum.exponent.device, spectrum.exponent.dtype
    rows = torch.fft.fftfreq(size[0], device=device, dtype=dtype)[:, None]
    columns = torch.fft.rfftfreq(size[1], device=device, dtype=dtype)
    cos, sin = each(spectrum.angle.cos()), each(spectrum.angle.sin())
    along = (columns * cos + rows * sin) * each(spectrum.stretch)
    k2 = along.square() + (rows * cos - columns * sin).square()
    k2[:, 0, 0] = 1.0
    log_power = -each(spectrum.exponent) * k2.log() / 2
    # exp(-beta/2 (k0/k)^2) with k^-beta peaks at k0
    log_power = log_power - each(spectrum.exponent * spectrum.corner.square()) / (2 * k2)
    log_power = log_power - log_power.amax((1, 2), keepdim=True)
    amplitude = torch.exp(log_power / 2)
    amplitude[:, 0, 0] = 0
    return amplitude


def slope(field: Tensor) -> Tensor:
    """(n, H, W) length of the gradient by central differences, per px."""
    padded = torch.nn.functional.pad(field[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return (across.square() + down.square()).sqrt() / 2


def above(field: Tensor, threshold: Tensor, gradient: Tensor) -> Tensor:
    """Where fields (n, H, W) exceed thresholds (n,), with edges of a pixel; `gradient` is their `slope`."""
    return (0.5 + (field - each(threshold)) / gradient.clamp(min=1e-6)).clamp(0, 1)


def quantile(share: Tensor) -> Tensor:
    """The threshold that a standard normal exceeds with this probability."""
    return -torch.special.ndtri(share)


def smooth_fields(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Rough or smooth thickness, power-law spectrum, from faint to saturated contrast."""
    field = gaussian_field(power_laws(n, generator), shape, generator)
    maps = torch.special.ndtr(field * each(log_uniform(generator, (n,), 0.4, 1.3)))
    return to_peak_one(maps - maps.amin((1, 2), keepdim=True))


def log_normal_fields(n: int, shape: Shape, generator: Generator) -> Tensor:
    """exp(s g) of power-law fields g: a few thick places in much that is thin."""
    field = gaussian_field(power_laws(n, generator, 1.5, 4), shape, generator)
    return to_peak_one(torch.exp(field * each(uniform(generator, (n,), 0.4, 1.1))))


def terraces(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Fields cut at two to six heights: steps, islands on islands, contour maps of thickness."""
    cuts = 6
    field = gaussian_field(power_laws(n, generator, 2.5, 4), shape, generator)
    gradient = slope(field)
    share = uniform(generator, (n, cuts), 0.03, 0.97)
    step = uniform(generator, (n, cuts), 0.2, 1)
    step = step * (torch.arange(cuts, device=field.device) < integers(generator, (n, 1), 2, cuts))
    maps = torch.zeros_like(field)
    for j in range(cuts):
        maps += each(step[:, j]) * above(field, quantile(share[:, j]), gradient)
    return to_peak_one(maps)
