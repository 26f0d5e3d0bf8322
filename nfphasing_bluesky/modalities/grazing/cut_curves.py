"""Pairs of cuts in grazing incidence as tensors: from frames, and simulated like a detector measures them.

Every pair has the same number of points: longer cuts are averaged in neighbours, shorter ones padded.

Dimension letters: B pairs, Q = Q1 + Q2 points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import Frame, FrameError, GeometryError, GrazingCutsGeometry, Prediction
from nfphasing_bluesky.modalities.batches import Measured
from nfphasing_bluesky.modalities.curves import log_uniform
from nfphasing_bluesky.physics.grazing.grazing_bins import crowded_places
from nfphasing_bluesky.physics.noise import random_missing_ranges, uneven_sigma

IN_PLANE, OUT_OF_PLANE = 48, 72
"""Q1 and Q2."""
CROWDED = (5.0, 5.0)
"""How much denser the first points of averaged cuts are than even ones, about: peaks lie there."""
MIN_POINTS = 8
"""Of each cut."""
MIN_SIGNAL_TO_NOISE = 5.0


@dataclass(frozen=True)
class CutsBatch(Measured):
    """B pairs of cuts.

    Args:
        points: (B, Q) |q_y| of the in-plane cut, 1/angstrom, then exit angles of the out-of-plane one, rad;
            padding repeats the last point of its cut and is masked. Float64.
        intensity, sigma: (B, Q) of both cuts on one scale; sigma includes the systematic floor.
        mask: (B, Q) bool, True = do not use.
        beam: (B, 6) wave number, 1/angstrom; incidence angle, rad; exit angles that the in-plane cut goes
            from and to, rad; |q_y| that the out-of-plane one does, 1/angstrom. Float64.
        known: (B, 2, P) lowest and highest value of the samples' parameters; None where nothing is known.
    """

    points: Tensor
    intensity: Tensor
    sigma: Tensor
    mask: Tensor
    beam: Tensor
    known: Tensor | None = None

    @property
    def q(self) -> Tensor:
        """(B, Q + 6) what a pattern takes beside theta: points and beam."""
        return torch.cat([self.points, self.beam], 1)


def collate(frames: Sequence[Frame], sigma_floor: float) -> CutsBatch:
    """Turn frames into a batch, checking each. Raises FrameError or GeometryError for a bad one."""
    rows = [_row(frame, sigma_floor) for frame in frames]
    parts = (torch.from_numpy(np.stack([row[i] for row in rows])) for i in range(5))
    points, intensity, sigma, mask, beam = parts
    batch = CutsBatch(points, intensity.float(), sigma.float(), mask, beam)
    for frame, good in zip(frames, usable(batch).tolist(), strict=True):
        if not good:
            raise FrameError(
                f"{frame.origin.label}: nothing stands out of the noise in one of the cuts, expected a "
                f"ratio of signal to noise above {MIN_SIGNAL_TO_NOISE:g}; expose longer, or cut elsewhere"
            )
    return batch


def _row(frame: Frame, sigma_floor: float) -> tuple[np.ndarray, ...]:
    geometry, label = frame.geometry, frame.origin.label
    if not isinstance(geometry, GrazingCutsGeometry):
        raise GeometryError(
            f"{label}: found a {frame.intensity.ndim}-D frame with {type(geometry).__name__}, expected "
            "that of a detector in grazing incidence, or cuts through one; give the incidence angle with "
            "the detector's geometry"
        )
    if frame.sigma is None:
        raise FrameError(f"{label}: sigma is missing, expected one standard deviation per point; pass sigma")
    q1 = geometry.in_plane
    places = (geometry.q_y_inv_angstrom, geometry.exit_rad)
    cuts = []
    for i, (part, at, count) in enumerate(zip(_parts(q1), places, (IN_PLANE, OUT_OF_PLANE), strict=True)):
        good = frame.usable[part]
        if good.sum() < MIN_POINTS:
            name = ("in-plane", "out-of-plane")[i]
            raise FrameError(
                f"{label}: {int(good.sum())} usable points in the {name} cut, expected at least "
                f"{MIN_POINTS}; check the mask and where the cut lies"
            )
        values = np.where(good, frame.intensity[part], 0.0), np.where(good, frame.sigma[part], 1.0)
        cuts.append(_averaged(at, *values, good, count, CROWDED[i]))
    points, intensity, sigma, mask = (np.concatenate(parts) for parts in zip(*cuts, strict=True))
    sigma = np.hypot(sigma, sigma_floor * np.abs(intensity))
    return points, intensity, sigma, mask, _beam(geometry)


def _parts(in_plane: int = IN_PLANE) -> tuple[slice, slice]:
    """Both cuts among the points."""
    return slice(None, in_plane), slice(in_plane, None)


def at_points(frame: Frame, prediction: Prediction) -> Prediction:
    """Prediction at all points of a frame, of that at the points that it was averaged to."""
    geometry = frame.geometry
    assert isinstance(geometry, GrazingCutsGeometry)  # noqa: S101  `_row` has checked it
    places, _, _, mask, _ = _row(frame, 0.0)
    wanted = (geometry.q_y_inv_angstrom, geometry.exit_rad)

    def spread(values: np.ndarray) -> np.ndarray:
        logarithm = np.log(np.maximum(values, 1e-30))
        out = []
        for at, part in zip(wanted, _parts(), strict=True):
            own = slice(None, at.size) if at.size <= places[part].size else ~mask[part]
            out.append(np.exp(np.interp(at, places[part][own], logarithm[part][own])))
        return np.concatenate(out).astype(np.float32)

    return Prediction(spread(prediction.mean), spread(prediction.lower), spread(prediction.upper))


def _beam(geometry: GrazingCutsGeometry) -> np.ndarray:
    k = 2e-10 * math.pi / geometry.wavelength_m
    bands = (*geometry.exit_band_rad, *geometry.q_y_band_inv_angstrom)
    return np.array([k, geometry.incidence_rad, *bands])


def _averaged(
    at: np.ndarray, value: np.ndarray, sigma: np.ndarray, good: np.ndarray, count: int, crowded: float
) -> tuple[np.ndarray, ...]:
    """Place, value, sigma and mask of `count` points: means of neighbours, weighted alike, or padded."""
    if at.size > count:
        edges = crowded_places(count + 1, crowded)
        share = (at - at[0]) / (at[-1] - at[0])
        group = np.clip(np.searchsorted(edges, share, side="right") - 1, 0, count - 1)
        number = np.bincount(group, good, count)
        filled = number > 0
        one = np.where(filled, number, 1.0)
        means = (np.bincount(group, np.where(good, v, 0.0), count) / one for v in (at, value))
        place, mean = means
        error = np.sqrt(np.bincount(group, np.where(good, sigma, 0.0) ** 2, count)) / one
        at, value, sigma, good = place[filled], mean[filled], error[filled], np.ones(filled.sum(), bool)
    missing = count - at.size
    padded = [np.pad(v, (0, missing), mode="edge") for v in (at, value, sigma)]
    return *padded, np.pad(~good, (0, missing), constant_values=True)


def usable(batch: CutsBatch) -> Tensor:
    """(B,) bool: pairs of which both cuts stand out of the noise."""
    weight, value = batch.weight.double(), batch.intensity.double()
    ratio = []
    for part in _parts():
        w, y = weight[:, part], value[:, part]
        ratio.append((w * y).sum(1) / w.sum(1).clamp_min(1e-300).sqrt())
    return torch.stack(ratio).amin(0) > MIN_SIGNAL_TO_NOISE


@dataclass(frozen=True)
class CutSimulation:
    """Ranges that simulated pairs are drawn from; log-uniform unless it says otherwise.

    Args:
        wavelength: angstrom, uniform.
        incidence: degrees, uniform.
        exit_low: degrees, lower end of the in-plane cut's band, uniform.
        exit_width: degrees.
        exit_first: degrees, first point of the out-of-plane cut, uniform.
        exit_last: degrees.
        q_y_first, q_y_last: of the in-plane cut, 1/angstrom.
        q_y_low: lower end of the out-of-plane cut's band, 1/angstrom.
        q_y_width: of that band, over its lower end, uniform.
        counts: behind the brightest point of the in-plane cut.
        ratio: of the pixels behind points of the out-of-plane cut to those of the in-plane one.
        floor: relative systematic error.
        scale: root mean square of the scattering.
        points: of both cuts, uniform.
    """

    wavelength: tuple[float, float] = (0.7, 1.7)
    incidence: tuple[float, float] = (0.2, 0.8)
    exit_low: tuple[float, float] = (0.05, 0.4)
    exit_width: tuple[float, float] = (0.02, 0.15)
    exit_first: tuple[float, float] = (0.005, 0.12)
    exit_last: tuple[float, float] = (0.6, 2.5)
    q_y_first: tuple[float, float] = (0.002, 0.012)
    q_y_last: tuple[float, float] = (0.04, 0.25)
    q_y_low: tuple[float, float] = (0.004, 0.05)
    q_y_width: tuple[float, float] = (0.05, 0.4)
    counts: tuple[float, float] = (100.0, 1e6)
    ratio: tuple[float, float] = (0.3, 3.0)
    floor: tuple[float, float] = (0.02, 0.3)
    scale: tuple[float, float] = (1e-2, 1e6)
    points: tuple[float, float] = (0.5, 1.0)


def uniform(bounds: tuple[float, float], n: int, generator: torch.Generator) -> Tensor:
    """(n,) uniform draws, float64."""
    share = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
    return bounds[0] + (bounds[1] - bounds[0]) * share


class Places(NamedTuple):
    """Where n pairs of cuts are measured.

    Attributes:
        points: (n, Q), as in a `CutsBatch`.
        padding: (n, Q) bool.
        beam: (n, 6), as in a `CutsBatch`.
    """

    points: Tensor
    padding: Tensor
    beam: Tensor

    @property
    def packed(self) -> Tensor:
        """(n, Q + 6) what a pattern takes beside theta."""
        return torch.cat([self.points, self.beam], 1)


def random_places(s: CutSimulation, n: int, generator: torch.Generator) -> Places:
    """Random geometries of n pairs."""
    degree = math.pi / 180
    k = 2 * math.pi / uniform(s.wavelength, n, generator)
    incidence = uniform(s.incidence, n, generator) * degree
    low = uniform(s.exit_low, n, generator)
    high = low + log_uniform(s.exit_width, n, generator)
    first, last = (log_uniform(r, n, generator).double() for r in (s.q_y_first, s.q_y_last))
    q_low = torch.minimum(log_uniform(s.q_y_low, n, generator).double(), 0.5 * last)
    q_high = torch.minimum(q_low * (1 + uniform(s.q_y_width, n, generator)), last)
    beam = torch.stack([k, incidence, low * degree, high * degree, q_low, q_high], 1)
    ends = (
        (first, last),
        (uniform(s.exit_first, n, generator) * degree, log_uniform(s.exit_last, n, generator) * degree),
    )
    cuts = [
        _random_points(low.double(), high.double(), count, crowded, s, generator)
        for (low, high), count, crowded in zip(ends, (IN_PLANE, OUT_OF_PLANE), CROWDED, strict=True)
    ]
    points, padding = (torch.cat(parts, 1) for parts in zip(*cuts, strict=True))
    return Places(points, padding, beam)


def _random_points(
    low: Tensor, high: Tensor, count: int, crowded: float, s: CutSimulation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    n = len(low)
    number = (uniform(s.points, n, generator) * count).round().clamp(max=count)[:, None]
    step = torch.arange(count, device=low.device, dtype=low.dtype)
    share = (step / (number - 1)).clamp_max(1.0)
    bent = torch.sinh(share * math.asinh(crowded)) / crowded
    mix = uniform((-0.5, 1.5), n, generator).clamp(0, 1)[:, None]
    place = mix * share + (1 - mix) * bent
    return low[:, None] + (high - low)[:, None] * place, step >= number


def measure(
    places: Places,
    expected: Tensor,
    scale: Tensor,
    s: CutSimulation,
    generator: torch.Generator,
) -> CutsBatch:
    """Measure scale times what is expected: photons, an uneven systematic error, missing ranges.

    Args:
        places: of the points.
        expected: (n, Q) scattering and background, of unit scale.
        scale: (n,) in the frame's units.
        s: of counts and floor.
        generator: of every random number.
    """
    n = len(expected)
    brightest = expected[:, :IN_PLANE].amax(1, keepdim=True).clamp_min(1e-30)
    exposure = log_uniform(s.counts, n, generator)[:, None] / brightest
    ratio = log_uniform(s.ratio, n, generator)[:, None]
    exposure = torch.cat([exposure.expand(-1, IN_PLANE), (exposure * ratio).expand(-1, OUT_OF_PLANE)], 1)
    counts = torch.poisson(expected * exposure, generator=generator)
    systematic = uneven_sigma(log_uniform(s.floor, n, generator)[:, None] * expected, generator)
    noise = torch.randn(expected.shape, generator=generator, device=expected.device)
    value = counts / exposure + systematic * noise
    # a detector's file tells the counts, and a cut's error is theirs
    sigma = torch.hypot(counts.clamp_min(1.0).sqrt() / exposure, systematic)
    missing = [
        random_missing_ranges(part.float(), generator)
        for part in places.points.split([IN_PLANE, OUT_OF_PLANE], 1)
    ]
    mask = places.padding | torch.cat(missing, 1)
    value = torch.where(mask, 0.0, scale[:, None] * value)
    return CutsBatch(places.points, value, scale[:, None] * sigma, mask, places.beam)


def features(batch: CutsBatch) -> Mapping[str, Tensor]:
    """Properties of the pairs that a card's ranges bound."""
    degree = 180 / math.pi
    return {
        "wavelength_angstrom": 2 * math.pi / batch.beam[:, 0],
        "incidence_degree": batch.beam[:, 1] * degree,
        "exit_band_from_degree": batch.beam[:, 2] * degree,
        "exit_band_degree": (batch.beam[:, 3] - batch.beam[:, 2]) * degree,
        "q_y_band_from_inv_angstrom": batch.beam[:, 4],
        "q_y_last_inv_angstrom": batch.points[:, IN_PLANE - 1],
        "exit_last_degree": batch.points[:, -1] * degree,
        "points": (~batch.mask).sum(1).to(batch.points),
    }


def feature_ranges(s: CutSimulation) -> Mapping[str, tuple[float, float]]:
    """Feature -> range that the simulated pairs cover."""
    return {
        "wavelength_angstrom": s.wavelength,
        "incidence_degree": s.incidence,
        "exit_band_from_degree": s.exit_low,
        "exit_band_degree": (0.5 * s.exit_width[0], 1.2 * s.exit_width[1]),
        "q_y_band_from_inv_angstrom": s.q_y_low,
        "q_y_last_inv_angstrom": (0.9 * s.q_y_last[0], 1.1 * s.q_y_last[1]),
        "exit_last_degree": (0.9 * s.exit_last[0], 1.1 * s.exit_last[1]),
        "points": (2.0 * MIN_POINTS, float(IN_PLANE + OUT_OF_PLANE)),
    }
