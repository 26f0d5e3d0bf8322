"""The shipped models, loaded once, and simulated frames for them."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin
from nfphasing_bluesky.inference import Reconstructor


@pytest.fixture(scope="session")
def particles() -> Reconstructor:
    return Reconstructor.load("saxs1d-particles", "cpu")


@pytest.fixture(scope="session")
def pair_distance() -> Reconstructor:
    return Reconstructor.load("saxs1d-pr", "cpu")


@pytest.fixture(scope="session")
def make_frames():
    """`make_frames(reconstructor, n, seed)`: frames of the model's own prior."""

    def make(reconstructor: Reconstructor, n: int, seed: int = 0) -> list[Frame]:
        generator = torch.Generator().manual_seed(seed)
        draws = reconstructor.modality.sample_prior(n, generator)
        batch, _ = reconstructor.modality.simulate(draws, generator)
        return [
            Frame(
                batch.intensity[i].double().numpy(),
                CurveGeometry(batch.q[i].double().numpy()),
                batch.sigma[i].double().numpy(),
                batch.mask[i].numpy(),
                Origin(label=f"curve {i}", seq_num=i + 1),
            )
            for i in range(n)
        ]

    return make


@pytest.fixture
def guinier_frame():
    """`guinier_frame(**changes)`: a plain curve of a globule, with any field changed."""

    def make(label: str = "curve", rg: float = 30.0, points: int = 120, **changes) -> Frame:
        q = changes.pop("q", np.linspace(0.01, 0.3, points))
        intensity = 5 * np.exp(-((q * rg) ** 2) / 3) + 1e-3
        sigma = 0.03 * intensity + 1e-3
        values = {"intensity": intensity, "sigma": sigma, "geometry": CurveGeometry(q)} | changes
        return Frame(**values, origin=Origin(label=label, seq_num=1))

    return make
