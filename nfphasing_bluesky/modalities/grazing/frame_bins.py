"""Frames in grazing incidence as tensors: from files, and simulated as a detector counts them.

All frames of a modality have the same number of bins over exit angles and q in the plane
(`physics.grazing.grazing_bins`). Counts of a bin are Poisson; they are compared as Gaussian with a variance
that a bin and its neighbours tell, because then scale and background, in which the model is linear, are
integrated out exactly.

Dimension letters: B frames, H rows of bins, W columns, Q = H W.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import Frame, FrameError, Prediction
from nfphasing_bluesky.modalities.batches import Measured, noise_channels
from nfphasing_bluesky.modalities.curves import log_uniform
from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.grazing.bin_grid import Bins, Shape
from nfphasing_bluesky.modalities.grazing.cut_curves import uniform
from nfphasing_bluesky.modalities.grazing.frame_model import SHAPE
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.physics.grazing.grazing_bins import CROWDED, GrazingBins, binned, crowded_places
from nfphasing_bluesky.physics.grazing.grazing_frames import lit_pixels
from nfphasing_bluesky.physics.noise import local_counts, made_up_for, poisson_counts, uneven_sigma

MIN_SHARE = 0.2
"""Of the bins that must have pixels."""
MIN_SIGNAL_TO_NOISE = 10.0
TRUSTED = 30.0
"""Counts: patterns fall by decades over a few bins."""
RIDGE = 2.0
DEGREE = math.pi / 180


@dataclass(frozen=True)
class FramesBatch(Measured):
    """B frames.

    Args:
        intensity, sigma: (B, Q) mean counts of a pixel; sigma includes the systematic floor.
        mask: (B, Q) bool, True = do not use.
        q: (B, P) where the bins are, `Bins.packed`. Float64.
        shape: H and W.
        known: (B, 2, P) lowest and highest value of the samples' parameters; None where nothing is known.
    """

    intensity: Tensor
    sigma: Tensor
    mask: Tensor
    q: Tensor
    shape: Shape = SHAPE
    known: Tensor | None = None

    @property
    def bins(self) -> Bins:
        """Where the bins are."""
        return Bins.of(self.q, self.shape)


def collate(frames: Sequence[Frame], sigma_floor: float, shape: Shape = SHAPE) -> FramesBatch:
    """Turn frames into a batch, checking each. Raises FrameError or GeometryError for a bad one."""
    rows = [_row(frame, sigma_floor, shape) for frame in frames]
    intensity, sigma, mask, q = (torch.cat(parts) for parts in zip(*rows, strict=True))
    batch = FramesBatch(intensity, sigma, mask, q, shape)
    for frame, count, ratio in zip(frames, *_quality(batch), strict=True):
        if count < _least(shape):
            raise FrameError(
                f"{frame.origin.label}: {int(count)} of {shape.bins} bins over exit angle and q have "
                f"pixels, expected at least {_least(shape)}; check the mask, or bin the frame less"
            )
        if not ratio > MIN_SIGNAL_TO_NOISE:
            raise FrameError(
                f"{frame.origin.label}: the mean intensity has a signal-to-noise ratio of {ratio:.2g}, "
                f"expected more than {MIN_SIGNAL_TO_NOISE:g}; expose longer, or sum frames"
            )
    return batch


def _least(shape: Shape) -> int:
    return int(MIN_SHARE * shape.bins)


def _row(frame: Frame, sigma_floor: float, shape: Shape) -> tuple[Tensor, ...]:
    if frame.intensity.ndim != 2:
        raise FrameError(
            f"{frame.origin.label}: found a frame {frame.intensity.shape}, expected a detector's (H, W) "
            "in grazing incidence; curves and cuts are for other models"
        )
    found = binned(frame, shape)
    counts, pixels = (torch.from_numpy(v)[None] for v in (found.counts, found.pixels))
    variance = None if found.variance is None else torch.from_numpy(found.variance)[None]
    floor = torch.tensor([[[sigma_floor]]], dtype=torch.float64)
    return (*_measured(counts, pixels, variance, floor), _packed(found))


def _packed(found: GrazingBins) -> Tensor:
    beam = np.array([found.wave_number, found.incidence_rad])
    parts = (found.exit_mean, found.exit_half, found.q_mean, found.q_half, beam)
    return torch.from_numpy(np.concatenate(parts))[None]


def _measured(
    counts: Tensor, pixels: Tensor, variance: Tensor | None, floor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Intensity, sigma and mask (B, Q) of sums (B, H, W), their variance, and a floor that broadcasts."""
    n, empty = pixels.clamp_min(1.0), pixels == 0
    level, own = local_counts(counts, pixels, trusted=TRUSTED)
    smooth, follows = _smoothed(level, ~empty)
    systematic = (floor * smooth).square()
    spread, slope = (level / n, own / n) if variance is None else (variance / n.square(), 0.0)
    slope = slope + 2 * systematic * follows * own / level
    variance = torch.where(empty, 1.0, spread + systematic)
    mean = torch.where(empty, 0.0, made_up_for(counts / n, variance, slope))
    return mean.flatten(1).float(), variance.sqrt().flatten(1).float(), empty.flatten(1)


