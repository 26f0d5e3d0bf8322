"""A scan of a random object with a defocused beam, simulated with fractions of pixels and counting noise."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.imaging.whole_scan import Exposures
from nfphasing_bluesky.physics.ptychography import (
    FarField,
    NearField,
    expected_intensity,
    extract_patches,
    fourier_shift,
    split_positions,
)

SIDE, PIXELS = 48, 96
FAR, NEAR = FarField(), NearField(0.015)


class Simulated(NamedTuple):
    exposures: Exposures
    probe: Tensor
    image: Tensor


def beam(photons=3e5, defocus=80.0):
    """(1, SIDE, SIDE) complex: a round aperture with a stop off its middle, out of focus."""
    f = torch.fft.fftfreq(SIDE)
    y, x = f[:, None], f
    squared = y.square() + x.square()
    opening = torch.sigmoid((0.16 - squared.sqrt()) / 0.01)
    stop = torch.sigmoid((0.05 - ((y - 0.02).square() + (x + 0.03).square()).sqrt()) / 0.01)
    phase = math.pi * defocus * squared + 20 * y * x + 60 * y**3
    wave = torch.fft.fftshift(torch.fft.ifft2(torch.polar(opening * (1 - stop), phase)))
    return (wave * (photons / wave.abs().square().sum()).sqrt())[None]


def sample(strength=0.8, seed=1, pixels=None):
    """(pixels, pixels) complex: sharp and smooth phases of a root mean square, a tenth of it absorbed."""
    pixels = pixels or PIXELS
    generator = torch.Generator().manual_seed(seed)
    f = torch.fft.fftfreq(pixels)
    squared = f[:, None].square() + f.square()
    noise = torch.randn(2, pixels, pixels, generator=generator)
    rough, smooth = torch.fft.ifft2(torch.fft.fft2(noise) * torch.exp(-squared * 800.0)).real
    phase = torch.sign(rough) + smooth / smooth.std()
    phase = strength * phase / phase.std()
    return torch.polar(torch.exp(-0.1 * (phase - phase.min())), phase)


def places(rows=7, columns=7, step=6.0, seed=2):
    """(rows columns, 2) a raster with a jitter of a fifth of its step."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(torch.arange(rows).double(), torch.arange(columns).double()) * step
    jitter = (torch.rand(len(grid), 2, generator=generator, dtype=torch.float64) - 0.5) * 0.4 * step
    return grid + jitter + 4


def simulate(propagation=FAR, *, strength=0.8, photons=3e5, background=0.0, where=None, seed=3):
    """Frames at places, with their probe and object."""
    position, probe, image = places() if where is None else where, beam(photons), sample(strength)
    corner, fraction = split_positions(position)
    if isinstance(propagation, FarField):
        patches = extract_patches(image, corner.double(), (SIDE, SIDE))
        each = fourier_shift(probe.expand(len(position), -1, -1, -1), fraction.float())
    else:
        patches = extract_patches(image, position, (SIDE, SIDE), subpixel=True, margin=2)
        each = probe
    expected = expected_intensity(patches, each, propagation) + background
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(seed))
    return Simulated(Exposures(counts, torch.zeros(SIDE, SIDE, dtype=torch.bool), position), probe, image)


def likeness(one, other):
    """|<a, b>| of two modes (H, W) at their best shift and ramp of up to two cycles."""
    return best_match(one, other)[0]


def best_match(one, other):
    """`likeness`, and the rows and columns by which the first must be moved."""
    one, other = one / one.norm(), other / other.norm()
    spectrum = torch.fft.fft2(other)
    rows, columns = (torch.arange(n) / n for n in one.shape)
    best, shift = 0.0, (0, 0)
    for cycles in torch.cartesian_prod(torch.arange(-2, 2.1, 0.5), torch.arange(-2, 2.1, 0.5)):
        turn = 2 * math.pi * (cycles[0] * rows[:, None] + cycles[1] * columns)
        ramped = one * torch.polar(torch.ones_like(turn), turn)
        found = torch.fft.ifft2(torch.fft.fft2(ramped).conj() * spectrum).abs()
        if float(found.max()) > best:
            best, place = float(found.max()), divmod(int(found.argmax()), one.shape[1])
            shift = tuple((p + n // 2) % n - n // 2 for p, n in zip(place, one.shape, strict=True))
    return best, shift
