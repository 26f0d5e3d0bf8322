"""Averages over particle orientation by Gauss-Legendre rules whose size follows each point's need."""

from collections.abc import Callable

import torch
from scipy.special import roots_legendre
from torch import Tensor

from nfphasing_bluesky.physics.kept import kept

_RULES = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 1536)
_DIGITS = 9.0
"""-log of the tolerance, over 4: rho^-4n at 9 is below 1e-15, which deep minima of oblate particles need."""
_DAMPED, _DAMPED_DIGITS = 2.0, 3.0
_CHUNK = 1 << 17

Kernel = Callable[[Tensor, Tensor], Tensor]
"""(index (N,), u (n,)) -> (N, n) integrand of the points at index, u = cosine to the particle's axis."""


@kept(64)
def half_gauss_legendre(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights (n,) on [0, 1] of the 2n-point rule on [-1, 1], for integrands even in u."""
    u, w = roots_legendre(2 * n)
    return torch.as_tensor(u[n:].copy(), device=device), torch.as_tensor(w[n:].copy(), device=device)


def orientation_average(
    kernel: Kernel,
    bandwidth: Tensor,
    decay: Tensor,
    damping: Tensor | None = None,
    damped: Tensor | None = None,
) -> Tensor:
    """Integral over u in [0, 1] of an integrand even in u.

    A 2n-point rule integrates exp(i omega u) once 2n exceeds omega / 2 by some, the more the larger omega;
    the integrand of an intensity oscillates with omega = 2 bandwidth. A size average also has poles in the
    complex u plane (a Schulz average of exp(i c t) at c = -i k); a rule converges as rho^-4n, rho the sum of
    the half axes of the ellipse around [-1, 1] through the nearest pole. Where sizes spread so far that the
    oscillations have averaged out (below exp(-2 damping^2)) only a power law of the size is left.

    Args:
        kernel: integrand, see `Kernel`.
        bandwidth: (N,) largest phase of the amplitude between u = 0 and u = 1, rad.
        decay: (N,) log(rho) of the nearest pole.
        damping: (N,) smallest phase times the relative spread of the sizes; None for none.
        damped: (N,) log(rho) of the power law.

    Returns:
        (N,) averages. Beyond a bandwidth of 3,000 the largest rule is used.
    """
    bandwidth, decay = bandwidth.detach(), decay.detach().clamp(min=1e-6)
    need = torch.maximum(bandwidth / 2 + 2 + 1.6 * bandwidth.pow(1 / 3), _DIGITS / decay)
    if damping is not None and damped is not None:
        smooth = 4 + _DAMPED_DIGITS / damped.detach().clamp(min=1e-6)
        need = torch.where(damping.detach() > _DAMPED, torch.minimum(need, smooth), need)
    rules = torch.tensor(_RULES, device=need.device, dtype=need.dtype)
    bucket = torch.bucketize(need, rules).clamp(max=len(_RULES) - 1)
    order = torch.argsort(bucket, stable=True)
    counts = torch.bincount(bucket, minlength=len(_RULES)).tolist()
    parts, start = [], 0
    for n, count in zip(_RULES, counts, strict=True):
        u, w = half_gauss_legendre(n, bandwidth.device)
        step = max(1, _CHUNK // n)
        for first in range(start, start + count, step):
            index = order[first : min(first + step, start + count)]
            parts.append(kernel(index, u) @ w)
        start += count
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    return torch.cat(parts)[back]
