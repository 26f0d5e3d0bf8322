"""Schulz averages of functions of size from tables: for very many particles at once.

An average depends on x = q times the mean size and on the relative standard deviation p alone. Times the
power of x at which it falls off it stays of order one; along x it is kept as one cubic a cell, through the
cell's Chebyshev nodes, and along p it is interpolated by cubics. A row of the table, of one p, serves all x
of a particle. The table is float32: values are good to 1e-5 of the envelope, and to 1e-3 in the deepest
minima. `schulz` and `disc` hold the functions themselves.

Letters: N particles, X cells of x, P values of p.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from nfphasing_bluesky.physics.cubic import around, cubic_slopes, cubic_weights
from nfphasing_bluesky.physics.kept import kept
from nfphasing_bluesky.physics.particles import schulz
from nfphasing_bluesky.physics.particles.disc import DiscTable

P_MAX = 0.4
"""Largest relative standard deviation that rows can be had for."""

X_MAX = 1024.0
"""Largest q times size in a table; beyond it an average falls off as it does there."""

_CELL = 1 / 8
_P_SCALE, _P_STEP = 0.01, 0.03
"""Values of p lie at `_P_SCALE` times the sinh of multiples of `_P_STEP`: evenly, then logarithmically."""
_FEWEST = 128

Average = Callable[[Tensor, Tensor], Tensor]
"""(x (M,), p (P,)) -> (P, M) averages, float64."""


class _Fall(NamedTuple):
    """How an average falls off: as 1 + x^2 to minus a power, and a function that gives that of 1 + x^2."""

    power: float
    over: Callable[[Tensor], Tensor]


# written out: torch's general power takes as long as ten products
_OF_SPHERES = _Fall(2.0, lambda base: base.square().reciprocal())
_OF_DISCS = _Fall(1.5, lambda base: (base * base.sqrt()).reciprocal())


class SizeRows:
    """An average of N particles, each with its own p, at any x.

    Args:
        average: of order one at all x.
        polydispersity: (N,) p, up to `P_MAX`.
        x_top: what holds the largest x that will be asked for.
    """

    def __init__(self, average: Average, polydispersity: Tensor, x_top: Tensor) -> None:
        table, self.cells, self.beyond = _table_for(average, polydispersity, x_top)
        near, f = _between(polydispersity, len(table))
        self.flat = embedding_bag(near, table, per_sample_weights=cubic_weights(f), mode="sum").flatten()

    def __call__(self, row: Tensor, x: Tensor) -> Tensor:
        """Averages at x, any shape, of the particles `row`, an int32 that broadcasts against x."""
        position = x * (1 / _CELL)
        if self.beyond:
            position = position.clamp(max=self.cells)
        cell = position.detach().int().clamp_(0, self.cells - 1)
        f = (position - cell).flatten()
        index = (cell + row * (4 * self.cells)).flatten()
        c = _coefficients(self.flat, self.cells, index)
        value = torch.addcmul(c[2], c[3], f)
        value = torch.addcmul(c[1], value, f)
        return torch.addcmul(c[0], value, f).view_as(x)


class SizeSlopes:
    """An average that falls off, of N particles, and its derivatives.

    Args:
        average: of order one at all x.
        fall: how the average itself falls off.
        polydispersity: (N,) p, up to `P_MAX`.
        x_top: what holds the largest x that will be asked for.
    """

    def __init__(self, average: Average, fall: "_Fall", polydispersity: Tensor, x_top: Tensor) -> None:
        table, self.cells, self.beyond = _table_for(average, polydispersity, x_top)
        near, f = _between(polydispersity, len(table))
        by_p = 1 / (_P_STEP * (polydispersity.square() + _P_SCALE**2).sqrt())
        self.values, self.by_p = (
            embedding_bag(near, table, per_sample_weights=w, mode="sum").flatten()
            for w in (cubic_weights(f), cubic_slopes(f) * by_p[:, None])
        )
        self.fall = fall

    def __call__(self, row: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values at x (M,) of the particles `row` (M,), x times their derivatives by x, those by p."""
        position = x * (1 / _CELL)
        cell = position.int().clamp_(0, self.cells - 1)
        f = position - cell
        if self.beyond:
            f = f.clamp(max=1.0)
        index = cell + row * (4 * self.cells)
        c, by_p = (_coefficients(flat, self.cells, index) for flat in (self.values, self.by_p))
        square = torch.addcmul(c[2], c[3], f)
        value = torch.addcmul(c[0], torch.addcmul(c[1], square, f), f)
        slope = torch.addcmul(square + c[2], c[3], f, value=2)
        slope = torch.addcmul(c[1], slope, f) * position
        moved = torch.addcmul(by_p[2], by_p[3], f)
        moved = torch.addcmul(by_p[0], torch.addcmul(by_p[1], moved, f), f)
        if self.beyond:
            slope = slope.where(position < self.cells, 0.0)
        x2 = x.square()
        base = 1 + x2
        envelope = self.fall.over(base)
        slope = torch.addcmul(slope, value, x2 / base, value=-2 * self.fall.power)
        return value * envelope, slope * envelope, moved * envelope


