"""Holograms and CTF phases against hotopy.

hotopy samples the transfer function on a padded grid, so the padding is such that wrapped light stays below
the tolerance: 2048 pixels down to Fr = 1e-3, where 2 x 64 would be off by tens of per cent.
"""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics import holography

WIDE = 2048
CASES = [(64, 1e-3), (64, 1e-1), (128, 1e-3), (128, 1e-2), (256, 3e-3), (256, 1e-1), (512, 1e-3), (512, 1e-2)]
BETA_OVER_DELTA = 0.02
LEVELS = [(1e-3, 0.1), (0.05, 0.05), (0.0, 0.3)]


@pytest.fixture
def holo(oracle):
    return oracle("hotopy.holo")


def spheres(n: int, seed: int) -> np.ndarray:
    """(n, n) projections of spheres, 0 to about 1.5."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:n, :n] - n / 2
    image = np.zeros((n, n))
    for _ in range(6):
        (cy, cx), r = rng.uniform(-0.25, 0.25, 2) * n, rng.uniform(0.05, 0.15) * n
        chord = np.sqrt(np.clip(r * r - (y - cy) ** 2 - (x - cx) ** 2, 0, None)) / r
        image += rng.uniform(0.3, 1) * chord
    return image


def discs(n: int, seed: int) -> np.ndarray:
    """(n, n) the same with sharp edges."""
    return 0.6 * (spheres(n, seed) > 0.2) + 0.6 * (spheres(n, seed + 1) > 0.3)


@pytest.mark.parametrize("kind", ["phase", "homogeneous", "free"])
@pytest.mark.parametrize(("n", "number"), CASES)
def test_hologram(holo, kind, n, number):
    phase = -spheres(n, n)
    absorption = {
        "phase": 0 * phase,
        "homogeneous": -BETA_OVER_DELTA * phase,
        "free": 0.3 * spheres(n, n + 1),
    }
    theirs = holo.simulate_hologram(1j * phase - absorption[kind], number, npad=WIDE / n, dtype=torch.float64)
    tensor = torch.tensor(phase, dtype=torch.float32)[None]
    wave = {
        "phase": lambda: holography.exit_wave(tensor),
        "homogeneous": lambda: holography.homogeneous_exit_wave(tensor, BETA_OVER_DELTA),
        "free": lambda: holography.exit_wave(tensor, torch.tensor(absorption[kind]).float()[None]),
    }[kind]()
    ours = holography.hologram(wave, number)[0].numpy()
    assert np.ptp(theirs) > 0.1
    assert np.abs(ours - theirs).max() < 2e-4


@pytest.mark.parametrize(("n", "number"), [(128, 1e-3), (128, 3e-2), (512, 1e-2)])
def test_hologram_of_sharp_edges(holo, n, number):
    phase = -discs(n, n)
    theirs = holo.simulate_hologram(1j * phase, number, npad=WIDE / n, dtype=torch.float64)
    ours = holography.hologram(holography.exit_wave(torch.tensor(phase)[None]), number)[0].numpy()
    assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize("beta_over_delta", [0.0, BETA_OVER_DELTA])
@pytest.mark.parametrize(("n", "number"), [(64, 1e-1), (128, 1e-2), (512, 1e-3)])
def test_ctf(holo, n, number, beta_over_delta):
    wave = holography.homogeneous_exit_wave(torch.tensor(-spheres(n, n))[None], beta_over_delta)
    rng = np.random.default_rng(0)
    image = rng.poisson(1000 * holography.hologram(wave, number)[0].numpy()) / 1000
    levels = LEVELS if beta_over_delta else LEVELS[:2]
    ours = holography.ctf_phase(
        torch.tensor(image)[None], number, levels, beta_over_delta=beta_over_delta, boundary="periodic"
    )
    for i, alpha in enumerate(levels):
        ctf = holo.CTF((n, n), number, alpha=alpha, betadelta=beta_over_delta, dtype=torch.float64)
        theirs = ctf(image).numpy()
        assert np.abs(ours[0, i].numpy() - theirs).max() < 1e-6 * np.abs(theirs).max()
