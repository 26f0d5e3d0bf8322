"""What multilayers scatter into the bins of a frame of the published geometry, and frames to learn from.

Dimension letters: N samples, H rows of bins, W columns, Q = H W.
"""

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.grazing.bin_grid import LOWEST_RAD, BinGrid, Bins, Shape
from nfphasing_bluesky.modalities.grazing.frame_bins import FrameSimulation
from nfphasing_bluesky.modalities.grazing.gisaxs_films import films_at, grazing_sample
from nfphasing_bluesky.physics.grazing.dwba_roughness import roughness_on_grid
from nfphasing_bluesky.physics.reflectivity import wave_fields

SHAPE = Shape(96, 16)
LEVELS, LENGTHS = 2, 2
AT_ONCE = 16
"""Samples that are computed together: they fit into a cache."""

SIMULATION = FrameSimulation(
    wavelength=(1.402, 1.413),
    incidence=(0.62, 0.66),
    exit_first=(0.0005, 0.01),
    exit_last=(1.9, 2.1),
    q_first=(0.003, 0.0034),
    q_last=(0.047, 0.057),
    pixel=(0.0018, 0.0027),
    counts=(30.0, 1e6),
    floor=(0.003, 0.1),
    shape=SHAPE,
)
"""About the published geometry, so that a frame need not be exactly as there."""


def film_patterns(place: Tensor, packed: Tensor) -> Tensor:
    """(N, Q) scattering of multilayers, of root mean square 1 over the bins; differentiable.

    Args:
        place: (N, L, 6) between the bounds of the prior, 0 to 1; its dtype is the result's.
        packed: (N, 2 H + 2 W + 2) `Bins`.
    """
    if not (torch.is_grad_enabled() and place.requires_grad) and len(place) > AT_ONCE:
        parts = zip(place.split(AT_ONCE), packed.split(AT_ONCE), strict=True)
        return torch.cat([film_patterns(some, bins) for some, bins in parts])
    sample = grazing_sample(films_at(place.double()))
    bins = Bins.of(packed, SHAPE)
    grid = BinGrid.of(bins, torch.zeros_like(bins.beam[:, 0]), LEVELS, LENGTHS)
    incoming, outgoing = (
        wave_fields(sample.stack, 2 * grid.k * angle.sin())
        for angle in (grid.incidence, grid.level.clamp_min(LOWEST_RAD))
    )
    assert sample.roughness is not None  # noqa: S101  films have nothing else that scatters
    found = roughness_on_grid(sample.roughness, sample.stack, incoming, outgoing, grid.q[:, None])
    return grid.means(found).to(place.dtype)
