"""Calibration of images whose posterior is known: smooth objects, noisy pixels, a Gaussian posterior."""

import numpy as np
import pytest

from nfphasing_bluesky.training.pixel_calibration import PixelCalibration

SIDE, FRAMES, DRAWS = 16, 200, 100


@pytest.fixture(scope="module")
def figures():
    """Of the exact posterior and of one that is half as wide, or shifted."""
    place = np.arange(SIDE**2)
    y, x = np.divmod(place, SIDE)
    distance = np.hypot(y[:, None] - y, x[:, None] - x)
    prior = np.exp(-(distance**2) / 18) + 0.05 * np.eye(SIDE**2)
    gain = prior @ np.linalg.inv(prior + 0.3 * np.eye(SIDE**2))
    posterior = np.linalg.cholesky(prior - gain @ prior + 1e-9 * np.eye(SIDE**2))
    root = np.linalg.cholesky(prior)

    def measure(width: float, shift: float, spoilt: slice = slice(0)) -> dict[str, float]:
        rng = np.random.default_rng(0)
        found = PixelCalibration()
        seen = np.ones((SIDE, SIDE), dtype=bool)
        seen[spoilt] = False
        for _ in range(FRAMES):
            truth = root @ rng.normal(size=SIDE**2)
            mean = gain @ (truth + np.sqrt(0.3) * rng.normal(size=SIDE**2))
            draws = mean + shift + width * rng.normal(size=(DRAWS, SIDE**2)) @ posterior.T
            images = draws.reshape(-1, SIDE, SIDE)
            images[:, spoilt] += 100.0
            found.add(truth.reshape(SIDE, SIDE), images, seen)
        return found.figures()

    return measure


def test_the_exact_posterior_passes(figures):
    found = figures(1.0, 0.0)
    assert found["coverage_68"] == pytest.approx(0.6827, abs=0.02)
    assert found["coverage_95"] == pytest.approx(0.95, abs=0.015)
    assert found["rank_ks"] < 0.02
    assert found["tarp_deviation"] < 0.1
    assert found["pull_rms_median"] == pytest.approx(1.0, abs=0.05)
    assert 0.2 < found["nrmse_median"] < 0.45


def test_overconfidence_and_bias_show(figures):
    narrow, shifted = figures(0.5, 0.0), figures(1.0, 0.5)
    assert narrow["coverage_95"] < 0.75
    assert narrow["tarp_deviation"] > 0.2
    assert narrow["pull_rms_median"] > 1.8
    assert shifted["rank_ks"] > 0.2


def test_pixels_that_were_not_seen_do_not_count(figures):
    found = figures(1.0, 0.0, slice(0, 5))
    assert found["coverage_95"] == pytest.approx(0.95, abs=0.015)
    assert found["tarp_deviation"] < 0.1
    assert found["pull_rms_median"] == pytest.approx(1.0, abs=0.05)
    assert found["nrmse_median"] < 0.45


@pytest.mark.parametrize(("right", "least", "most"), [(True, 0.42, 0.49), (False, -0.05, 0.05)])
def test_errors_are_large_where_the_error_bars_are_if_these_are_right(right, least, most):
    rng, found = np.random.default_rng(3), PixelCalibration()
    seen = np.ones((SIDE, SIDE), dtype=bool)
    seen[:3] = False
    for _ in range(FRAMES):
        width = np.exp(0.5 * rng.normal(size=(SIDE, SIDE)))
        truth = (width if right else rng.permutation(width)) * rng.normal(size=(SIDE, SIDE))
        truth[~seen] = 1e3
        found.add(truth, width * rng.normal(size=(DRAWS, SIDE, SIDE)), seen)
    figures = found.figures()
    # log-normal widths of 0.5 and errors that are normal in units of them, by 10^6 draws of both: 0.455
    assert least < figures["error_rank_median"] < most
    assert figures["error_rank_of_draws"] == pytest.approx(0.455, abs=0.03)
