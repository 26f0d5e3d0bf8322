"""A film's posterior against bumps DREAM over refnx: no classifier can tell them apart.

The network is not trained: its draws begin at the fit, and polish makes them exact. So this holds for the
likelihood, the prior, the bounds and the fit, whatever weights come.
"""

import numpy as np
import pytest

from nfphasing_bluesky.core import ReconstructionSettings
from tests.oracles.dream_film import NAMES, dream_film
from tests.oracles.film import BACKGROUND, KNOWN, TRUE, film_frame
from tests.oracles.test_posterior_against_dream import c2st, independent
from tests.untrained_layers import untrained_layers

DRAWS, STEPS, THINNING, C2ST = 600, 60, 40, 0.6


@pytest.mark.slow
def test_polished_draws_are_those_of_dream(oracle):
    oracle("bumps")
    oracle("refnx.reflect")
    frame = film_frame()
    settings = ReconstructionSettings(n_samples=DRAWS, polish_steps=STEPS, sigma_floor=0.0)
    (posterior,) = untrained_layers(settings)([frame])
    assert posterior.trust.reduced_chi2 < 1.3
    assert posterior.classes["1 layer"] == 1.0
    for name, value in TRUE.items():
        low, high = np.quantile(posterior.parameters[name], [0.0005, 0.9995])
        if "footprint" not in name:  # which the curve begins beyond
            assert low < value < high, name
    start = TRUE | {"scale": 1.0, "beta": BACKGROUND}
    q, bounds = frame.geometry.q_inv_angstrom, {n: b for n, b in KNOWN.items() if n != "layers"}
    dream = dream_film(q, frame.intensity, frame.sigma, bounds, start, THINNING * DRAWS, seed=0)
    theirs = independent(np.stack([dream[n] for n in NAMES], axis=1), DRAWS, seed=0)
    ours = np.stack([posterior.parameters[n] for n in NAMES], axis=1)
    assert c2st(ours, theirs) <= C2ST
