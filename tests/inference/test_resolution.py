"""A resolution that the model has not got in it is never a VALID posterior with wrong sizes."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame, Prediction, Verdict
from nfphasing_bluesky.modalities.resolution import left_out
from nfphasing_bluesky.physics import saxs

RADIUS = 100.0


def spheres(relative_dq: float, relative_sigma: float = 0.02) -> Frame:
    """Spheres of 100 angstrom with a spread of 5 %, as an instrument of that resolution sees them."""
    q = torch.linspace(0.005, 0.25, 200, dtype=torch.float64)
    sizes = torch.tensor([RADIUS], dtype=torch.float64), torch.tensor([0.05], dtype=torch.float64)
    seen = saxs.smear(lambda at: saxs.sphere(at[0], *sizes), q, relative_dq * q)[0].numpy()
    expected = 100 * seen + 0.1
    sigma = relative_sigma * expected
    noise = np.random.default_rng(0).normal(size=q.numel())
    return Frame(expected + sigma * noise, CurveGeometry(q.numpy(), relative_dq * q.numpy()), sigma)


@pytest.mark.parametrize("relative_dq", [0.05, 0.1])
def test_a_resolution_that_moves_the_radius_is_named(particles, relative_dq):
    (posterior,) = particles([spheres(relative_dq)], n_samples=64)
    radius = posterior.summary()["radius_angstrom"]
    assert radius.q975 < RADIUS, "else there would be nothing to warn of"
    assert posterior.trust.verdict is not Verdict.VALID
    assert f"resolution (dq/q {relative_dq:.2g})" in posterior.trust.reason


def test_a_fine_resolution_is_as_good_as_none(particles):
    (posterior,) = particles([spheres(1e-3)], n_samples=64)
    assert posterior.trust.verdict is Verdict.VALID, posterior.trust.reason


def test_it_is_the_misfit_in_sigma_that_counts():
    precise, coarse = spheres(0.02, 0.01), spheres(0.02, 1.0)
    predicted = Prediction(*[spheres(0.0, 1e-9).intensity] * 3)
    assert "sigma" in left_out(precise, predicted, 0.01)
    assert left_out(coarse, predicted, 0.01) == ""


def test_without_a_resolution_there_is_nothing_to_say():
    frame = spheres(0.0)
    assert left_out(frame, Prediction(*[frame.intensity] * 3), 0.01) == ""