def _smoothed(level: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, W) geometric means of 3 x 3 bins; the bin's own where that is far more, on a ridge.

    A relative error of a bin's own alone would give weight to low ones, and pull fits there. Also the share
    of a relative change of its own level that each follows.
    """

    def around(values: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(values[:, None], 3, 1, 1, divisor_override=1)[:, 0]

    share = filled.to(level)
    many = around(share).clamp_min(1.0)
    mean = (around(share * level.log()) / many).exp()
    ridge = level > RIDGE * mean
    return torch.where(ridge, level, mean), torch.where(ridge, 1.0, 1 / many)


def _quality(batch: FramesBatch) -> tuple[Tensor, Tensor]:
    """(B,) bins with pixels, and signal-to-noise ratio."""
    weight = batch.weight.double()
    ratio = (weight * batch.intensity).sum(1) / weight.sum(1).clamp_min(1e-300).sqrt()
    return (~batch.mask).sum(1), ratio


def usable(batch: FramesBatch) -> Tensor:
    """(B,) bool: frames that `collate` would take."""
    count, ratio = _quality(batch)
    return (count >= _least(batch.shape)) & (ratio > MIN_SIGNAL_TO_NOISE)


@dataclass(frozen=True)
class FrameSimulation:
    """Ranges that simulated frames are drawn from; log-uniform unless it says otherwise.

    Args:
        wavelength: angstrom, uniform.
        incidence: degrees, uniform.
        exit_first, exit_last: of the rows, degrees.
        q_first, q_last: of the columns, 1/angstrom.
        pixel: height and width, degrees.
        counts: of a pixel of the brightest bin.
        floor: relative systematic error.
        shape: H and W.
    """

    wavelength: tuple[float, float] = (0.7, 1.7)
    incidence: tuple[float, float] = (0.2, 0.8)
    exit_first: tuple[float, float] = (0.001, 0.05)
    exit_last: tuple[float, float] = (0.6, 2.5)
    q_first: tuple[float, float] = (0.0025, 0.01)
    q_last: tuple[float, float] = (0.05, 0.25)
    pixel: tuple[float, float] = (0.003, 0.02)
    counts: tuple[float, float] = (3.0, 1e5)
    floor: tuple[float, float] = (0.02, 0.3)
    shape: Shape = SHAPE


@dataclass(frozen=True)
class Places:
    """Where n frames are measured: bins, and the pixels (n, H, W) in each, 0 where there are none."""

    bins: Bins
    pixels: Tensor


def random_places(s: FrameSimulation, n: int, generator: torch.Generator) -> Places:
    """Random geometries, gaps between modules, stops and dead bins of n frames."""
    k = 2 * math.pi / uniform(s.wavelength, n, generator)
    incidence = uniform(s.incidence, n, generator) * DEGREE
    ends = [log_uniform(r, n, generator).double() for r in (s.exit_first, s.exit_last, s.q_first, s.q_last)]
    exits = _edges(ends[0] * DEGREE, ends[1] * DEGREE, s.shape.rows, CROWDED[0])
    q = _edges(ends[2], ends[3], s.shape.columns, CROWDED[1])
    pixel = (log_uniform(s.pixel, n, generator).double() * DEGREE)[:, None]
    tall, wide = exits.diff(dim=1), q.diff(dim=1)
    # both sides of the plane of incidence
    rows, columns = (
        (tall / pixel).round().clamp_min(1),
        (2 * wide / (k[:, None] * pixel)).round().clamp_min(1),
    )
    exit_mean, q_mean = exits[:, :-1] + 0.5 * tall, q[:, :-1] + 0.5 * wide
    pixels = rows[:, :, None] * columns[:, None]
    reached = q[:, None, 1:] > (k[:, None] * (exit_mean.cos() - incidence.cos()[:, None]).abs())[:, :, None]
    seen = reached & ~_hidden(s.shape, n, generator)
    bins = Bins(exit_mean, 0.5 * tall, q_mean, 0.5 * wide, torch.stack([k, incidence], 1))
    return Places(bins, torch.where(seen, pixels, 0.0))


def _edges(low: Tensor, high: Tensor, count: int, crowded: float) -> Tensor:
    share = torch.from_numpy(crowded_places(count + 1, crowded)).to(low)
    return low[:, None] + (high - low)[:, None] * share


def _hidden(shape: Shape, n: int, generator: torch.Generator) -> Tensor:
    """(n, H, W) bool: gaps through rows and columns, a stop at the reflected beam, dead bins; some."""

    def gap(count: int) -> Tensor:
        first = uniform((-1.0, 1.0), n, generator)[:, None] * count
        width = uniform((0.5, 2.5), n, generator)[:, None]
        step = torch.arange(count, device=generator.device)
        return (step >= first) & (step < first + width) & (first >= 0)

    rows, columns = gap(shape.rows)[:, :, None], gap(shape.columns)[:, None]
    high, wide = (uniform((-1.0, 1.0), n, generator)[:, None, None] for _ in range(2))
    row = torch.arange(shape.rows, device=generator.device)[:, None]
    column = torch.arange(shape.columns, device=generator.device)
    stop = (row < 0.6 * shape.rows * high) & (column < 0.2 * shape.columns * wide)
    chance = torch.rand(n, *shape, generator=generator, device=generator.device)
    dead = chance < 0.1 * uniform((-1.0, 1.0), n, generator).clamp_min(0)[:, None, None]
    return rows | columns | stop | dead


class Scatters(Protocol):
    """A modality of binned frames."""

    simulation: FrameSimulation
    background: ClassVar[BackgroundPrior]

    def pattern(self, draws: Draws, packed: Tensor) -> Tensor:
        """(N, Q) scattering of each draw, of root mean square 1."""
        ...


def simulate(
    modality: Scatters, draws: Draws, generator: torch.Generator
) -> tuple[FramesBatch, dict[str, Tensor]]:
    """Measure n samples, each with a geometry of its own; also their scales and backgrounds over scale."""
    n, s = len(draws), modality.simulation
    places = random_places(s, n, generator)
    beta = modality.background.sample(n, generator)
    expected = modality.pattern(draws, places.bins.packed) + beta[:, None]
    batch, scale = measure(places, expected, s, generator)
    return batch, {"scale": scale, "beta": beta}


def measure(
    places: Places, expected: Tensor, s: FrameSimulation, generator: torch.Generator
) -> tuple[FramesBatch, Tensor]:
    """Count photons of what is expected, with an uneven systematic error; also the (n,) scales.

    Args:
        places: of the bins.
        expected: (n, Q) scattering and background, of unit scale.
        s: of counts and floor.
        generator: of every random number.
    """
    n, shape = len(expected), places.pixels.shape
    brightest = torch.where(places.pixels.flatten(1) > 0, expected, 0.0).amax(1).clamp_min(1e-30)
    scale = log_uniform(s.counts, n, generator) / brightest
    floor = uneven_sigma(log_uniform(s.floor, n, generator)[:, None].expand_as(expected), generator)
    uneven = 1 + floor * torch.randn(expected.shape, generator=generator, device=expected.device)
    mean = (scale[:, None] * expected * uneven.clamp_min(0.0)).view(shape) * places.pixels
    counts = poisson_counts(mean, generator).double()
    found = _measured(counts, places.pixels, None, floor.double().view(shape))
    return FramesBatch(*found, places.bins.packed, s.shape), scale


def context(batch: FramesBatch) -> tuple[Tensor, Tensor]:
    """Channels (B, C, Q) of the map, and (B, E) angles, q and wavelength."""
    bins, sigma = batch.bins, batch.sigma.double()
    channels = noise_channels(batch.intensity.double(), sigma, ~batch.mask)
    k, incidence = bins.beam.unbind(1)
    first, last = bins.exit_mean[:, 0], bins.exit_mean[:, -1]
    across = [bins.q_mean[:, 0].log() / 2 + 2, bins.q_mean[:, -1].log() + 2]
    angles = [k.log(), 100 * incidence, 200 * first, 30 * last, last.log() + 4]
    scalars = [*angles, 40 * k * incidence.sin(), 10 * k * last.sin(), *across]
    return channels, torch.stack(scalars, 1).float()


def at_pixels(frame: Frame, batch: FramesBatch, prediction: Prediction) -> Prediction:
    """Prediction at the pixels that a frame was binned from, of that of its bins; NaN at all others.

    Between the middles of bins, logarithms are linear over exit angle and q.
    """
    seen = lit_pixels(frame)
    bins = batch.bins
    rows, columns = bins.exit_mean[0].numpy(), bins.q_mean[0].numpy()
    places = seen.maps.exit_rad[seen.lit], seen.maps.q[seen.lit]
    (low, up), (left, across) = (_between(m, v) for m, v in zip((rows, columns), places, strict=True))

    def spread(values: np.ndarray) -> np.ndarray:
        logarithm = np.log(np.maximum(values.reshape(batch.shape), 1e-30))
        edges = (
            (1 - across) * logarithm[row, left] + across * logarithm[row, left + 1] for row in (low, low + 1)
        )
        first, second = edges
        out = np.full(frame.intensity.shape, np.nan, dtype=np.float32)
        out[seen.lit] = np.exp((1 - up) * first + up * second)
        return out if getattr(frame.geometry, "rows_up", False) else out[::-1].copy()

    return Prediction(spread(prediction.mean), spread(prediction.lower), spread(prediction.upper))


def _between(middles: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the middle below each place, and how far it is on the way to the next, 0 to 1."""
    first = np.clip(np.searchsorted(middles, place) - 1, 0, middles.size - 2)
    return first, np.clip((place - middles[first]) / np.diff(middles)[first], 0.0, 1.0)


def features(batch: FramesBatch) -> Mapping[str, Tensor]:
    """Properties of the frames that a card's ranges bound."""
    bins = batch.bins
    return {
        "wavelength_angstrom": 2 * math.pi / bins.beam[:, 0],
        "incidence_degree": bins.beam[:, 1] / DEGREE,
        "exit_last_degree": bins.exit_mean[:, -1] / DEGREE,
        "q_first_inv_angstrom": bins.q_mean[:, 0],
        "q_last_inv_angstrom": bins.q_mean[:, -1],
        "points": (~batch.mask).sum(1).to(batch.q),
    }


def feature_ranges(s: FrameSimulation) -> Mapping[str, tuple[float, float]]:
    """Feature -> range that the simulated frames cover."""
    return {
        "wavelength_angstrom": s.wavelength,
        "incidence_degree": s.incidence,
        "exit_last_degree": (0.9 * s.exit_last[0], 1.01 * s.exit_last[1]),
        "q_first_inv_angstrom": (s.q_first[0], 1.5 * s.q_first[1]),
        "q_last_inv_angstrom": (0.9 * s.q_last[0], 1.01 * s.q_last[1]),
        "points": (float(_least(s.shape)), float(s.shape.bins)),
    }
