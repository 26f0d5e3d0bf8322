"""Glucose isomerase, measured at CHESS G1, against GNOM's answer for the same curve."""

import numpy as np
import pytest

from nfphasing_bluesky.core import Verdict

GNOM_RG_ANGSTROM = 33.36


@pytest.fixture(scope="module")
def posterior(pair_distance, glucose_isomerase):
    return pair_distance([glucose_isomerase])[0]


@pytest.fixture(scope="module")
def polished(polished_pair_distance, glucose_isomerase):
    return polished_pair_distance([glucose_isomerase])[0]


def test_radius_of_gyration(posterior):
    rg = posterior.summary()["rg_angstrom"]
    assert rg.median == pytest.approx(GNOM_RG_ANGSTROM, rel=0.015)
    assert rg.q025 < GNOM_RG_ANGSTROM < rg.q975


def test_largest_distance(posterior):
    d_max = posterior.summary()["d_max_angstrom"]
    assert d_max.q025 < 107
    assert d_max.q975 > 95


def test_pair_distance_distribution(posterior, gnom):
    r, p = gnom
    ours = np.interp(r, posterior.density.axes[0].values, posterior.mean)
    assert np.linalg.norm(ours - p) / np.linalg.norm(p) < 0.10


def test_the_mean_curve_explains_every_point(posterior, glucose_isomerase):
    residual = (glucose_isomerase.intensity - posterior.prediction.mean) / glucose_isomerase.sigma
    assert residual.size == 474
    assert float(np.mean(residual**2)) < 1.35


def test_it_is_trusted(posterior):
    assert posterior.trust.verdict is Verdict.VALID, posterior.trust.reason


def test_polish_agrees_with_draws_resampled_by_their_weights(posterior, polished, gnom):
    before, after = (p.summary()["rg_angstrom"] for p in (posterior, polished))
    assert after.median == pytest.approx(GNOM_RG_ANGSTROM, rel=0.015)
    assert before.q025 < after.median < before.q975
    assert after.std == pytest.approx(before.std, rel=0.2)
    r, p = gnom
    ours = np.interp(r, polished.density.axes[0].values, polished.mean)
    assert np.linalg.norm(ours - p) / np.linalg.norm(p) < 0.05
    assert polished.trust.verdict is Verdict.VALID
