"""Calibration figures on posteriors whose calibration is known, and against scoringrules' formula."""

import numpy as np
import pytest

from nfphasing_bluesky.training.calibration import (
    coverage,
    crps,
    information,
    ks_distance,
    ranks,
    spread_out,
    tarp,
)


@pytest.fixture(scope="module")
def conjugate():
    """Prior N(0,1), one datum of unit noise: the posterior is N(y/2, 1/2)."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3000, 2))
    data = truth + rng.normal(size=truth.shape)

    def draws(width: float, shift: float = 0.0):
        return data[:, None] / 2 + shift + width * np.sqrt(0.5) * rng.normal(size=(3000, 200, 2))

    return truth, draws


def test_exact_posterior_passes(conjugate):
    truth, draws = conjugate
    x = draws(1.0)
    rank = ranks(truth[:, 0], x[..., 0])
    assert ks_distance(rank) < 0.03
    assert coverage(rank, 0.6827) == pytest.approx(0.6827, abs=0.02)
    assert coverage(rank, 0.95) == pytest.approx(0.95, abs=0.01)
    levels, expected = tarp(truth, x)
    assert np.max(np.abs(expected - levels)) < 0.03


def test_overconfidence_shows(conjugate):
    truth, draws = conjugate
    x = draws(0.5)
    rank = ranks(truth[:, 0], x[..., 0])
    assert coverage(rank, 0.95) < 0.75
    levels, expected = tarp(truth, x)
    assert np.max(np.abs(expected - levels)) > 0.1


def test_bias_shows(conjugate):
    truth, draws = conjugate
    assert ks_distance(ranks(truth[:, 0], draws(1.0, shift=0.4)[..., 0])) > 0.15


def test_draws_of_other_classes_are_left_out():
    draws = np.array([[0.1, np.nan, 0.3, np.nan], [np.nan] * 4])
    rank = ranks(np.array([0.2, 0.2]), draws)
    assert rank[0] == pytest.approx(0.5)
    assert np.isnan(rank[1])


def test_draws_that_are_spread_out_are_few_copies():
    draws = np.arange(12.0).repeat(4)[:, None]  # as resampling leaves them
    assert spread_out(draws, 12)[:, 0].tolist() == list(range(12))
    assert spread_out(draws, 48).tolist() == draws.tolist()
    assert len(np.unique(draws[:12])) == 3


def test_crps_of_a_normal_is_the_closed_form():
    # Gneiting and Raftery 2007: CRPS of N(0,1) at 0 is (sqrt(2) - 1) / sqrt(pi)
    draws = np.random.default_rng(1).normal(size=(40, 20_000))
    assert crps(np.zeros(40), draws) == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi), rel=0.01)


def test_crps_leaves_out_draws_of_other_classes():
    draws = np.random.default_rng(2).normal(size=(3, 500))
    mixed = np.full((4, 900), np.nan)
    mixed[:3, 100:600] = draws
    truth = np.array([0.3, -1.0, 2.0, 0.0])
    assert crps(truth, mixed) == pytest.approx(crps(truth[:3], draws), rel=1e-9)


@pytest.mark.parametrize("width", [1.0, 0.1, 1e-3])
def test_information_is_that_of_the_widths(width):
    rng = np.random.default_rng(0)
    found = [information(0.3 * (1 - width) + width * rng.random(500), rng.random(200)) for _ in range(20)]
    assert np.mean(found) == pytest.approx(-np.log(width), abs=0.25)


def test_information_of_a_parameter_without_draws_is_not_known():
    assert np.isnan(information(np.full(100, np.nan), np.arange(100.0)))
