"""Monotonic rational-quadratic splines as pure functions (Durkan et al., 2019, arXiv:1906.04032)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# Fractions of a mean bin, and a slope: they bound the condition number of one spline.
MIN_BIN = 0.05
MIN_SLOPE = 0.02


class Knots(NamedTuple):
    """Spline knots: positions x and y, and slopes at them, each (..., K + 1)."""

    x: Tensor
    y: Tensor
    slope: Tensor


def knots(parameters: Tensor, bins: int, bound: float) -> Knots:
    """Turn (..., 3 K - 1) unconstrained values into knots on [-bound, bound]; zeros give the identity.

    The slopes at both ends are 1, that of the linear tails.
    """
    widths, heights, slopes = parameters.split([bins, bins, bins - 1], dim=-1)
    x = _edges(torch.stack((widths, heights), dim=-2), bins, bound)
    offset = math.log(math.expm1(1.0 - MIN_SLOPE))
    inner = MIN_SLOPE + functional.softplus(slopes + offset)
    slope = functional.pad(inner, (1, 1), value=1.0)
    return Knots(x[..., 0, :], x[..., 1, :], slope)


def _edges(raw: Tensor, bins: int, bound: float) -> Tensor:
    """(..., K) unconstrained values to (..., K + 1) increasing edges from -bound to bound."""
    fractions = MIN_BIN / bins + (1.0 - MIN_BIN) * functional.softmax(raw, dim=-1)
    inner = fractions.cumsum(dim=-1)[..., :-1]
    return functional.pad(functional.pad(inner, (1, 0), value=0.0), (0, 1), value=1.0) * (2 * bound) - bound


class _Bin(NamedTuple):
    """The bin that holds each element: its lower-left corner, size, mean slope and end slopes."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    secant: Tensor
    slope_left: Tensor
    slope_right: Tensor


def _find_bin(value: Tensor, edges: Tensor, table: Knots) -> _Bin:
    shape = value.shape
    stacked = torch.stack(tuple(table), dim=-2)
    stacked = stacked.expand(*shape, *stacked.shape[-2:])
    index = (value.unsqueeze(-1) >= edges[..., 1:-1]).sum(dim=-1)
    index = index[..., None, None].expand(*shape, 3, 1)
    x, y, slope_left = stacked.gather(-1, index).squeeze(-1).unbind(-1)
    x_next, y_next, slope_right = stacked.gather(-1, index + 1).squeeze(-1).unbind(-1)
    width, height = x_next - x, y_next - y
    return _Bin(x, y, width, height, height / width, slope_left, slope_right)


def _log_slope(b: _Bin, t: Tensor) -> Tensor:
    """Log derivative dy/dx at the fraction t of the bin, equation 5 of the paper."""
    s = 1 - t
    mixed = b.secant + (b.slope_left + b.slope_right - 2 * b.secant) * t * s
    top = b.slope_right * t.square() + 2 * b.secant * t * s + b.slope_left * s.square()
    return torch.log(b.secant.square() * top / mixed.square())


def spline_forward(x: Tensor, table: Knots) -> tuple[Tensor, Tensor]:
    """Evaluate splines element by element: (y, log dy/dx), both (...); the identity outside the knots.

    Args:
        x: (...) abscissae.
        table: knots (..., K + 1), broadcastable against x; end slopes 1 for a smooth tail.
    """
    low, high = table.x[..., 0], table.x[..., -1]
    inside = (x >= low) & (x <= high)
    b = _find_bin(torch.minimum(torch.maximum(x, low), high), table.x, table)
    # A clamped copy keeps gradients of elements in the tails finite before torch.where drops them.
    t = ((x - b.x) / b.width).clamp(0.0, 1.0)
    mixed = b.secant + (b.slope_left + b.slope_right - 2 * b.secant) * t * (1 - t)
    y = b.y + b.height * (b.secant * t.square() + b.slope_left * t * (1 - t)) / mixed
    return torch.where(inside, y, x), torch.where(inside, _log_slope(b, t), torch.zeros_like(x))


def spline_inverse(y: Tensor, table: Knots) -> tuple[Tensor, Tensor]:
    """Invert `spline_forward`: (x, log dx/dy), both (...)."""
    low, high = table.y[..., 0], table.y[..., -1]
    inside = (y >= low) & (y <= high)
    clamped = torch.minimum(torch.maximum(y, low), high)
    b = _find_bin(clamped, table.y, table)
    rise = clamped - b.y
    bend = rise * (b.slope_left + b.slope_right - 2 * b.secant)
    quadratic = b.height * (b.secant - b.slope_left) + bend
    linear = b.height * b.slope_left - bend
    constant = -b.secant * rise
    # The discriminant is positive inside a bin; rounding and its infinite root slope at 0 are kept off.
    root = (linear.square() - 4 * quadratic * constant).clamp_min(torch.finfo(y.dtype).tiny).sqrt()
    t = (-2 * constant / (linear + root)).clamp(0.0, 1.0)
    x = b.x + t * b.width
    return torch.where(inside, x, y), torch.where(inside, -_log_slope(b, t), torch.zeros_like(y))
