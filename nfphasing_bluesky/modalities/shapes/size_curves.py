"""Curves of many sizes of one shape basis, and their sums over the points of a frame.

The sums are what a linear posterior asks for. Many draws of one frame lie close together in size, and all
that depends on the size is smooth in it, so it is computed at some nodes and interpolated between them:
Chebyshev nodes over the bulk of the draws (the error falls faster than any power of their number), and the
outliers themselves.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.kept import kept
from nfphasing_bluesky.physics.shapes.pair_distance import UniversalDebye
from nfphasing_bluesky.physics.shapes.solutions import loose_aggregates

OUTLIERS = 6
SPARE_NODES, SPARE_NODES_OF_ONE = 14, 9
EXTENT_NODES = 14
WORTH_IT = 0.7


class Frame(NamedTuple):
    """Points that draws are compared with, (N, Q) or (1, Q): q, intensity, and 1/sigma, zero where masked."""

    q: Tensor
    intensity: Tensor
    root: Tensor


class Sums(NamedTuple):
    """Sums over the points, over sigma^2, float64; and the curves.

    Attributes:
        gram: (N, C + 3, C + 3) products of the mean shape's curve, C components, a constant and the data.
        cross: (N, C + 3) their products with the aggregates' curve.
        square: (N,) its square.
        predict: weights of mean shape and components (N, C + 1) and of the aggregates (N,) to curves (N, Q).
    """

    gram: Tensor
    cross: Tensor
    square: Tensor
    predict: Callable[[Tensor, Tensor], Tensor]


def of_each(debye: UniversalDebye, table: Tensor, d_max: Tensor, extent: Tensor, frame: Frame) -> Sums:
    """Sums of N draws, each at its own size; differentiable in it.

    Args:
        debye: the transform.
        table: (F, C + 1) curves of mean shape and components on its grid.
        d_max: (N,) angstrom.
        extent: (N,) of the aggregates, angstrom.
        frame: one row a draw.
    """
    particle = debye.rows(table, d_max, frame.q)
    trace = loose_aggregates(frame.q * extent[:, None].to(frame.q)).to(particle)
    columns = over_sigma(with_constant(particle), frame)
    aggregates = trace.double() * frame.root

    def predict(weight: Tensor, share: Tensor) -> Tensor:
        curve = (particle @ weight.to(particle)[:, :, None])[:, :, 0]
        return torch.addcmul(curve, trace, share.to(trace)[:, None])

    cross = (columns.mT @ aggregates[:, :, None])[:, :, 0]
    return Sums(columns.mT @ columns, cross, aggregates.square().sum(1), predict)


def of_one_frame(
    debye: UniversalDebye, tables: tuple[Tensor, Tensor], d_max: Tensor, extent: Tensor, frame: Frame
) -> Sums | None:
    """Sums of N draws of one frame by interpolation, or None when that is not worth it.

    Arguments as for `of_each`, but for the frame, which has one row, and the table, which comes twice: in
    the precision of the curves, and in float64 with a constant behind the curves.
    """
    q_max = float(torch.where(frame.root > 0, frame.q, 0.0).max())
    (table, exact), d_max = tables, d_max.double()
    # products of two curves oscillate with 2 q D: so many half waves fit between the nodes
    sizes = d_max.log().sort()
    found = _nodes(*sizes, q_max, SPARE_NODES)
    if found is None:
        return None
    size, by_size = found.size, found.weight
    length, by_extent = _chebyshev(extent.double().log(), EXTENT_NODES)
    # float64 throughout: the sums almost cancel, and interpolation doesn't keep rounding errors in step
    q, root = frame.q.double(), frame.root.double()
    columns = debye.rows(exact, size.exp(), q.expand(len(size), -1), root)
    # aggregates of all extents, then the data: beside the columns, which are too many to be copied
    beside = torch.cat([loose_aggregates(q * length.exp()[:, None]), frame.intensity]) * root
    between, mixed = beside @ beside.T, columns.mT @ beside.T
    data, square = mixed[..., -1:], between[-1:].expand(len(size), 1, -1)
    gram = torch.cat(
        [torch.cat([columns.mT @ columns, data], 2), torch.cat([data.mT, square[..., -1:]], 2)], 1
    )
    cross = torch.cat([mixed, square], 1)[..., :-1]
    parts = gram.shape[1]
    gram = (by_size @ gram.flatten(1)).view(-1, parts, parts)
    cross = (by_size @ cross.flatten(1)).view(-1, parts, len(length))
    between = between[:-1, :-1]

    def predict(weight: Tensor, share: Tensor) -> Tensor:
        shown = frame.q
        few = _nodes(*sizes, 0.5 * q_max, SPARE_NODES_OF_ONE) or found
        weight, between_nodes = weight.to(shown), few.weight[few.bulk, : few.inner].to(shown)
        curves = debye.rows(table.to(shown), few.size.exp().to(shown), shown.expand(len(few.size), -1))
        traces = loose_aggregates(shown * length.exp().to(shown)[:, None])
        out = (by_extent.to(shown) * share.to(shown)[:, None]) @ traces
        mixed = (between_nodes[:, :, None] * weight[few.bulk, None]).flatten(1)
        out[few.bulk] += mixed @ curves[: few.inner].mT.flatten(0, 1)
        out[few.outliers] += (curves[few.inner :] @ weight[few.outliers, :, None])[:, :, 0]
        return out

    square = ((by_extent @ between) * by_extent).sum(1)
    return Sums(gram, (cross @ by_extent[:, :, None])[:, :, 0], square, predict)


def with_constant(particle: Tensor) -> Tensor:
    """(..., Q, P + 1) curves (..., Q, P) and a constant."""
    return torch.nn.functional.pad(particle, (0, 1), value=1.0)


def over_sigma(columns: Tensor, frame: Frame) -> Tensor:
    """(..., Q, P + 1) columns (..., Q, P) and the data over sigma, float64."""
    data = frame.intensity[..., None].expand_as(columns[..., :1])
    return torch.cat([columns, data], -1) * frame.root[..., None]


class _Nodes(NamedTuple):
    """(M,) nodes of log size, (N, M) weights of their values for each draw, and which draws are where.

    The first `inner` nodes are those of the draws `bulk`, the others the draws `outliers` themselves.
    """

    size: Tensor
    weight: Tensor
    inner: int
    bulk: Tensor
    outliers: Tensor


def _nodes(log_size: Tensor, order: Tensor, q_max: float, spare: int) -> _Nodes | None:
    """Nodes for what oscillates with 2 q D; None when they are not fewer than the draws.

    Args:
        log_size: (N,) logarithms of D_max, sorted.
        order: (N,) the draws that these are of.
        q_max: 1/angstrom.
        spare: nodes beyond one for each half wave.
    """
    n = len(order)
    if n < 4 * OUTLIERS:
        return None
    low, high = log_size[OUTLIERS], log_size[n - 1 - OUTLIERS]
    waves = q_max * float(high.exp() - low.exp())
    count = spare + math.ceil(waves) if math.isfinite(waves) else n
    if count + 2 * OUTLIERS > WORTH_IT * n:
        return None
    inside = slice(OUTLIERS, n - OUTLIERS)
    nodes, inner = _chebyshev(log_size[inside], count)
    outliers = torch.cat([order[:OUTLIERS], order[n - OUTLIERS :]])
    weight = torch.zeros(n, count + 2 * OUTLIERS, dtype=torch.float64, device=order.device)
    weight[outliers, count + torch.arange(2 * OUTLIERS, device=order.device)] = 1.0
    weight[order[inside], :count] = inner
    size = torch.cat([nodes, log_size[:OUTLIERS], log_size[n - OUTLIERS :]])
    return _Nodes(size, weight, count, order[inside], outliers)


def _chebyshev(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(M,) Chebyshev nodes over the range of x (N,), and (N, M) barycentric weights of their values at x.

    Berrut and Trefethen, SIAM Rev. 46, 501 (2004).
    """
    low, high = x.min(), x.max()
    place, strength = _unit_chebyshev(count, x.device)
    half = 0.5 * (high - low).clamp_min(1e-9)
    nodes = 0.5 * (low + high) + half * place
    away = (x[:, None] - nodes) / half
    weight = strength / torch.where(away.abs() < 1e-13, 1e-13, away)
    return nodes, weight / weight.sum(1, keepdim=True)


@kept(256)
def _unit_chebyshev(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(M,) Chebyshev nodes on -1..1 and their barycentric weights, float64."""
    number = torch.arange(count, dtype=torch.float64, device=device)
    angle = torch.pi * (number + 0.5) / count
    return angle.cos(), (1.0 - 2.0 * (number % 2)) * angle.sin()
