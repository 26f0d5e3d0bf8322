"""Perturbations like those of reduced data: counts, buffer subtraction, floors, missing ranges, q errors.

Small pure functions; modalities compose them. Letters: B batch, Q points. Random ones take a Generator, and
draw on its device.

A ring of radius q on a flat detector holds pixels in proportion to q times the width of its bin, so the
counts behind a point at q are I * counts * (q dq) / (q_ref dq_ref), `counts` being those of unit intensity at
the reference.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

REFERENCE_Q = 0.1
REFERENCE_BIN = 1e-3


def exposure(q: Tensor, counts: Tensor) -> Tensor:
    """(B, Q) counts per unit intensity in each bin.

    Args:
        q: (B, Q) centres of the bins, 1/angstrom, increasing.
        counts: (B,) counts of unit intensity in a bin of 0.001/angstrom at 0.1/angstrom.
    """
    inner = (q[:, 2:] - q[:, :-2]) / 2
    width = torch.cat([q[:, 1:2] - q[:, :1], inner, q[:, -1:] - q[:, -2:-1]], 1)
    return counts[:, None] * (q * width).clamp(min=1e-30) / (REFERENCE_Q * REFERENCE_BIN)


def reduced_curve_sigma(
    q: Tensor, intensity: Tensor, *, counts: Tensor, floor: Tensor, buffer: Tensor
) -> Tensor:
    """Return the standard deviation of a reduced, buffer-subtracted curve.

    sigma^2 = (I + 2 b) / e + (floor I)^2, with e the `exposure`: the sample's frame counts (I + b) e and the
    buffer's b e, both Poisson, and a relative systematic error remains.

    Args:
        q: (B, Q) 1/angstrom.
        intensity: (B, Q) expected intensity after subtraction, >= 0.
        counts: (B,) see `exposure`.
        floor: (B,) relative systematic error.
        buffer: (B,) the buffer's intensity b, in the unit of `intensity`.
    """
    poisson = (intensity + 2 * buffer[:, None]) / exposure(q, counts)
    return (poisson + (floor[:, None] * intensity).square()).sqrt()


def uneven_sigma(sigma: Tensor, generator: Generator) -> Tensor:
    """Sigma (B, Q) as different error models would state it: off by a smooth factor and by scatter.

    Real sigmas come from counts, from the spread over the azimuth, or from propagation, and differ by tens of
    per cent. A simulation whose sigma followed from the noise-free curve would give that curve away, and a
    network learns to read it off the error bars. The logarithm of the factor is three waves along q, of
    standard deviation uniform up to 0.4, plus independent scatter, log-uniform from 0.02 to 0.3.
    """
    B, Q = sigma.shape
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device).to(sigma)

    place = torch.linspace(0, 1, Q, device=device).to(sigma)
    phase = 2 * torch.pi * (uniform(B, 3, 1) + 3 * uniform(B, 3, 1) * place)
    waves = (2 / 3) ** 0.5 * torch.cos(phase).sum(1)
    scatter = torch.exp(torch.lerp(sigma.new_tensor(0.02).log(), sigma.new_tensor(0.3).log(), uniform(B, 1)))
    white = torch.randn(B, Q, generator=generator, device=device).to(sigma)
    return sigma * torch.exp(0.4 * uniform(B, 1) * waves + scatter * white)


def poisson_counts(expected: Tensor, generator: Generator) -> Tensor:
    """Poisson draws around expected counts >= 0, any shape."""
    return torch.poisson(expected, generator=generator)


def subtracted_curve(
    q: Tensor, intensity: Tensor, *, counts: Tensor, buffer: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Measure sample and buffer in photons and subtract: the curve and the sigma its counts declare, (B, Q).

    The sigma is that of the counts found, (N_sample + N_buffer + 1)^(1/2) / e, as reduction programs report.
    Arguments as for `reduced_curve_sigma`.
    """
    per_unit = exposure(q, counts)
    sample = poisson_counts((intensity + buffer[:, None]) * per_unit, generator)
    blank = poisson_counts(buffer[:, None].expand_as(intensity) * per_unit, generator)
    return (sample - blank) / per_unit, (sample + blank + 1).sqrt() / per_unit


def add_floor(sigma: Tensor, intensity: Tensor, floor: Tensor) -> Tensor:
    """Add a relative systematic error (B,) in quadrature to sigma (B, Q)."""
    return torch.hypot(sigma, floor[:, None] * intensity.abs())


def add_background(intensity: Tensor, background: Tensor) -> Tensor:
    """Add a flat background (B,) to curves (B, Q)."""
    return intensity + background[:, None]