def _coefficients(flat: Tensor, cells: int, index: Tensor) -> list[Tensor]:
    """Coefficients 0 to 3 of the cubics of cells `index`, each (M,), from rows one after the other."""
    last = flat.numel() - 3 * cells
    return [flat[k * cells : k * cells + last].index_select(0, index) for k in range(4)]


def sphere(polydispersity: Tensor, x_top: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """E[t^6 Phi(x t)^2] / E[t^6], Phi the amplitude of a sphere. Arguments as for `SizeRows`."""
    rows = SizeRows(_sphere, polydispersity, x_top)
    return lambda row, x: rows(row, x) * _OF_SPHERES.over(1 + x.square())


def disc(polydispersity: Tensor, x_top: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """E[t^4 (2 J1(x t) / (x t))^2] / E[t^4]. Arguments as for `SizeRows`."""
    rows = SizeRows(_disc, polydispersity, x_top)
    return lambda row, x: rows(row, x) * _OF_DISCS.over(1 + x.square())


def sphere_slopes(polydispersity: Tensor, x_top: Tensor) -> SizeSlopes:
    """`sphere` with its derivatives."""
    return SizeSlopes(_sphere, _OF_SPHERES, polydispersity, x_top)


def disc_slopes(polydispersity: Tensor, x_top: Tensor) -> SizeSlopes:
    """`disc` with its derivatives."""
    return SizeSlopes(_disc, _OF_DISCS, polydispersity, x_top)


def _sphere(x: Tensor, p: Tensor) -> Tensor:
    average = schulz.sphere_average(x.expand(len(p), -1), schulz.relative_variance(p)[:, None])
    return average * (1 + x.square()).square()


def _disc(x: Tensor, p: Tensor) -> Tensor:
    rows = torch.arange(len(p), device=x.device)
    average = DiscTable(schulz.relative_variance(p), float(x.max()))(rows, x.expand(len(p), -1))
    return average * (1 + x.square()) ** 1.5


def _cells(x_top: float) -> int:
    """Cells of a table that reaches x_top: powers of two, and one and a half times these."""
    need = x_top / _CELL + 1
    if not need > _FEWEST:
        return _FEWEST
    most = 1 << math.ceil(math.log2(min(need, X_MAX / _CELL)))
    return most * 3 // 4 if need <= most * 3 // 4 else most


def _table_for(average: Average, polydispersity: Tensor, x_top: Tensor) -> tuple[Tensor, int, bool]:
    """(P, 4 X) table that reaches x_top, X, and whether x_top lies beyond it all the same."""
    top = float(x_top.detach().nan_to_num(0.0, posinf=X_MAX).max())
    cells = _cells(top)
    return _table(average, cells, polydispersity.device).to(polydispersity.dtype), cells, top > X_MAX


def _between(polydispersity: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """(N, 4) rows of a table around each p, and (N,) how far p is between the middle ones."""
    position = torch.asinh(polydispersity / _P_SCALE) / _P_STEP + 1
    cell = position.detach().nan_to_num(1.0).floor().clamp(1, rows - 3)
    return cell.long()[:, None] + around(cell.device), position - cell


@kept(64)
def _table(average: Average, cells: int, device: torch.device) -> Tensor:
    """(P, 4 X) coefficients 0 to 3 of the cubics of all cells.

    The first p is one step below 0, where everything is as one step above.
    """
    steps = torch.arange(math.ceil(math.asinh(P_MAX / _P_SCALE) / _P_STEP) + 4, device=device) - 1.0
    p = _P_SCALE * torch.sinh(_P_STEP * steps.double()).abs()
    nodes = 0.5 - 0.5 * np.cos((np.arange(4) + 0.5) * math.pi / 4)
    to_coefficients = torch.as_tensor(np.linalg.inv(np.vander(nodes, increasing=True)), device=device)
    starts = torch.arange(cells, dtype=torch.float64, device=device)[:, None]
    x = ((starts + torch.as_tensor(nodes, device=device)) * _CELL).flatten()
    rows = []
    for some in p.split(16):
        values = average(x, some).unflatten(1, (cells, 4))
        rows.append((values @ to_coefficients.T).mT.flatten(1).float())
    return torch.cat(rows)
