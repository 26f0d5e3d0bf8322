"""Seams of frames of many tiles: an object without sharp edges, its hologram, and a measure of steps."""

import numpy as np
import torch

from nfphasing_bluesky.core import Frame, HologramGeometry, Posterior
from nfphasing_bluesky.modalities.imaging import tiles
from nfphasing_bluesky.physics.holography import hologram, homogeneous_exit_wave
from nfphasing_bluesky.physics.objects import random_objects

TILE = 64
# few photons and no sharp edges: there neighbouring tiles differ most, and nothing hides it
GEOMETRY = HologramGeometry(fresnel_number=0.01, beta_over_delta=0.01, photons=1e3)
PEAK_PHASE_RAD = 0.5


def measured(shape, seed=1) -> tuple[np.ndarray, Frame]:
    """One object as large as the frame, and its hologram in single photons."""
    generator = torch.Generator().manual_seed(seed)
    maps = random_objects(1, shape, generator=generator, kinds=["porous"], isolated=1.0).maps
    phase = -PEAK_PHASE_RAD * (maps + 0.01 * torch.randn(maps.shape, generator=generator))
    expected = hologram(homogeneous_exit_wave(phase, GEOMETRY.beta_over_delta), GEOMETRY.fresnel_number)
    counts = torch.poisson(GEOMETRY.photons * expected, generator=generator)
    return phase[0].numpy(), Frame(intensity=counts[0].numpy() / GEOMETRY.photons, geometry=GEOMETRY)


def lines(shape, axis) -> dict[str, np.ndarray]:
    """First pixels behind where tiles begin or end, and behind the middle of what two of them share."""
    tiling = tiles.tiling(shape, TILE)
    size, starts = tiling.size[axis], np.array((tiling.rows, tiling.columns)[axis])
    borders = np.union1d(starts, starts + size)
    return {"borders": borders, "middles": (starts[1:] + starts[:-1] + size) // 2}


def contrast(image, axis, where) -> float:
    """Mean step between pixels across lines, over that across their neighbours on the grid of coarse pixels.

    Across the edges of the coarsest wavelets, in every tile, steps are a few per cent larger than elsewhere.
    """
    step = np.abs(np.diff(image, axis=axis)).mean(1 - axis)
    across = where[(where > tiles.STEP) & (where < step.size - tiles.STEP)] - 1
    around = np.concatenate([across - tiles.STEP, across + tiles.STEP])
    return float(step[across].mean() / step[around].mean())


def contrasts(posterior: Posterior, truth) -> dict[tuple[str, int, str], float]:
    """Of mean and draw over that of the truth, whose edges may happen to lie there, and of the error bar."""
    images = {"mean": posterior.mean, "draw": posterior.samples[0], "std": posterior.std}
    return {
        (name, axis, kind): contrast(image, axis, where)
        / (1 if name == "std" else contrast(truth, axis, where))
        for name, image in images.items()
        for axis in (0, 1)
        for kind, where in lines(image.shape, axis).items()
    }
