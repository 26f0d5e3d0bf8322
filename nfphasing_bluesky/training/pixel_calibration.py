"""Calibration of images: of the error bars of pixels, and of the image as a whole."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from nfphasing_bluesky.training.calibration import LEVELS, FloatArray, coverage, ks_distance, ranks, tarp

BLOCKS = 8
"""An image is averaged to so many a side before TARP: in thousands of dimensions all distances agree."""

PIXELS = 256
"""Pixels of each frame that are looked at, evenly spread."""


class PixelCalibration:
    """What was measured of n images: ranks of true pixels, block means, errors of the mean."""

    def __init__(self) -> None:
        self._ranks: list[FloatArray] = []
        self._truth: list[FloatArray] = []
        self._draws: list[FloatArray] = []
        self._errors: list[float] = []
        self._pull: list[float] = []
        self._ordered: list[float] = []
        self._orderly: list[float] = []

    def add(self, truth: FloatArray, draws: FloatArray, seen: NDArray[np.bool_]) -> None:
        """Take in one frame: the true image (H, W), draws (S, H, W), and the pixels that count (H, W)."""
        places = np.flatnonzero(seen)
        some = places[np.linspace(0, places.size - 1, min(PIXELS, places.size)).astype(int)]
        flat = draws.reshape(len(draws), -1)
        self._ranks.append(ranks(truth.ravel()[some], flat[:, some].T))
        truth, draws = np.where(seen, truth, 0.0), np.where(seen, draws, 0.0)
        self._truth.append(_blocks(truth[None])[0])
        self._draws.append(_blocks(draws))
        mean, spread = draws.mean(0), draws.std(0, ddof=1)
        self._errors.append(float(np.linalg.norm(mean - truth) / np.linalg.norm(truth)))
        self._ordered.append(_rank_correlation(truth, draws, seen))
        self._orderly.append(_rank_correlation(draws[0], draws[1:], seen))
        pull = ((mean - truth) / np.maximum(spread, 1e-12))[seen]
        self._pull.append(float(np.sqrt(np.mean(pull**2))))

    def __len__(self) -> int:
        return len(self._ranks)

    def figures(self) -> dict[str, Any]:
        """Coverage and Kolmogorov-Smirnov distance over pixels, TARP over block means, errors of the mean.

        `error_rank_median` is Spearman's correlation of errors and standard deviations over the pixels of a
        frame, `error_rank_of_draws` the same where a draw is taken for the truth: what a posterior with these
        error bars comes to when they are right. Where all pixels are known alike both are near 0.
        """
        rank = np.concatenate(self._ranks)
        truth, draws = np.stack(self._truth), np.stack(self._draws)
        # each frame in units of its own posterior, so that strong objects don't decide alone
        centre, width = draws.mean(1), draws.std(1, ddof=1) + 1e-12
        _, expected = tarp((truth - centre) / width, (draws - centre[:, None]) / width[:, None])
        return {
            "coverage_68": coverage(rank, 0.6827),
            "coverage_95": coverage(rank, 0.95),
            "rank_ks": ks_distance(rank),
            "tarp_deviation": float(np.max(np.abs(expected - LEVELS))),
            "nrmse_median": float(np.median(self._errors)),
            "pull_rms_median": float(np.median(self._pull)),
            "error_rank_median": float(np.median(self._ordered)),
            "error_rank_of_draws": float(np.median(self._orderly)),
        }


def _rank_correlation(truth: FloatArray, draws: FloatArray, seen: NDArray[np.bool_]) -> float:
    """Spearman's, of |mean - truth| (H, W) and the standard deviation of draws (S, H, W) where seen.

    0 where all pixels have the same.
    """
    error, spread = np.abs(draws.mean(0) - truth)[seen], draws.std(0, ddof=1)[seen]
    if np.ptp(error) == 0 or np.ptp(spread) == 0:
        return 0.0
    return float(spearmanr(error, spread).statistic)


def _blocks(images: FloatArray) -> FloatArray:
    """(n, B) means over `BLOCKS` x `BLOCKS` blocks of images (n, H, W); pixels left over are not used."""
    n, h, w = images.shape
    rows, columns = h // BLOCKS, w // BLOCKS
    cut = images[:, : BLOCKS * rows, : BLOCKS * columns]
    return cut.reshape(n, BLOCKS, rows, BLOCKS, columns).mean((2, 4)).reshape(n, -1)
