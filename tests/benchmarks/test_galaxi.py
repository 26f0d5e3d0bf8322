"""Counting the simulations of a fit, on patterns that nobody has to simulate."""

import numpy as np
import pytest

from tests.benchmarks.galaxi import EXAMPLE, LIMITS, Region, descend, residual

SIDE = 24


def pattern(*place: float) -> np.ndarray:
    """A ring whose radius, width and slope follow the first three parameters."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    distance = np.hypot(rows, columns)
    return np.exp(-(((distance - place[0] / 10) / (0.3 * place[1])) ** 2)) + 0.01 * np.exp(
        -place[2] * rows / 20
    )


@pytest.fixture(scope="module")
def region() -> Region:
    truth = (5.5, 0.4, 40.0)
    return Region(300 * pattern(*truth) + 4, np.ones((SIDE, SIDE), bool))


def test_scale_and_background_are_solved_for(region):
    assert np.abs(residual(region, pattern(5.5, 0.4, 40.0))).max() < 1e-6


def test_a_nearer_start_takes_fewer_simulations(region):
    near = (5.4, 0.42, 38.0, *EXAMPLE[3:])
    fits = [descend(pattern, region, start) for start in (near, EXAMPLE)]
    least = min(min(fit.misfits) for fit in fits) + 1e-4
    for fit in fits:
        assert fit.best[:2] == pytest.approx((5.5, 0.4), rel=0.05)
        assert all(low <= v <= high for v, low, high in zip(fit.best, *LIMITS, strict=True))
    assert fits[0].simulations(least) < fits[1].simulations(least) <= len(fits[1].misfits)
    assert fits[0].simulations(0.0) == len(fits[0].misfits) + 1


def test_gaps_and_the_stop_are_not_used():
    frame = np.full((1043, 981), 7)
    frame[500:520] = -1
    region = Region.of(frame)
    assert region.mean.shape == region.used.shape == (32, 50)
    np.testing.assert_allclose(region.mean[region.used], 7)
