"""Coherent small-angle patterns for the demo: single compact grains, on a detector with a beam stop."""

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

SIDE = 40
PIXEL_M, DISTANCE_M, WAVELENGTH_M = 75e-6, 5.0, 1.5e-10
BEAM_PX = (18, 22)
"""Row and column of the direct beam."""
GRAINS = ("grain 1", "grain 2", "grain 3")
PHOTONS, BACKGROUND = 4e5, 20.0
"""In the part of the detector that a grain scatters to, and per pixel."""
BEAM_STOP_PX = 0.9
"""It hides the beam's pixel, as in training; with its neighbours hidden too patterns count as unusual."""
DEAD = np.iinfo(np.uint32).max
SEED = 3

GEOMETRY = MappingProxyType(
    {
        "wavelength_m": WAVELENGTH_M,
        "distance_m": DISTANCE_M,
        "pixel_size_m": (PIXEL_M, PIXEL_M),
        "poni_m": tuple((place + 0.5) * PIXEL_M for place in BEAM_PX),
    }
)
"""As a start document holds it."""


def grain_pixels() -> NDArray[np.floating]:
    """(G, h, w) densities of the grains, 0 to 1: objects of the model's prior."""
    import torch

    from nfphasing_bluesky.modalities import modality

    made = modality("saxs2d-cdi")
    draws = made.sample_prior(len(GRAINS), torch.Generator().manual_seed(SEED))
    return made.density(draws, {}).double().numpy()


def simulated_grains() -> list[NDArray[np.uint32]]:
    """Counts (SIDE, SIDE) behind each grain; pixels behind the beam stop have the dtype's largest value.

    A grain has no detail finer than its pixels: further out than that scatters is the background alone.
    """
    rng = np.random.default_rng(6)
    rows, columns = (np.arange(SIDE) - place for place in BEAM_PX)
    dark = np.hypot(rows[:, None], columns) < BEAM_STOP_PX
    counts = []
    for grain in grain_pixels():
        height, width = grain.shape
        scattered = tuple(slice(c - n, c + n) for c, n in zip(BEAM_PX, (height, width), strict=True))
        pattern = np.abs(np.fft.fftshift(np.fft.fft2(grain, (2 * height, 2 * width)))) ** 2
        expected = np.full((SIDE, SIDE), BACKGROUND)
        expected[scattered] += PHOTONS * pattern / pattern.sum()
        found = rng.poisson(expected).astype(np.uint32)
        found[dark] = DEAD
        counts.append(found)
    return counts
