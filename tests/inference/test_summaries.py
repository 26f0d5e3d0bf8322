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
    np.testing.assert_array_equal(lower, np.quantile(known, 0.025, 1, method="lower"))
    np.testing.assert_array_equal(upper, np.quantile(known, 0.975, 1, method="higher"))
