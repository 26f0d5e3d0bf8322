"""Measured data beside the checkout, the shipped models, and reference answers that others computed."""

import numpy as np
import pytest

from nfphasing_bluesky.core import Frame, ReconstructionSettings
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.storage.readers import read_frames


@pytest.fixture(scope="session")
def pair_distance() -> Reconstructor:
    return Reconstructor.load("saxs1d-pr", "cpu", ReconstructionSettings(n_samples=1024))


@pytest.fixture(scope="session")
def polished_pair_distance() -> Reconstructor:
    return Reconstructor.load("saxs1d-pr", "cpu", ReconstructionSettings(n_samples=384, polish_steps=15))


@pytest.fixture(scope="session")
def particles() -> Reconstructor:
    return Reconstructor.load("saxs1d-particles", "cpu", ReconstructionSettings(n_samples=1024))


@pytest.fixture(scope="session")
def polished_particles() -> Reconstructor:
    return Reconstructor.load(
        "saxs1d-particles", "cpu", ReconstructionSettings(n_samples=256, polish_steps=30)
    )


@pytest.fixture(scope="session")
def glucose_isomerase(shared_data) -> Frame:
    return read_frames(shared_data / "saxs1d/glucose_isomerase_chess_g1/glucose_isomerase.dat")[0]


@pytest.fixture(scope="session")
def gnom(shared_data) -> tuple[np.ndarray, np.ndarray]:
    """GNOM's r and p(r) of unit area."""
    text = (shared_data / "saxs1d/glucose_isomerase_chess_g1/glucose_isomerase.out").read_text()
    lines = text[text.index("P(R)") :].splitlines()[1:]
    table = np.array([[float(v) for v in line.split()] for line in lines if len(line.split()) == 3])
    r, p = table[:, 0], table[:, 1]
    return r, p / np.trapezoid(p, r)
