"""Latencies in bounded memory say what numpy says of all of them."""

import math

import numpy as np
import pytest

from nfphasing_bluesky.documents.latencies import EXACT, Latencies

WHICH = (0, 1, 50, 90, 99, 100)


@pytest.mark.parametrize("count", [1, 2, 7, EXACT])
def test_few_are_exact(count):
    values = np.random.default_rng(count).lognormal(-4, 1, count)
    np.testing.assert_allclose(Latencies(values).percentiles(WHICH), np.percentile(values, WHICH), rtol=1e-12)


@pytest.mark.parametrize("spread", [0.01, 0.5, 2.0])
def test_many_are_right_to_half_a_thousandth_and_take_little_room(spread):
    values = np.random.default_rng(1).lognormal(-4, spread, 200_000)
    kept = Latencies(values)
    np.testing.assert_allclose(kept.percentiles(WHICH), np.percentile(values, WHICH), rtol=6e-4)
    assert len(kept) == 200_000 and kept._exact == [] and len(kept._bins) < 12 * spread * 1000


def test_none_at_all_and_none_that_took_time():
    assert all(map(math.isnan, Latencies().percentiles(WHICH))) and len(Latencies()) == 0
    assert max(Latencies([0.0] * (EXACT + 1)).percentiles(WHICH)) < 1e-6
