"""Core-shell spheres and their exact derivatives by every parameter, for fits of very many at once.

The averages are those of `core_shell`, written with powers that their derivatives lead to. With kappa = q R,
delta = q d, t and s the sizes of core and shell over their means,

    W_m = <(-i kappa t)^m exp(2i kappa t)>,  X_m = <(-i delta s)^m exp(i delta s)>,  Y_m with exp(2i delta s),
    kappa dW_m/dkappa = m W_m - 2 W_(m+1),  delta dX_m/ddelta = m X_m - X_(m+1),

and <Z^2> = sum_m alpha_m W_m with coefficients linear in the X_m and Y_m.

Letters: N particles, Q points; complex128 inside, because the sums cancel. Good to 1e-5 of the particle with
the same contrast throughout at q (R + d) > 0.03, and to 1e-4 below, where the curve is taken as level.
"""

import torch
from torch import Tensor

from nfphasing_bluesky.physics.kept import kept
from nfphasing_bluesky.physics.particles import schulz

LEVEL_BELOW = 0.02
"""q (R + d) below which the curve doesn't change."""

AT_ONCE = 8192
"""Values in a temporary: several of them stay in a processor's cache."""

SERIES_BELOW = 0.02
SERIES = 7


def core_shell_slopes(
    q: Tensor,
    core: Tensor,
    shell: Tensor,
    ratio: Tensor,
    core_p: Tensor,
    shell_p: Tensor,
) -> tuple[Tensor, Tensor]:
    """Intensity (N, Q) and its derivatives (N, 5, Q), float64.

    The intensity is <F^2> over the square of what the particle would scatter at q = 0 if core and shell
    counted alike in sign, R^3 + |ratio| ((R + d)^3 - R^3). The derivatives are those by log(core),
    log(shell), ratio, core_p and shell_p.

    Args:
        q: (N, Q) 1/angstrom.
        core: (N,) mean radius of the core, angstrom.
        shell: (N,) mean thickness of the shell, angstrom.
        ratio: (N,) contrast of the shell over that of the core.
        core_p: (N,) relative standard deviation of the core's radius.
        shell_p: (N,) that of the shell's thickness.
    """
    parameters = [p.double()[:, None] for p in (core, shell, ratio, core_p, shell_p)]
    rows = max(1, AT_ONCE // q.shape[1])
    parts = zip(q.split(rows), *(p.split(rows) for p in parameters), strict=True)
    curves, slopes = zip(*(_slopes(q.double(), *mine) for q, *mine in parts), strict=True)
    return torch.cat(curves), torch.cat(slopes)


def _powers(x: Tensor, variance: Tensor, waves: Tensor) -> Tensor:
    """Averages <(-i x t)^m exp(i waves x t)> over Schulz distributions of unit mean, and their derivatives.

    Args:
        x: (F, N, Q), of F functions.
        variance: (F, N, 1).
        waves: (F, 1, 1).

    Returns:
        (3, M, F, N, Q): the values, derivatives by log(x), and by the variance, for m = 0, 1, 2.
    """
    z = waves * x * variance
    logarithm = torch.complex(0.5 * torch.log1p(z.square()), -torch.atan(z))
    pole = (-logarithm).exp()
    made = [(logarithm / -variance).exp()]
    turned = pole * -1j * x
    for m in range(3):
        made.append(made[m] * turned if m == 0 else made[m] * turned * (1 + m * variance))
    every = torch.stack(made)
    order = torch.arange(3.0, dtype=x.dtype, device=x.device).view(3, 1, 1, 1)
    value = every[:3]
    by_size = order * value - waves * every[1:]
    # d log / dvariance of M_m (1 - i z)^-(1/variance + m), M_m = prod_j<m (1 + j variance)
    grown = order * (order - 1) / 2 / (1 + variance)
    by_variance = value * (_narrow(z, variance, logarithm, pole) - order * (waves * turned) + grown)
    return torch.stack([value, by_size, by_variance])


def _narrow(z: Tensor, variance: Tensor, logarithm: Tensor, pole: Tensor) -> Tensor:
    """(log(1 - w) + w / (1 - w)) / variance^2 for w = i z, given log(1 - w) and 1 / (1 - w)."""
    small = z < SERIES_BELOW
    w = 1j * z
    closed = logarithm + w * pole
    if small.any():
        series = torch.full_like(w, (SERIES - 1) / SERIES)
        for k in range(SERIES - 1, 1, -1):
            series = series * w + (k - 1) / k
        closed = torch.where(small, series * w * w, closed)
    return closed / variance.square()


@kept(8)
def _mixing(device: torch.device) -> Tensor:
    """(2, 1, 3, 3) X_m, and Y_m, to what they add to the coefficients of W_0, W_1, W_2.

    X for a weight of both amplitudes, Y for one of the whole. The core's own weight a adds a, 2 a, a.
    """
    of_x, of_y = [[2, 2, 0], [4, 2, 0], [2, 0, 0]], [[1, 2, 1], [2, 2, 0], [1, 0, 0]]
    return torch.tensor([of_x, of_y], dtype=torch.complex128, device=device)[:, None]


def _slopes(
    q: Tensor, core: Tensor, shell: Tensor, ratio: Tensor, p: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    outer = core + shell
    q = torch.maximum(q, LEVEL_BELOW / outer)
    kappa, delta = q * core, q * shell
    v, s = schulz.relative_variance(p), schulz.relative_variance(u)
    waves = torch.tensor([2.0, 1.0, 2.0], dtype=q.dtype, device=q.device).view(3, 1, 1)
    made = _powers(torch.stack([kappa, delta, delta]), torch.stack([v, s, s]), waves)
    w, x = made[:, :, 0], made[:, :, 1]
    inner = 1 - ratio
    a, b, c = inner.square(), inner * ratio, ratio.square()
    own = torch.tensor([1.0, 2.0, 1.0], dtype=q.dtype, device=q.device).view(3, 1, 1)
    mixed = _mixing(q.device) @ made[:, :, 1:].movedim(2, 0).flatten(3)
    both, whole = mixed.unflatten(3, q.shape)
    alpha = b * both + c * whole
    alpha[0] += own * a
    of_ratio = (1 - 2 * ratio) * both[0] + 2 * ratio * whole[0] - own * (2 * inner)
    swing, by_core, by_core_variance = (alpha[:1] * w).sum(1).real
    by_shell, by_shell_variance = (alpha[1:] * w[:1]).sum(1).real
    by_ratio = (of_ratio * w[0]).sum(0).real

    # |Z|^2, which has no W in it: of core, both and whole
    m2, n2, area = kappa.square() * (1 + v), delta.square() * (1 + s), kappa * delta
    crossed = 2 * ((1 + m2) * x[:, 0].real + x[:, 1].real - kappa * x[:, 1].imag)
    of_core, of_both, of_whole = 1 + m2, crossed[0], 1 + n2 + 2 * area + m2
    steady = a * of_core + b * of_both + c * of_whole
    spread = a + 2 * b * x[0, 0].real + c
    derivatives = [
        2 * m2 * spread - 2 * b * kappa * x[0, 1].imag + 2 * c * area - by_core,
        b * crossed[1] + 2 * c * (n2 + area) - by_shell,
        (1 - 2 * ratio) * of_both + 2 * (ratio * of_whole - inner * of_core) - by_ratio,
        2 * p * (kappa.square() * spread - by_core_variance),
        2 * u * (b * crossed[2] + c * delta.square() - by_shell_variance),
    ]
    # over the forward amplitude, had core and shell the same sign
    core3, outer2 = core**3, outer.square()
    total = core3 + ratio.abs() * (outer2 * outer - core3)
    growth = torch.stack(
        [
            3 * core3 + 3 * ratio.abs() * (core * outer2 - core3),
            3 * ratio.abs() * shell * outer2,
            ratio.sign() * (outer2 * outer - core3),
        ],
        dim=1,
    )
    unit = 4.5 / (q.pow(3) * total).square()
    curve = unit * (steady - swing)
    slopes = unit[:, None] * torch.stack(derivatives, 1)
    slopes[:, :3] -= curve[:, None] * (2 * growth / total[:, None])
    return curve, slopes
