"""Large smooth parts of holograms: what is hardly shown is said, and only that."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Frame, HologramGeometry, ReconstructionSettings, Verdict
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities.imaging.smooth_parts import hardly_shown
from nfphasing_bluesky.physics.holography import hologram, homogeneous_exit_wave
from nfphasing_bluesky.physics.objects import random_objects

SIDE = 256
LONG, LEARNT = SIDE / 1, SIDE / 2


def waves(wavelength_px: float, side: int = SIDE) -> np.ndarray:
    return np.broadcast_to(np.cos(2 * np.pi * np.arange(side) / wavelength_px), (side, side))


@pytest.mark.parametrize(
    ("wavelength_px", "fresnel_number", "ratio", "doubtful"),
    [
        # contrasts of 2 |sin(chi) + ratio cos(chi)|: 0.032, 0.19, 0.13, and 0.13 of a wave that was learnt
        (LONG, 0.003, 0.0, True),
        (LONG, 0.003, 0.08, False),
        (LONG, 7e-4, 0.0, False),
        (LEARNT, 0.003, 0.0, False),
    ],
)
def test_waves_that_hardly_show_are_doubtful_if_none_as_long_were_learnt(
    wavelength_px, fresnel_number, ratio, doubtful
):
    geometry = HologramGeometry(fresnel_number, ratio)
    found = hardly_shown(waves(wavelength_px), geometry, ratio)
    assert ("100 % of the variance" in found) is doubtful
    # as a tenth of the variance beside what does show
    assert hardly_shown(waves(wavelength_px) / 3 + waves(SIDE / 32).T, geometry, ratio) == ""


def test_what_shows_nothing_may_be_missing_where_edges_are_all_there_is():
    edges = waves(SIDE / 32)
    # 2 sin(pi / (256^2 0.01)) = 0.0096
    assert "(256 pixels) the hologram shows 0.96 %" in hardly_shown(edges, HologramGeometry(0.01), 0.0)
    assert hardly_shown(edges, HologramGeometry(0.01, 0.005), 0.005) == ""
    assert hardly_shown(waves(64, 128), HologramGeometry(0.1), 0.0) == "", "as large as those learnt from"


def test_the_inside_of_a_large_cell_is_not_said_to_be_known():
    generator = torch.Generator().manual_seed(7)
    phase = -0.5 * random_objects(1, (SIDE, SIDE), generator=generator, kinds=["cells"], isolated=1.0).maps
    expected = hologram(homogeneous_exit_wave(phase, 0.0), 0.01)
    counts = torch.poisson(1e3 * expected, generator=generator)
    frame = Frame((counts / 1e3)[0].numpy(), HologramGeometry(0.01, photons=1e3))
    settings = ReconstructionSettings(n_samples=2)
    (posterior,) = Reconstructor.load("holography", "cpu", settings)([frame])
    truth = phase[0].numpy()
    assert np.linalg.norm(posterior.mean - truth) > 0.3 * np.linalg.norm(truth - truth.mean())
    assert posterior.trust.verdict is Verdict.WARNING
    assert "smooth parts" in posterior.trust.reason
