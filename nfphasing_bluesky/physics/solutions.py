"""What p(r) of real solutions has beyond that of ideal bodies.

Molecules are not uniform: their density fluctuates, a hydration layer covers them, loops move. And solutions
are rarely pure: a trace of dimers or aggregates lifts I(q) at the smallest q and gives p(r) a faint tail. A
prior of uniform, pure bodies would be too sure of Rg and D_max.
"""

import math

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.pair_distance import coefficients_from_p, p_from_coefficients

FRACTION = (0.005, 0.25)
SIZE_RATIO = (1.0, 2.5)
FLUCTUATION = 0.12
_MODES = 6
_POINTS = 401


def with_fluctuations(coefficients: Tensor, generator: Generator) -> Tensor:
    """Multiply each p(x) by the exponential of a smooth random function of x.

    Its standard deviation is uniform between 0 and `FLUCTUATION`; it is a sum of `_MODES` cosines whose
    amplitudes fall as 1 / m.

    Args:
        coefficients: (B, K) sine coefficients of sqrt p.
        generator: of every random number, on the coefficients' device.

    Returns:
        (B, K), of unit area.
    """
    B, device = coefficients.shape[0], coefficients.device
    x = torch.linspace(0, 1, _POINTS, dtype=coefficients.dtype, device=device)
    m = torch.arange(1, _MODES + 1, dtype=coefficients.dtype, device=device)
    size = FLUCTUATION * torch.rand(B, 1, generator=generator, device=device).to(x)
    waves = torch.randn(B, _MODES, generator=generator, device=device).to(x) / m
    waves = waves * (2 / m.square().reciprocal().sum()).sqrt()
    p = p_from_coefficients(coefficients, x)
    p = p * torch.exp(size * (waves @ torch.cos(torch.pi * m[:, None] * x)))
    return coefficients_from_p(p, x, coefficients.shape[1])


def with_aggregates(coefficients: Tensor, share: float, generator: Generator) -> Tensor:
    """Mix a share of the shapes with another, larger one each.

    The larger one's share of I(0) is log-uniform in `FRACTION`, its D_max over that of the first uniform in
    `SIZE_RATIO`; x then counts from 0 to the larger D_max.

    Args:
        coefficients: (B, K) sine coefficients of sqrt p of pure bodies.
        share: of them that are mixed, 0 to 1.
        generator: of every random number, on the coefficients' device.

    Returns:
        (B, K), in the same order.
    """
    B = coefficients.shape[0]
    device = coefficients.device
    chosen = (torch.rand(B, generator=generator, device=device) < share).nonzero()[:, 0]
    other = torch.randint(B, (len(chosen),), generator=generator, device=device)
    low, high = (math.log(f) for f in FRACTION)
    fraction = torch.exp(low + (high - low) * torch.rand(len(chosen), 1, generator=generator, device=device))
    width = SIZE_RATIO[1] - SIZE_RATIO[0]
    ratio = SIZE_RATIO[0] + width * torch.rand(len(chosen), 1, generator=generator, device=device)
    x = torch.linspace(0, 1, _POINTS, dtype=coefficients.dtype, device=device)
    inner = x * ratio
    small = p_from_coefficients(coefficients[chosen], inner.clamp(max=1)) * ratio * (inner < 1)
    large = p_from_coefficients(coefficients[other], x)
    mixed = coefficients_from_p((1 - fraction) * small + fraction * large, x, coefficients.shape[1])
    return coefficients.index_copy(0, chosen, mixed)
