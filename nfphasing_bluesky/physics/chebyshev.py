"""Smooth even functions of one variable, known at a few points and wanted at many.

An even function on [-1, 1] is the sum of K Chebyshev polynomials of even order; its values at their K roots
give it everywhere, and the error falls off geometrically with K. What is known of the places, a matrix, is
made once for a detector and serves every pattern.
"""

import math

import torch
from torch import Tensor


def even_nodes(count: int) -> Tensor:
    """(K,) positive roots of the polynomial of order 2 K, largest first, float64."""
    return torch.cos((2 * torch.arange(count, dtype=torch.float64) + 1) * (math.pi / (4 * count)))


def even_matrix(x: Tensor, count: int) -> Tensor:
    """(..., K) weights of the values at `even_nodes` in that at x, from -1 to 1; in x's dtype."""
    return even_polynomials(x, count) @ _transform(count).to(x)


def even_polynomials(x: Tensor, count: int) -> Tensor:
    """(..., K) T_0, T_2, ... T_{2 K - 2} at x, by their recurrence in T_2."""
    twice = 4 * x.square() - 2
    terms = [torch.ones_like(x), 0.5 * twice]
    while len(terms) < count:
        terms.append(twice * terms[-1] - terms[-2])
    return torch.stack(terms[:count], -1)


def _transform(count: int) -> Tensor:
    """(K, K) from coefficients' index to nodes: coefficients are its product with values."""
    order = 2 * torch.arange(count, dtype=torch.float64)
    angle = (2 * torch.arange(count, dtype=torch.float64) + 1) * (math.pi / (4 * count))
    return torch.cos(order[:, None] * angle) * torch.where(order > 0, 2.0, 1.0)[:, None] / count


def nodes(count: int) -> Tensor:
    """(K,) roots of the polynomial of order K, largest first, float64."""
    return torch.cos((2 * torch.arange(count, dtype=torch.float64) + 1) * (math.pi / (2 * count)))


def matrix(x: Tensor, count: int) -> Tensor:
    """(..., K) weights of the values at `nodes` in that at x, from -1 to 1, of any smooth function."""
    order = torch.arange(count, dtype=torch.float64)
    angle = (2 * order + 1) * (math.pi / (2 * count))
    transform = torch.cos(order[:, None] * angle) * torch.where(order > 0, 2.0, 1.0)[:, None] / count
    terms = [torch.ones_like(x), x]
    while len(terms) < count:
        terms.append(2 * x * terms[-1] - terms[-2])
    return torch.stack(terms[:count], -1) @ transform.to(x)


def enough(bandwidth: float) -> int:
    """Polynomials that an entire function with phases up to `bandwidth` at the ends of [-1, 1] takes: 1e-6.

    Even functions take half of them.
    """
    return math.ceil(bandwidth + 4 * bandwidth ** (1 / 3) + 6)
