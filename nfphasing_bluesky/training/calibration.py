"""Calibration: is a stated 95 % interval right 95 times in 100? The certificate of a model card.

SBC: Talts et al., arXiv:1804.06788. TARP: Lemos et al., arXiv:2302.03026.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.floating]
LEVELS = np.linspace(0.05, 0.95, 19)


def ranks(truth: FloatArray, draws: FloatArray) -> FloatArray:
    """(n,) rank of (n,) truths among (n, S) draws as a fraction in (0, 1), ties and ends split evenly.

    NaN draws (classes without the parameter) are left out; NaN where the truth or all draws are NaN.
    """
    below = np.sum(draws < truth[:, None], axis=1) + 0.5 * np.sum(draws == truth[:, None], axis=1)
    count = np.sum(np.isfinite(draws), axis=1)
    fraction = (below + 0.5) / (count + 1)
    return np.where(np.isfinite(truth) & (count > 0), fraction, np.nan)


def ks_distance(rank: FloatArray) -> float:
    """Kolmogorov-Smirnov distance of rank fractions from uniform."""
    rank = rank[np.isfinite(rank)]
    return float(stats.kstest(rank, "uniform").statistic) if rank.size else math.nan


def coverage(rank: FloatArray, level: float) -> float:
    """Share of truths inside the central interval of a level."""
    rank = rank[np.isfinite(rank)]
    return float(np.mean(np.abs(rank - 0.5) <= level / 2)) if rank.size else math.nan


def spread_out(draws: FloatArray, count: int) -> FloatArray:
    """`count` of N draws (N, ...), as far apart as they come: resampled ones stand beside their copies."""
    return draws[np.linspace(0, len(draws) - 1, count).round().astype(int)]


def tarp(truth: FloatArray, draws: FloatArray, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Expected coverage by TARP with random reference points.

    Args:
        truth: (n, D); it and the draws are scaled by the truths' range first.
        draws: (n, S, D).
        seed: of the reference points.

    Returns:
        Levels and expected coverage at each.
    """
    low, high = truth.min(0), truth.max(0)
    width = np.where(high > low, high - low, 1.0)
    truth, draws = (truth - low) / width, (draws - low) / width
    reference = np.random.default_rng(seed).uniform(size=truth.shape)
    distance = np.linalg.norm(truth - reference, axis=1)
    inside = np.mean(np.linalg.norm(draws - reference[:, None], axis=2) < distance[:, None], axis=1)
    return LEVELS, np.array([np.mean(inside < level) for level in LEVELS])


def crps(truth: FloatArray, draws: FloatArray) -> float:
    """Mean continuous ranked probability score of (n, S) draws, in the parameter's unit (Gneiting 2007).

    NaN draws (classes without the parameter) are left out, and frames whose truth or draws are all NaN.
    """
    count = np.isfinite(draws).sum(1)
    good = np.isfinite(truth) & (count > 0)
    if not good.any():
        return math.nan
    x, s = np.sort(draws[good], axis=1), count[good][:, None]  # NaN last
    rank = np.arange(1, x.shape[1] + 1)
    spread = np.nansum((2 * rank - s - 1) * x, axis=1) / s[:, 0] ** 2
    return float(np.mean(np.nanmean(np.abs(x - truth[good][:, None]), axis=1) - spread))


def information(draws: FloatArray, prior: FloatArray) -> float:
    """Nats that (S,) draws of a posterior know of a parameter beyond (M,) draws of its prior.

    The divergence of the marginals, by spacings of the draws' places in the prior (O. Vasicek, J. R. Stat.
    Soc. B 38, 54 (1976)); some hundredths where nothing is known. NaN draws are left out.
    """
    draws, prior = draws[np.isfinite(draws)], prior[np.isfinite(prior)]
    if draws.size < 20 or prior.size < 20:
        return math.nan
    share = np.linspace(0, 1, 21)
    place = np.sort(np.interp(draws, np.quantile(prior, share), share))
    reach = round(math.sqrt(place.size))
    first = np.clip(np.arange(place.size) - reach, 0, None)
    last = np.clip(np.arange(place.size) + reach, None, place.size - 1)
    spacing = (place[last] - place[first]).clip(1e-12) * place.size / (last - first)
    return float(-np.mean(np.log(spacing)))


@dataclass(frozen=True)
class ParameterCalibration:
    """Figures of one parameter over n simulated frames."""

    n: int
    sbc_ks: float
    coverage_68: float
    coverage_95: float
    crps: float


def calibrate(truth: FloatArray, draws: FloatArray) -> ParameterCalibration:
    """Calibration of one parameter: (n,) truths against (n, S) draws."""
    rank = ranks(truth, draws)
    return ParameterCalibration(
        int(np.isfinite(rank).sum()),
        ks_distance(rank),
        coverage(rank, 0.6827),
        coverage(rank, 0.95),
        crps(truth, draws),
    )


def hardware() -> str:
    """The machine that figures came from."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads, {_cpu_name()}"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown processor"


def pooled(calibrations: Sequence[ParameterCalibration]) -> Mapping[str, float]:
    """Worst figures and the coverage pooled over parameters, weighted by their frames."""
    n = np.array([c.n for c in calibrations], dtype=float)
    return {
        "worst_sbc_ks": max(c.sbc_ks for c in calibrations),
        "coverage_68": float(np.sum(n * [c.coverage_68 for c in calibrations]) / n.sum()),
        "coverage_95": float(np.sum(n * [c.coverage_95 for c in calibrations]) / n.sum()),
    }
