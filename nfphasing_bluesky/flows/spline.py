"""Monotonic rational-quadratic splines as pure functions (Durkan et al., 2019, arXiv:1906.04032).

A table (..., 3, K + 1) describes splines with K bins: its rows are the knots' x, their y, and the slopes
there. The first knot is (-bound, -bound), the last (bound, bound), the slope at both is 1; outside, the
splines are the identity.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# A fraction of a mean bin, a slope, and a range of logits: they bound the condition number of a spline.
MIN_BIN = 0.1
MIN_SLOPE = 0.02
MAX_LOGIT = 8.0


def knots(parameters: Tensor, bins: int, bound: float) -> Tensor:
    """Turn (..., 3 K - 1) unconstrained values into a table (..., 3, K + 1); zeros give the identity.

    The bins come from a softmax, written out: torch's own is several times slower over so short a row.
    """
    raw, slopes = parameters.split([2 * bins, bins - 1], dim=-1)
    fractions = torch.exp(MAX_LOGIT * torch.tanh(raw * (1 / MAX_LOGIT))).unflatten(-1, (2, bins))
    total = functional.pad(fractions.cumsum(dim=-1), (1, 0))
    scale = 2 * bound * (1 - MIN_BIN)
    floor = torch.linspace(-bound, bound - scale, bins + 1, dtype=raw.dtype, device=raw.device)
    edges = torch.addcmul(floor, total, scale / total[..., -1:])
    slope = functional.softplus(slopes + math.log(math.expm1(1 - MIN_SLOPE))) + MIN_SLOPE
    return torch.cat((edges, functional.pad(slope, (1, 1), value=1.0).unsqueeze(-2)), dim=-2)


class _Bin(NamedTuple):
    """The bin of each element: lower-left corner, size, secant, end slopes, excess of these over it."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    secant: Tensor
    slope_left: Tensor
    slope_right: Tensor
    bend: Tensor


def _find_bin(value: Tensor, table: Tensor, row: int) -> _Bin:
    """Look each element up among the knots' x (row 0) or y (row 1)."""
    index = (value.unsqueeze(-1) >= table[..., row, 1:-1]).sum(dim=-1, keepdim=True)
    index = index.unsqueeze(-1).expand(*value.shape, 3, 1)
    table = table.expand(*value.shape, *table.shape[-2:])
    left = table.gather(-1, index).squeeze(-1)
    right = table.gather(-1, index + 1).squeeze(-1)
    x, y, slope_left = left.unbind(-1)
    width, height, _ = (right - left).unbind(-1)
    slope_right = right[..., 2]
    secant = height / width
    bend = torch.sub(slope_left + slope_right, secant, alpha=2)
    return _Bin(x, y, width, height, secant, slope_left, slope_right, bend)


def _log_slope(b: _Bin, t: Tensor) -> Tensor:
    """Log derivative dy/dx at the fraction t of the bin, equation 5 of the paper."""
    s = 1 - t
    ts = t * s
    top = torch.addcmul(b.slope_right * t.square(), b.secant, ts, value=2)
    top = torch.addcmul(top, b.slope_left, s.square())
    return torch.log((b.secant / torch.addcmul(b.secant, b.bend, ts)).square() * top)


def spline_forward(x: Tensor, table: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Evaluate splines element by element: (y, log dy/dx), both of x's shape.

    Args:
        x: (...) abscissae.
        table: (..., 3, K + 1), broadcastable against x.
        bound: half-width of the table's range.
    """
    clamped = x.clamp(-bound, bound)
    b = _find_bin(clamped, table, row=0)
    t = ((clamped - b.x) / b.width).clamp(0.0, 1.0)
    ts = t * (1 - t)
    top = torch.addcmul(b.secant * t.square(), b.slope_left, ts)
    y = torch.addcmul(b.y, b.height, top / torch.addcmul(b.secant, b.bend, ts))
    inside = clamped == x
    return torch.where(inside, y, x), torch.where(inside, _log_slope(b, t), 0.0)


def spline_inverse(y: Tensor, table: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Invert `spline_forward`: (x, log dx/dy), both of y's shape."""
    clamped = y.clamp(-bound, bound)
    b = _find_bin(clamped, table, row=1)
    rise = clamped - b.y
    linear = torch.addcmul(b.height * b.slope_left, rise, b.bend, value=-1)
    quadratic = torch.addcmul(-linear, b.height, b.secant)
    constant = b.secant * rise
    # Positive inside a bin but for rounding; the root's slope at 0 is infinite.
    discriminant = torch.addcmul(linear.square(), quadratic, constant, value=4)
    root = discriminant.clamp_min(torch.finfo(y.dtype).tiny).sqrt()
    t = (2 * constant / (linear + root)).clamp(0.0, 1.0)
    x = torch.addcmul(b.x, t, b.width)
    inside = clamped == y
    return torch.where(inside, x, y), torch.where(inside, -_log_slope(b, t), 0.0)