def beam_stop(q: Tensor, q_min: Tensor) -> Tensor:
    """(B, Q) True where the beam stop, out to q_min (B,), hides a point."""
    return q < q_min[:, None]


def gaps(q: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """(B, Q) True within gaps of q; centre and width are (B, G), 1/angstrom."""
    return ((q[:, :, None] - centre[:, None]).abs() < width[:, None] / 2).any(-1)


def random_missing_ranges(q: Tensor, generator: Generator) -> Tensor:
    """(B, Q) True = missing: a beam stop, up to two gaps, single dead points and a cut tail, each sometimes.

    At least half of every curve survives.
    """
    B, Q = q.shape
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device).to(q)

    # by rank along the curve, so that linear and logarithmic grids lose alike
    rank = torch.arange(Q, device=device).to(q).expand(B, Q) / Q
    mask = beam_stop(rank, 0.12 * (2 * uniform(B) - 1).clamp(min=0))
    mask = mask | gaps(rank, uniform(B, 2), 0.1 * (3 * uniform(B, 2) - 2).clamp(min=0))
    mask = mask | (uniform(B, Q) < 0.05 * (4 * uniform(B, 1) - 3).clamp(min=0))
    mask = mask | (rank > 1 - 0.15 * (4 * uniform(B, 1) - 3).clamp(min=0))
    return mask & (mask.sum(1, keepdim=True) <= Q // 2)


def scaled_q(q: Tensor, wavelength_error: Tensor, distance_error: Tensor) -> Tensor:
    """Return the true q behind a nominal one, given errors of wavelength and distance (small angles).

    q = 2 pi r / (lambda z): the true q is the nominal one divided by (1 + each error).

    Args:
        q: (B, Q) nominal q, 1/angstrom.
        wavelength_error: (B,) true over nominal wavelength, minus 1.
        distance_error: (B,) true over nominal distance, minus 1.

    Returns:
        (B, Q) true q.
    """
    return q / ((1 + wavelength_error) * (1 + distance_error))[:, None]


TRUSTED = 100.0
"""Counts from which a bin's own say more of their mean than those around it."""


class LocalCounts(NamedTuple):
    """What bins and their neighbours tell of the mean of each, (B, H, W).

    Args:
        level: counts per pixel.
        own: share of a change of a bin's own counts per pixel that its level follows, 0 to 1.
    """

    level: Tensor
    own: Tensor


def local_counts(
    counts: Tensor, pixels: Tensor, circular: bool = False, trusted: float = TRUSTED
) -> LocalCounts:
    """Counts per pixel as a bin and its neighbours tell, for its variance.

    A bin with few counts is given the mean of the eight around it, not its own: or chance would give weight
    to low counts, and pull the fit there. One with many is given its own. Empty surroundings are given that
    of the rest of their row. What is left of the pull is what `made_up_for` is about.

    Args:
        counts: (B, H, W) of each bin.
        pixels: (B, H, W) in each bin.
        circular: whether the last column is beside the first.
        trusted: counts from which a bin's own say more; fewer where neighbours differ much.
    """
    row = (counts.sum(2, keepdim=True) - counts + 1) / (pixels.sum(2, keepdim=True) - pixels).clamp_min(1.0)

    def around(values: Tensor) -> Tensor:
        ends = (values[:, :, -1:], values[:, :, :1]) if circular else (0 * values[:, :, :1],) * 2
        padded = torch.cat([ends[0], values, ends[1]], 2)[:, None]
        return torch.nn.functional.avg_pool2d(padded, 3, 1, (1, 0), divisor_override=1)[:, 0]

    near = (around(counts) - counts + 1) / (around(pixels) - pixels + 1 / row)
    denominator = pixels + trusted / near
    return LocalCounts((counts + trusted) / denominator, pixels / denominator)


def made_up_for(intensity: Tensor, variance: Tensor, slope: Tensor) -> Tensor:
    """Intensities that weights which depend on them don't pull to where chance made them low.

    With weights 1 / v, in which the variance v follows the measured value y itself, the mean of (y - m) / v
    is -(dv/dy) / v to first order: y + dv/dy has none of it. Of Poisson counts whose variance is the count
    that is one count (K. J. Mighell, Astrophys. J. 518, 380 (1999)). Where the variance changes by more than
    itself within its own error that order says little, and less is added.

    Args:
        intensity: measured, any shape.
        variance: of that shape, positive.
        slope: dv/dy, of that shape.
    """
    return intensity + slope / (1 + slope.square() / variance)
