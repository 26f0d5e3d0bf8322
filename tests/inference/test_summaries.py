"""Mean, standard deviation and bands of draws, also of frames too large for a copy of all of them."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.inference import summaries


@pytest.mark.parametrize("at_once", [summaries.VALUES_AT_ONCE, 100, 1])
@pytest.mark.parametrize("shape", [(2, 9, 7), (1, 41, 6, 5), (3, 2, 2, 4, 3)])
def test_they_are_those_of_numpy(at_once, shape, monkeypatch):
    monkeypatch.setattr(summaries, "VALUES_AT_ONCE", at_once)
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3
    mean, std = summaries.mean_and_std(draws)
    middle, lower, upper = summaries.bands(draws)
    known = draws.numpy()
    np.testing.assert_allclose(mean, known.mean(1), rtol=1e-6)
    np.testing.assert_allclose(std, known.std(1, ddof=1), rtol=1e-5)
    np.testing.assert_array_equal(middle, mean)
    np.testing.assert_array_equal(lower, known.min(1))  # of so few draws
    np.testing.assert_array_equal(upper, known.max(1))


@pytest.mark.parametrize(("count", "low", "high"), [(128, 2, 125), (39, 0, 38), (16, 0, 15), (2, 0, 1)])
def test_band_is_between_the_draws_that_hold_95_percent(count, low, high):
    # (high - low) / (count + 1) of truths lie between: never fewer than 95 % where there are as many draws
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).double()
    mean, lower, upper = summaries.bands(torch.stack([order, -order], 1)[None])
    assert mean[0].tolist() == pytest.approx([(count - 1) / 2, -(count - 1) / 2])
    assert (float(lower[0, 0]), float(upper[0, 0])) == (low, high)
    assert (float(lower[0, 1]), float(upper[0, 1])) == (-high, -low)
    assert count < 39 or (high - low) / (count + 1) >= 0.95


def test_band_of_many_draws_looks_at_the_first():
    drawn = torch.arange(1000.0)[None, :, None]
    _, lower, upper = summaries.bands(drawn)
    assert float(upper) < summaries.BANDED and float(lower) == 2.0
