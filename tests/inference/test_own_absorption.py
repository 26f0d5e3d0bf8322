"""Holograms of objects that absorb on their own, by the shipped model that does not tie it to the phase."""

import numpy as np
import pytest

from nfphasing_bluesky.core import ReconstructionSettings
from nfphasing_bluesky.inference import Reconstructor
from tests.benchmarks import absorption

FRAMES, STRENGTH = 24, 0.1


@pytest.mark.slow
def test_intervals_of_the_phase_hold_where_there_is_an_absorption_of_its_own():
    u = absorption.objects(FRAMES, STRENGTH, 102)
    reconstructor = Reconstructor.load("holography-free", settings=ReconstructionSettings(n_samples=50))
    found = reconstructor(absorption.frames_of(u, 202))
    held = np.array([absorption.held(p, t) for p, t in zip(found, u.double().numpy(), strict=True)])
    phase, mu = held.mean(0)
    # 62 % of the phases with the model that ties both
    assert 0.88 < phase < 0.99
    assert mu > 0.8
