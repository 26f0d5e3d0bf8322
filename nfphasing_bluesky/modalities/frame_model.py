"""What particles scatter into the bins of a frame: grids of exit angles and q in the plane, and their means.

A bin's mean is taken over levels and columns that have the mean and the spread of its pixels. The lengths of
q are those of the nominal incidence angle: one that is off by 0.02 degrees moves them by less than 1e-4 of
an inverse angstrom.

Dimension letters: N samples, H rows of bins, W columns, Q = H W, L levels of a row, G lengths of a column.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.modalities.island_prior import QUANTITIES, IslandSample, sample_of
from nfphasing_bluesky.physics.dwba_amplitudes import illumination, needed, piled_discs
from nfphasing_bluesky.physics.dwba_grid import grid_intensity, grid_square
from nfphasing_bluesky.physics.dwba_rays import waves_in
from nfphasing_bluesky.physics.reflectivity import wave_fields

ROWS, COLUMNS = 32, 24
"""H and W."""
PACKED = 2 * ROWS + 2 * COLUMNS + 2
LOWEST_RAD = 1e-6
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
        return max(1, VALUES_AT_ONCE // (self.sizes * self.levels * self.lengths * ROWS * COLUMNS))


FINE = Detail(16, 4, 2)


class Bins(NamedTuple):
    """Bins of N frames.

    Attributes:
        exit_mean, exit_half: (N, H) exit angles of a row's pixels: mean, and half the width of an even spread
            as theirs, rad.
        q_mean, q_half: (N, W) the same of the lengths of q of a column's pixels, 1/angstrom.
        beam: (N, 2) wave number, 1/angstrom, and incidence angle, rad.
    """

    exit_mean: Tensor
    exit_half: Tensor
    q_mean: Tensor
    q_half: Tensor
    beam: Tensor

    @classmethod
    def of(cls, packed: Tensor) -> "Bins":
        """Unpack (N, PACKED)."""
        return cls(*packed.double().split([ROWS, ROWS, COLUMNS, COLUMNS, 2], 1))

    @property
    def packed(self) -> Tensor:
        """(N, PACKED) float64."""
        return torch.cat([v.double() for v in self], 1)


class _Grid(NamedTuple):
    """Levels (N, H L) in rad and lengths of q (N, W G) of samples, their beams (N, 1), angles true."""

    level: Tensor
    q: Tensor
    k: Tensor
    incidence: Tensor

    @classmethod
    def of(cls, bins: Bins, offset_rad: Tensor, detail: Detail) -> "_Grid":
        k, incidence = bins.beam[:, :1], bins.beam[:, 1:]
        offset = offset_rad[:, None]
        level = _spread(bins.exit_mean, bins.exit_half, detail.levels) - offset
        return cls(level, _spread(bins.q_mean, bins.q_half, detail.lengths), k, incidence + offset)


@lru_cache(maxsize=16)
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Places on -1..1 and weights (count,), of sum 1."""
    place, weight = np.polynomial.legendre.leggauss(count)
    return torch.as_tensor(place), torch.as_tensor(0.5 * weight)


def _spread(mean: Tensor, half: Tensor, count: int) -> Tensor:
    place = _legendre(count)[0].to(mean)
    return (mean[:, :, None] + half[:, :, None] * place).flatten(1)


def patterns(theta: Tensor, kind: int, packed: Tensor, detail: Detail = FINE) -> Tensor:
    """(N, Q) scattering of samples of one class, of root mean square 1 over the bins; differentiable.

    Args:
        theta: (N, D) in 0..1; its dtype is that of the grids, waves are computed in float64.
        kind: class.
        packed: (N, PACKED) `Bins`.
        detail: of the calculation.
    """
    most = detail.at_once
    if not (torch.is_grad_enabled() and theta.requires_grad) and len(theta) > most:
        parts = zip(theta.split(most), packed.split(most), strict=True)
        return torch.cat([patterns(some, kind, bins, detail) for some, bins in parts])
    own = _Scattering.of(sample_of(theta.double(), kind, detail.sizes), Bins.of(packed), detail, theta.dtype)
    return _finished(own.intensity(), own.grid, detail)


ORDER = frozenset({"relative_distance", "relative_disorder", "relative_damping", "root_coupling"})
"""Coordinates that change the places of the particles alone."""
BODY = frozenset({"radius", "aspect", "side_degree", "spread", "film_thickness", "depth"})
"""Coordinates that change the particles; all others change the waves alone."""


def moved_patterns(moved: Tensor, kind: int, packed: Tensor, detail: Detail) -> Tensor:
    """(N, 1 + D, Q) `patterns` of samples and of those moved along each coordinate: what stays is kept.

    Args:
        moved: (N, 1 + D, D) in 0..1, the first at the sample.
        kind: class.
        packed: (N, PACKED) `Bins`.
        detail: of the calculation.
    """
    if len(moved) > detail.at_once:
        parts = zip(moved.split(detail.at_once), packed.split(detail.at_once), strict=True)
        return torch.cat([moved_patterns(some, kind, bins, detail) for some, bins in parts])
    bins = Bins.of(packed)
    samples = [sample_of(theta.double(), kind, detail.sizes) for theta in moved.unbind(1)]
    own = _Scattering.of(samples[0], bins, detail, moved.dtype)
    found = [_finished(own.intensity(), own.grid, detail)]
    for quantity, sample in zip(QUANTITIES[kind], samples[1:], strict=True):
        other = own.in_order(sample)
        if quantity.name not in ORDER:
            kept = None if quantity.name in BODY else own
            other = _Scattering.of(sample, bins, detail, moved.dtype, kept)
        found.append(_finished(other.intensity(), other.grid, detail))
    return torch.stack(found, 1)


class _Scattering(NamedTuple):
    """What makes up the intensity of samples on their grids."""

    sample: IslandSample
    grid: _Grid
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
        grid, own = _Grid.of(bins, sample.offset_rad, detail), sample.particles
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

    def intensity(self) -> Tensor:
        """(N, H L, W G) angstrom^6 a particle."""
        q = self.grid.q.to(self.piled)
        return grid_intensity(
            self.square, self.sample.particles, self.sample.order, self.light, self.piled, q
        )


def _finished(found: Tensor, grid: _Grid, detail: Detail) -> Tensor:
    """(N, Q) averages over the bins, dark below the horizon, of root mean square 1."""
    above = (grid.level > 0).to(found)
    found = (found.clamp_min(0.0) * above[:, :, None]).unflatten(1, (ROWS, detail.levels))
    found = found.unflatten(3, (COLUMNS, detail.lengths))
    over, across = (_legendre(n)[1].to(found) for n in (detail.levels, detail.lengths))
    found = torch.einsum("nhlwg,l,g->nhw", found, over, across).flatten(1)
    largest = found.detach().amax(1, keepdim=True).clamp_min(1e-30)
    found = found / largest
    return found / found.square().mean(1, keepdim=True).clamp_min(1e-12).sqrt()
