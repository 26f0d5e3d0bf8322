"""The resolution of an instrument is in the model of particles; where a model lacks it the verdict says."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame, Prediction, Summary, Verdict
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


@pytest.mark.parametrize("relative_dq", [1e-3, 0.02, 0.05, 0.1])
def test_spheres_have_their_radius_at_any_resolution(particles, relative_dq):
    (posterior,) = particles([spheres(relative_dq)])
    assert max(posterior.classes, key=posterior.classes.get) == "sphere"
    spheres_alone = posterior.labels == 0  # the radius of a core-shell sphere is that of its core
    radius = Summary.of(posterior.parameters["radius_angstrom"][spheres_alone], "angstrom")
    spread = posterior.summary()["polydispersity"]
    assert radius.q025 < RADIUS < radius.q975 and radius.std < 0.3
    assert spread.q025 < 0.05 < spread.q975
    assert posterior.trust.verdict is Verdict.VALID, posterior.trust.reason
    assert posterior.trust.ess_fraction > 0.5


def test_curves_with_and_without_a_resolution_share_a_batch(particles):
    modality = particles.modality
    bare = spheres(0.0)
    bare = Frame(bare.intensity, CurveGeometry(bare.geometry.q_inv_angstrom), bare.sigma)
    short = spheres(0.1)
    short = Frame(short.intensity[:150], CurveGeometry(*cut(short, 150)), short.sigma[:150])
    frames = [spheres(0.05), bare, short]
    generator = torch.Generator().manual_seed(0)
    drawn = modality.sample_prior(12, generator)
    for b, frame in enumerate(frames):
        draws = type(drawn)(drawn.label, drawn.theta, torch.full((12,), b))
        alone = type(drawn)(drawn.label, drawn.theta, torch.zeros(12, dtype=torch.long))
        together = modality.log_likelihood(draws, modality.collate(frames, 0.01))
        torch.testing.assert_close(
            together, modality.log_likelihood(alone, modality.collate([frame], 0.01)), rtol=1e-4, atol=0.1
        )


def cut(frame: Frame, points: int) -> tuple[np.ndarray, np.ndarray]:
    return frame.geometry.q_inv_angstrom[:points], frame.geometry.dq_inv_angstrom[:points]


def test_a_model_without_a_resolution_says_so(pair_distance):
    (posterior,) = pair_distance([spheres(0.1)], n_samples=64)
    assert posterior.trust.verdict is not Verdict.VALID
    assert "resolution (dq/q 0.1)" in posterior.trust.reason


def test_it_is_the_misfit_in_sigma_that_counts():
    precise, coarse = spheres(0.02, 0.01), spheres(0.02, 1.0)
    predicted = Prediction(*[spheres(0.0, 1e-9).intensity] * 3)
    assert "sigma" in left_out(precise, predicted, 0.01)
    assert left_out(coarse, predicted, 0.01) == ""


def test_without_a_resolution_there_is_nothing_to_say():
    frame = spheres(0.0)
    assert left_out(frame, Prediction(*[frame.intensity] * 3), 0.01) == ""
