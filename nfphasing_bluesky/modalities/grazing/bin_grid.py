"""Bins of frames in grazing incidence over exit angles and q in the plane, and where in them means are taken.

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

LOWEST_RAD = 1e-6


class Shape(NamedTuple):
    """H and W."""

    rows: int
    columns: int

    @property
    def bins(self) -> int:
        """Q."""
        return self.rows * self.columns


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
    def of(cls, packed: Tensor, shape: Shape) -> "Bins":
        """Unpack (N, 2 H + 2 W + 2)."""
        h, w = shape
        return cls(*packed.double().split([h, h, w, w, 2], 1))

    @property
    def packed(self) -> Tensor:
        """(N, 2 H + 2 W + 2) float64."""
        return torch.cat([v.double() for v in self], 1)


class BinGrid(NamedTuple):
    """Levels (N, H L) in rad and lengths of q (N, W G) of samples, their beams (N, 1), angles true.

    `levels` and `lengths` are L and G.
    """

    level: Tensor
    q: Tensor
    k: Tensor
    incidence: Tensor
    levels: int
    lengths: int

    @classmethod
    def of(cls, bins: Bins, offset_rad: Tensor, levels: int, lengths: int) -> "BinGrid":
        """Of bins and (N,) true less nominal incidence angles."""
        k, incidence = bins.beam[:, :1], bins.beam[:, 1:]
        offset = offset_rad[:, None]
        level = _spread(bins.exit_mean, bins.exit_half, levels) - offset
        return cls(level, _spread(bins.q_mean, bins.q_half, lengths), k, incidence + offset, levels, lengths)

    def means(self, found: Tensor) -> Tensor:
        """(N, Q) averages of (N, H L, W G) over the bins, dark below the horizon, of root mean square 1."""
        above = (self.level > 0).to(found)
        found = (found.clamp_min(0.0) * above[:, :, None]).unflatten(1, (-1, self.levels))
        found = found.unflatten(3, (-1, self.lengths))
        over, across = (_legendre(n)[1].to(found) for n in (self.levels, self.lengths))
        found = torch.einsum("nhlwg,l,g->nhw", found, over, across).flatten(1)
        largest = found.detach().amax(1, keepdim=True).clamp_min(1e-30)
        found = found / largest
        return found / found.square().mean(1, keepdim=True).clamp_min(1e-12).sqrt()


@lru_cache(maxsize=16)
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Places on -1..1 and weights (count,), of sum 1."""
    place, weight = np.polynomial.legendre.leggauss(count)
    return torch.as_tensor(place), torch.as_tensor(0.5 * weight)


def _spread(mean: Tensor, half: Tensor, count: int) -> Tensor:
    place = _legendre(count)[0].to(mean)
    return (mean[:, :, None] + half[:, :, None] * place).flatten(1)
