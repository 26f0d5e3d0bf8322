"""The DREAM reference itself: its curve against ours, and its posterior against the truth."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics import saxs
from tests.benchmarks import subjects
from tests.oracles.dream import SPHERE, SphereCurve, dream_sphere, starting_point


@pytest.mark.parametrize(("radius", "spread"), [(10.0, 0.01), (80.0, 0.1), (300.0, 0.03), (400.0, 0.35)])
def test_its_curve_is_ours(oracle, radius, spread):
    oracle("sasmodels")
    q = np.geomspace(0.006, 0.35, 60)
    ours = saxs.sphere(torch.tensor(q), *(torch.tensor([v], dtype=torch.float64) for v in (radius, spread)))
    np.testing.assert_allclose(SphereCurve(q)(radius, spread), ours[0].numpy(), rtol=1e-4)


@pytest.mark.parametrize(("radius", "spread"), [(45.0, 0.28), (140.0, 0.1), (20.0, 0.3)])
def test_it_sums_over_sizes_enough(oracle, monkeypatch, radius, spread):
    oracle("sasmodels")
    curve = SphereCurve(np.geomspace(0.004, 0.35, 60))
    summed = curve(radius, spread)
    monkeypatch.setattr("tests.oracles.dream.MIN_SIZES", 2000)
    np.testing.assert_allclose(summed, curve(radius, spread), rtol=2e-6)


def test_its_posterior_holds_the_truth(oracle):
    oracle("sasmodels")
    oracle("bumps")
    frame = subjects.sphere(seed=1)
    q = frame.geometry.q_inv_angstrom
    start = starting_point(SphereCurve(q), frame.intensity, frame.sigma)
    assert np.exp(start["log_radius"]) == pytest.approx(subjects.RADIUS_ANGSTROM, rel=0.05)
    done = dream_sphere(q, frame.intensity, frame.sigma, 300, seed=0)
    truth = {
        "radius_angstrom": subjects.RADIUS_ANGSTROM,
        "polydispersity": subjects.POLYDISPERSITY,
        "i0": subjects.SCALE,
        "background": subjects.BACKGROUND,
    }
    assert done.draws.keys() == truth.keys() and done.seconds > 0 and done.evaluations > 4000
    for name, value in truth.items():
        draws = done.draws[name]
        assert draws.shape == (300,) and 0 < draws.std() < 0.05 * value
        assert abs(draws.mean() - value) < 4 * draws.std(), name
    log_radius = np.log(done.draws["radius_angstrom"])
    assert (log_radius >= SPHERE.lower[0]).all() and (log_radius <= SPHERE.upper[0]).all()
