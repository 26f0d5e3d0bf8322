"""Polished draws of sphere curves against bumps DREAM over sasmodels: the same centre and spread."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin, ReconstructionSettings
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities import Draws
from tests.oracles.dream import NAMES, dream_sphere

DRAWS = 600
THINNING = 10
SPHERES = ((35.0, 0.12), (60.0, 0.06), (90.0, 0.2), (140.0, 0.1), (45.0, 0.28))


@pytest.fixture(scope="module")
def reconstructor() -> Reconstructor:
    settings = ReconstructionSettings(n_samples=DRAWS, polish_steps=20, sigma_floor=0.0)
    return Reconstructor.load("saxs1d-particles", "cpu", settings)


def sphere_frame(reconstructor: Reconstructor, index: int) -> Frame:
    """Reduced curve of spheres: Poisson noise and a systematic floor of 1 to 5 %."""
    radius, spread = SPHERES[index]
    modality = reconstructor.modality
    theta = torch.zeros(1, modality.width)
    theta[0, 0], theta[0, 1] = np.log(radius), spread
    draws = Draws(torch.zeros(1, dtype=torch.long), theta, torch.zeros(1, dtype=torch.long))
    generator = torch.Generator().manual_seed(100 + index)
    while True:  # some simulated curves are hardly exposed and say nothing
        batch, _ = modality.simulate(draws, generator)
        if float(modality.features(batch)["best_relative_sigma"]) < 0.06:
            break
    usable = ~batch.mask[0].numpy()
    intensity, q, sigma = (v[0].double().numpy()[usable] for v in (batch.intensity, batch.q, batch.sigma))
    return Frame(intensity, CurveGeometry(q), sigma, origin=Origin(seq_num=index + 1))


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(SPHERES)))
def test_polished_draws_are_those_of_dream(index, reconstructor, oracle):
    oracle("bumps")
    oracle("sasmodels")
    frame = sphere_frame(reconstructor, index)
    (posterior,) = reconstructor([frame])
    spheres = np.isfinite(posterior.parameters["radius_angstrom"])
    for other in ("length_angstrom", "shell_thickness_angstrom", "polar_radius_angstrom"):
        spheres &= ~np.isfinite(posterior.parameters[other])
    assert spheres.sum() > 100
    ours = np.stack([posterior.parameters[n][spheres] for n in NAMES], axis=1)
    many = THINNING * DRAWS  # a chain's draws are correlated
    dream = dream_sphere(frame.geometry.q_inv_angstrom, frame.intensity, frame.sigma, many, seed=index)
    theirs = np.stack([dream.draws[n] for n in NAMES], axis=1)
    for values in (ours, theirs):
        values[:, 3] = np.log(values[:, 3])
    spread = theirs.std(0)
    assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) < 0.35 * spread), (ours.mean(0), theirs.mean(0))
    assert np.all(np.abs(np.log(ours.std(0) / spread)) < 0.25), (ours.std(0), spread)
