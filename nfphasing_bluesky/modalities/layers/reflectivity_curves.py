"""Reflectivity curves as tensors: from frames, and simulated like a reflectometer measures them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import CurveGeometry, Frame
from nfphasing_bluesky.modalities import curves
from nfphasing_bluesky.modalities.batches import Measured
from nfphasing_bluesky.modalities.layers.layer_prior import Bounds, bounds_of
from nfphasing_bluesky.physics.noise import random_missing_ranges, uneven_sigma


@dataclass(frozen=True)
class ReflectivityBatch(Measured):
    """B curves padded to a common number of points.

    Args:
        points: (B, Q) nominal q, 1/angstrom; padding repeats the last point and is masked.
        intensity, sigma: (B, Q); sigma includes the systematic floor.
        mask: (B, Q) bool, True = do not use.
        dq: (B, Q) standard deviation of the resolution, 1/angstrom; 0 where none is known.
        lower, upper: (B, P) prior bounds, as `Bounds` has them.
        layers: (B, K) bool, numbers of layers that are possible.
    """

    points: Tensor
    intensity: Tensor
    sigma: Tensor
    mask: Tensor
    dq: Tensor
    lower: Tensor
    upper: Tensor
    layers: Tensor

    @property
    def q(self) -> Tensor:
        """(B, 2 Q + 2 P) what a curve takes beside theta: nominal q, resolution, bounds."""
        return torch.cat([self.points, self.dq, self.lower, self.upper], 1)


def collate(frames: Sequence[Frame], sigma_floor: float) -> ReflectivityBatch:
    """Turn frames into a batch, checking each. Raises FrameError or GeometryError for a bad one."""
    plain = curves.collate(frames, sigma_floor)
    width = plain.q.shape[1]
    bounds = [bounds_of(frame.bounds, frame.origin.label) for frame in frames]
    lower, upper, layers = (torch.stack(parts) for parts in zip(*bounds, strict=True))
    dq = torch.from_numpy(np.stack([_resolution(frame, width) for frame in frames]))
    return ReflectivityBatch(
        plain.q, plain.intensity, plain.sigma, plain.mask, dq.to(plain.q), lower, upper, layers
    )


def _resolution(frame: Frame, width: int) -> np.ndarray:
    geometry = frame.geometry
    assert isinstance(geometry, CurveGeometry)  # noqa: S101  `curves.collate` has checked it
    dq = geometry.dq_inv_angstrom
    dq = np.zeros_like(geometry.q_inv_angstrom) if dq is None else np.nan_to_num(dq)
    return np.pad(dq, (0, width - dq.size), mode="edge")


@dataclass(frozen=True)
class ReflectometerSimulation:
    """Ranges that simulated curves are drawn from; log-uniform unless it says otherwise.

    Args:
        q_min, q_max: first and last point, 1/angstrom.
        points: number of points.
        counts: photons of everything reflected at q = 0.1, per point.
        gain: the exposure grows as q to the power of this, uniform: longer counting, thinner attenuators.
        floor: relative systematic floor of sigma.
        dq: constant part of the resolution, 1/angstrom.
        dq_over_q: relative part of the resolution.
        no_resolution: share of the curves that are sharp.
        scale: intensity of everything reflected.
        unfinished: share of the curves of scans that still run, of whose points the first ones are there.
        first: points of such a scan, at least.
    """

    q_min: tuple[float, float] = (0.006, 0.03)
    q_max: tuple[float, float] = (0.15, 0.6)
    points: tuple[int, int] = (60, 300)
    counts: tuple[float, float] = (1e5, 1e11)
    gain: tuple[float, float] = (0.0, 3.0)
    floor: tuple[float, float] = (0.01, 0.08)
    dq: tuple[float, float] = (1e-5, 1e-3)
    dq_over_q: tuple[float, float] = (3e-4, 0.01)
    no_resolution: float = 0.25
    scale: tuple[float, float] = (0.1, 1e8)
    unfinished: float = 0.3
    first: int = 12


def random_points(ranges: ReflectometerSimulation, n: int, generator: torch.Generator) -> Tensor:
    """(n, Q) nominal q, mostly evenly spaced, Q common to the batch."""
    low, high = (curves.log_uniform(r, n, generator)[:, None] for r in (ranges.q_min, ranges.q_max))
    most = (float(ranges.points[0]), float(ranges.points[1]))
    count = int(curves.log_uniform(most, 1, generator).round())
    step = torch.linspace(0, 1, count, device=generator.device)
    share = torch.rand(n, 1, generator=generator, device=generator.device)
    share = torch.where(share < 0.6, 0.0, (share - 0.6) / 0.4)
    return (1 - share) * (low + (high - low) * step) + share * low * (high / low) ** step


def random_resolution(ranges: ReflectometerSimulation, q: Tensor, generator: torch.Generator) -> Tensor:
    """(n, Q) standard deviations, 1/angstrom."""
    n = len(q)
    constant = curves.log_uniform(ranges.dq, n, generator)[:, None]
    relative = curves.log_uniform(ranges.dq_over_q, n, generator)[:, None]
    sharp = torch.rand(n, 1, generator=generator, device=q.device) < ranges.no_resolution
    return torch.where(sharp, 0.0, torch.hypot(constant, relative * q))


def measure(
    q: Tensor,
    dq: Tensor,
    reflected: Tensor,
    scale: Tensor,
    beta: Tensor,
    bounds: Bounds,
    ranges: ReflectometerSimulation,
    generator: torch.Generator,
) -> ReflectivityBatch:
    """Measure scale (reflected + beta): counts, a systematic floor, misjudged errors, missing ranges.

    Args:
        q: (n, Q) nominal, 1/angstrom.
        dq: (n, Q) its resolution.
        reflected: (n, Q) share of the beam.
        scale: (n,) intensity of everything reflected.
        beta: (n,) background over scale.
        bounds: of each sample.
        ranges: of counts and floor.
        generator: of every random number.
    """
    n = len(q)
    expected = reflected + beta[:, None]
    low, high = ranges.gain
    gain = low + (high - low) * torch.rand(n, 1, generator=generator, device=q.device)
    counts = curves.log_uniform(ranges.counts, n, generator)[:, None] * (q / 0.1) ** gain
    floor = curves.log_uniform(ranges.floor, n, generator)[:, None]
    # a point without a count still has an error
    sigma = (expected / counts + counts**-2 + (floor * expected).square()).sqrt()
    sigma = uneven_sigma(sigma, generator)
    noise = torch.randn(q.shape, generator=generator, device=q.device)
    mask = random_missing_ranges(q, generator) | _not_there_yet(q, ranges, generator)
    return ReflectivityBatch(
        points=q,
        intensity=torch.where(mask, 0.0, scale[:, None] * (expected + sigma * noise)),
        sigma=scale[:, None] * sigma,
        mask=mask,
        dq=dq,
        lower=bounds.lower,
        upper=bounds.upper,
        layers=bounds.layers,
    )


def _not_there_yet(q: Tensor, ranges: ReflectometerSimulation, generator: torch.Generator) -> Tensor:
    """(n, Q) True = a point that a scan that still runs has to measure."""
    n, points = q.shape
    count = curves.log_uniform((float(ranges.first), float(points)), n, generator)[:, None]
    runs = torch.rand(n, 1, generator=generator, device=q.device) < ranges.unfinished
    return runs & (torch.arange(points, device=q.device) >= count)


def plain(batch: ReflectivityBatch) -> curves.CurveBatch:
    """The curves alone."""
    nothing = torch.zeros(len(batch), device=batch.points.device)
    return curves.CurveBatch(
        batch.points, batch.intensity, batch.sigma, batch.mask, nothing * torch.nan, nothing
    )
