"""Photon counting on 2-D detectors: likelihood of counts, flat-field noise, masks of gaps and dead pixels.

Letters: B batch, H rows, W columns. Counts and expected counts are (B, H, W), masks (H, W) or (B, H, W) bool,
True where a pixel must not be used. Random functions take a Generator and draw on its device.
"""

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.physics.noise import poisson_counts

_DARK = 1e-9
"""Expected counts below this are raised to it: a photon where none may fall has a finite likelihood."""


def poisson_log_likelihood(
    counts: Tensor, expected: Tensor, mask: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """(B,) sum over unmasked pixels of N log(s mu) - s mu - log N!.

    Args:
        counts: (B, H, W) photons N >= 0.
        expected: (B, H, W) mu >= 0.
        mask: True = not used.
        scale: (B,) factor s of the expected counts, 1 when None; `best_scale` leaves it free.
    """
    counts, used = _used(counts, expected, mask)
    mean = (expected if scale is None else scale[:, None, None] * expected).clamp(min=_DARK)
    terms = torch.xlogy(counts, mean) - mean - torch.lgamma(counts + 1)
    return (used * terms).sum((1, 2))


def best_scale(counts: Tensor, expected: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) the factor of the expected counts of the largest Poisson likelihood: sum N / sum mu, unmasked."""
    counts, used = _used(counts, expected, mask)
    return counts.sum((1, 2)) / (used * expected).sum((1, 2)).clamp(min=_DARK)


def pearson_chi2(counts: Tensor, expected: Tensor, mask: Tensor | None = None, least: float = 0.0) -> Tensor:
    """(B,) mean of (N - mu)^2 / mu over unmasked pixels with more than `least` expected counts; about 1."""
    counts, used = _used(counts, expected, mask)
    used = used * (expected > least)
    mean = expected.clamp(min=_DARK)
    terms = (counts - mean).square() / mean
    return (used * terms).sum((1, 2)) / used.sum((1, 2)).clamp(min=1)


def flat_corrected(
    intensity: Tensor, flat: Tensor, photons: Tensor, empty_images: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Count an image, divide by a measured flat: the normalised image and the sigma its counts declare.

    The image counts N ~ Poisson(photons flat I). The flat's estimate is the mean of n empty images,
    E ~ Poisson(n photons flat) / n, as at a beamline, so its noise stays in the image. sigma^2 is
    (N + 1) / E^2 + (N / E)^2 / (n E): the one keeps pixels without photons from a sigma of 0.

    Args:
        intensity: (B, H, W) expected intensity, 1 without an object.
        flat: (H, W) or (B, H, W) > 0, the illumination relative to its mean.
        photons: (B,) photons per pixel of an empty image, on average.
        empty_images: (B,) number n of empty images averaged.
        generator: of the draws.

    Returns:
        Normalised image and sigma, (B, H, W).
    """
    bright = photons[:, None, None] * flat
    n = empty_images[:, None, None].to(intensity)
    count = poisson_counts(bright * intensity, generator)
    empty = poisson_counts(n * bright, generator).clamp(min=1) / n
    image = count / empty
    return image, ((count + 1) / empty.square() + image.square() / (n * empty)).sqrt()


def random_flats(n: int, shape: tuple[int, int], generator: Generator) -> Tensor:
    """(n, H, W) illuminations of mean 1: a Gaussian beam, stripes of mirrors, and speckle of optics.

    The beam's width is 0.7 to 3 fields, its centre within a quarter of one; stripes and speckle are Gaussian
    fields in the logarithm, of standard deviation up to 0.15 each, of 1 to 16 pixels across.
    """
    device = generator.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator, device=device)

    y = torch.linspace(-0.5, 0.5, shape[0], device=device)[:, None] - uniform(-0.25, 0.25)
    x = torch.linspace(-0.5, 0.5, shape[1], device=device) - uniform(-0.25, 0.25)
    log_flat = -(y.square() + x.square()) / (2 * uniform(0.7, 3.0).square())
    fy = torch.fft.fftfreq(shape[0], device=device)[:, None]
    fx = torch.fft.rfftfreq(shape[1], device=device)
    for elongation in (100.0, 1.0):
        width = 2 ** uniform(0.0, 4.0)
        white = torch.fft.rfft2(torch.randn(n, *shape, generator=generator, device=device))
        smooth = torch.exp(-2 * (torch.pi * width).square() * (fy.square() + (elongation * fx).square()))
        field = torch.fft.irfft2(white * smooth, s=shape)
        spread = field.std((1, 2), keepdim=True).clamp(min=1e-6)
        log_flat = log_flat + uniform(0.0, 0.15) * field / spread
    flat = torch.exp(log_flat)
    return flat / flat.mean((1, 2), keepdim=True)


def dead_pixels(n: int, shape: tuple[int, int], fraction: Tensor, generator: Generator) -> Tensor:
    """(n, H, W) True where a pixel is dead; `fraction` is (n,)."""
    draw = torch.rand(n, *shape, generator=generator, device=generator.device)
    return draw < fraction.to(draw)[:, None, None]


def module_gaps(shape: tuple[int, int], rows: Tensor, columns: Tensor, width_px: int) -> Tensor:
    """(B, H, W) True in horizontal and vertical gaps between modules.

    Args:
        shape: (H, W).
        rows: (B, G) first row of each horizontal gap; beyond the frame for none.
        columns: (B, K) first column of each vertical gap.
        width_px: pixels across a gap.
    """
    y, x = (torch.arange(n, device=rows.device) for n in shape)
    across = ((y - rows[..., None]) >= 0) & ((y - rows[..., None]) < width_px)
    along = ((x - columns[..., None]) >= 0) & ((x - columns[..., None]) < width_px)
    return across.any(1)[:, :, None] | along.any(1)[:, None, :]


def beam_stop_disc(shape: tuple[int, int], centre_px: Tensor, radius_px: Tensor) -> Tensor:
    """(B, H, W) True within `radius_px` (B,) of `centre_px` (B, 2), row and column."""
    y, x = (torch.arange(n, device=centre_px.device).to(radius_px) for n in shape)
    dy, dx = y - centre_px[:, :1], x - centre_px[:, 1:]
    return dy.square()[:, :, None] + dx.square()[:, None] < radius_px.square()[:, None, None]


def _used(counts: Tensor, expected: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Counts in the dtype of `expected`, 0 where masked, and 1 for the pixels in use."""
    if counts.shape != expected.shape or counts.ndim != 3:
        raise FrameError(
            f"counts {tuple(counts.shape)} and expected counts {tuple(expected.shape)} differ or are not "
            "(B, H, W); give both a batch axis and crop them alike"
        )
    counts = counts.to(expected)
    if mask is None:
        return counts, torch.ones_like(counts)
    check_mask(mask, counts)
    return torch.where(mask, 0, counts), (~mask).to(expected).expand_as(counts)


def check_mask(mask: Tensor, frames: Tensor) -> None:
    """Raise FrameError unless the mask is (H, W) or (B, H, W) bool for frames (B, H, W)."""
    if mask.shape not in (frames.shape, frames.shape[1:]) or mask.dtype != torch.bool:
        raise FrameError(
            f"mask is {mask.dtype} {tuple(mask.shape)}, expected bool {tuple(frames.shape[1:])} or "
            f"{tuple(frames.shape)}, True where a pixel must not be used"
        )
