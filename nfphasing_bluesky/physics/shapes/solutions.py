"""What real solutions have beyond ideal bodies.

Molecules are not uniform: their density fluctuates, a hydration layer covers them, loops move. And solutions
are rarely pure: a trace of dimers or aggregates lifts I(q) at the smallest q. A prior of uniform, pure bodies
would be too sure of Rg and D_max.
"""

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.shapes.pair_distance import coefficients_from_p, p_from_coefficients

FLUCTUATION = 0.4
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


def loose_aggregates(kappa: Tensor) -> Tensor:
    """I / I(0) of random aggregates, (1 + (q xi)^2)^-2 with correlation length xi = 0.173 L.

    Debye, Anderson and Brumberger, J. Appl. Phys. 28, 679 (1957). Rg = 6^0.5 xi = 0.42 L, that of an open
    body of extent L.

    Args:
        kappa: q L, any shape.

    Returns:
        The curve, in the shape of kappa.
    """
    return (1 + 0.03 * kappa.square()).square().reciprocal()
