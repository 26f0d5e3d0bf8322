"""Derivatives of a reflectivity by everything it depends on, in one pass up and one pass down a stack.

The amplitude R is holomorphic in the wave vectors k_j, the Fresnel coefficients r_j and the exponents of the
layers, so that one complex number for each, found from the surface down by the chain rule, gives all real
derivatives of |R|^2. With X_j = exp(2 i k_j d_j) R_j and R_{j-1} = (r + X_j) / (1 + r X_j),

    dR_{j-1}/dr = (1 - X^2) / (1 + r X)^2,   dR_{j-1}/dX = (1 - r^2) / (1 + r X)^2.

Automatic differentiation gives the same at several times the cost: it wants a copy of the stack for each
point of a curve.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.phasors import complex_exp
from nfphasing_bluesky.physics.reflectivity import (
    STEP_UNIT,
    Stack,
    lost,
    wave_vectors,
)


class Slopes(NamedTuple):
    """Reflectivity of N stacks at Q points and its derivatives.

    Attributes:
        curve: (N, Q).
        density, absorption: (N, L + 2, Q); 0 for the medium of the beam.
        thickness: (N, L, Q).
        roughness: (N, L + 1, Q).
        q: (N, Q) by the momentum transfer.
    """

    curve: Tensor
    density: Tensor
    absorption: Tensor
    thickness: Tensor
    roughness: Tensor
    q: Tensor


@torch.no_grad()
def reflectivity_slopes(stack: Stack, q_inv_angstrom: Tensor) -> Slopes:
    """Reflectivity at q (N, Q), 1/angstrom, above 0, with its derivatives by stack and q."""
    k = wave_vectors(stack, q_inv_angstrom)
    above, below = k[:, :-1], k[:, 1:]
    square = stack.roughness.square()[:, :, None]
    step = STEP_UNIT * torch.complex(stack.density.diff(dim=1), -lost(stack).diff(dim=1))[:, :, None]
    tiny = torch.finfo(stack.density.dtype).tiny
    blurred = complex_exp(-2 * above * below * square) / ((above + below).square() + tiny)
    r = step * blurred
    gain = complex_exp(2j * k[:, 1:-1] * stack.thickness[:, :, None])

    # up: X of every layer, the surface's last
    arriving = [r[:, -1]]
    into = []
    for j in range(stack.layers - 1, -1, -1):
        into.append(gain[:, j] * arriving[-1])
        arriving.append((r[:, j] + into[-1]) / (1 + r[:, j] * into[-1]))
    into.reverse()
    amplitude = arriving[-1]

    # down: what the amplitude at the surface owes to every coefficient and exponent
    by_r, by_exponent = [], []
    share = 2 * amplitude.conj()
    for j in range(stack.layers):
        pull = share / (1 + r[:, j] * into[j]).square()
        by_r.append(pull * (1 - into[j].square()))
        pull = pull * (1 - r[:, j].square())
        by_exponent.append(pull * into[j])
        share = pull * gain[:, j]
    by_r.append(share)
    owed = torch.stack(by_r, 1)

    # the difference k_j - k_{j+1} is taken from the densities, so r follows k through their sum and the blur
    part = owed * blurred
    damping = 2 * square * owed * r
    by_k = torch.zeros_like(k)
    by_k[:, :-1] += below * (2 * part - damping)
    by_k[:, 1:] -= above * (2 * part + damping)
    by_thickness = torch.zeros_like(stack.thickness[:, :, None] * q_inv_angstrom[:, None])
    if stack.layers:
        waves = torch.stack(by_exponent, 1) * 2j
        by_k[:, 1:-1] += waves * stack.thickness[:, :, None]
        by_thickness = (waves * k[:, 1:-1]).real
    by_square = by_k / (2 * k + tiny)
    density, absorption = -STEP_UNIT * by_square.real, -STEP_UNIT * by_square.imag
    density[:, 0] = absorption[:, 0] = 0.0
    return Slopes(
        amplitude.real.square() + amplitude.imag.square(),
        density,
        absorption,
        by_thickness,
        -4 * stack.roughness[:, :, None] * (owed * r * above * below).real,
        0.5 * q_inv_angstrom * by_square.sum(1).real,
    )
