"""What particles scatter into the bins of a frame.

Dimension letters: N samples, H rows of bins, W columns, Q = H W, L levels of a row, G lengths of a column.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.grazing.bin_grid import LOWEST_RAD, BinGrid, Bins, Shape
from nfphasing_bluesky.modalities.grazing.island_prior import QUANTITIES, IslandSample, sample_of
from nfphasing_bluesky.physics.grazing.dwba_amplitudes import illumination, needed, piled_discs
from nfphasing_bluesky.physics.grazing.dwba_grid import grid_intensity, grid_square
from nfphasing_bluesky.physics.grazing.dwba_rays import waves_in
from nfphasing_bluesky.physics.reflectivity import wave_fields

SHAPE = Shape(32, 24)
VALUES_AT_ONCE = 400_000
"""Sizes times levels times lengths of q of the samples that are computed together: they fit into a cache."""


class Detail(NamedTuple):
    """How finely bins are computed: sizes of particles, levels of a row, lengths of q of a column."""

    sizes: int
    levels: int
    lengths: int

    @property
    def at_once(self) -> int:
        """Samples that are computed together."""
        return max(1, VALUES_AT_ONCE // (self.sizes * self.levels * self.lengths * SHAPE.bins))


FINE = Detail(16, 4, 2)


def patterns(theta: Tensor, kind: int, packed: Tensor, detail: Detail = FINE) -> Tensor:
    """(N, Q) scattering of samples of one class, of root mean square 1 over the bins; differentiable.

    Args:
        theta: (N, D) in 0..1; its dtype is that of the grids, waves are computed in float64.
        kind: class.
        packed: (N, 2 H + 2 W + 2) `Bins`.
        detail: of the calculation.
    """
    most = detail.at_once
    if not (torch.is_grad_enabled() and theta.requires_grad) and len(theta) > most:
        parts = zip(theta.split(most), packed.split(most), strict=True)
        return torch.cat([patterns(some, kind, bins, detail) for some, bins in parts])
    own = _Scattering.of(
        sample_of(theta.double(), kind, detail.sizes), Bins.of(packed, SHAPE), detail, theta.dtype
    )
    return own.means()


ORDER = frozenset({"relative_distance", "relative_disorder", "relative_damping", "root_coupling"})
"""Coordinates that change the places of the particles alone."""
BODY = frozenset({"radius", "aspect", "side_degree", "spread", "film_thickness", "depth"})
"""Coordinates that change the particles; all others change the waves alone."""


def moved_patterns(moved: Tensor, kind: int, packed: Tensor, detail: Detail) -> Tensor:
    """(N, 1 + D, Q) `patterns` of samples and of those moved along each coordinate: what stays is kept.

    Args:
        moved: (N, 1 + D, D) in 0..1, the first at the sample.
        kind: class.
        packed: (N, 2 H + 2 W + 2) `Bins`.
        detail: of the calculation.
    """
    if len(moved) > detail.at_once:
        parts = zip(moved.split(detail.at_once), packed.split(detail.at_once), strict=True)
        return torch.cat([moved_patterns(some, kind, bins, detail) for some, bins in parts])
    bins = Bins.of(packed, SHAPE)
    samples = [sample_of(theta.double(), kind, detail.sizes) for theta in moved.unbind(1)]
    own = _Scattering.of(samples[0], bins, detail, moved.dtype)
    found = [own.means()]
    for quantity, sample in zip(QUANTITIES[kind], samples[1:], strict=True):
        other = own.in_order(sample)
        if quantity.name not in ORDER:
            kept = None if quantity.name in BODY else own
            other = _Scattering.of(sample, bins, detail, moved.dtype, kept)
        found.append(other.means())
    return torch.stack(found, 1)


class _Scattering(NamedTuple):
    """What makes up the intensity of samples on their grids."""

    sample: IslandSample
    grid: BinGrid
    light: Tensor
    piled: Tensor
    square: Tensor

    @classmethod
    def of(
        cls,
        sample: IslandSample,
        bins: Bins,
        detail: Detail,
        dtype: torch.dtype,
        like: "_Scattering | None" = None,
    ) -> "_Scattering":
        """Compute all of it, but for the discs of bodies that are those of others."""
        grid, own = BinGrid.of(bins, sample.offset_rad, detail.levels, detail.lengths), sample.particles
        incoming, outgoing = (
            waves_in(wave_fields(sample.stack, 2 * grid.k * angle.sin()), sample.layer)
            for angle in (grid.incidence, grid.level.clamp_min(LOWEST_RAD))
        )
        if like is None:
            q = grid.q[:, None, None]
            depths, discs = needed(own.bodies, own.base, incoming, outgoing, q)
            piled = piled_discs(own.bodies, own.base, q, depths, discs, dtype)
        else:
            piled = like.piled
        light = illumination(own.bodies, own.base, incoming, outgoing, piled.shape[1]).to(dtype)
        return cls(sample, grid, light, piled, grid_square(own, light, piled))

    def in_order(self, sample: IslandSample) -> "_Scattering":
        """Return the same particles in another order."""
        return self._replace(sample=sample)

    def means(self) -> Tensor:
        """(N, Q) of the bins, of root mean square 1."""
        q = self.grid.q.to(self.piled)
        found = grid_intensity(
            self.square, self.sample.particles, self.sample.order, self.light, self.piled, q
        )
        return self.grid.means(found)
