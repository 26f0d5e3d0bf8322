"""Amplitudes of bodies of several sizes, row by row of exit angles, column by column of q in the plane.

Waves depend on the row alone and are smooth over the height of a particle: they are computed at Z depths.
What the discs of a body add up to depends on q_parallel alone and is projected onto those depths. Their
product is a matrix product (`dwba_particles` has the equations).

Dimension letters: N samples, A levels, S sizes, M discs, Z depths, K lengths of q_parallel.
"""

import math

import torch
from torch import Tensor

from nfphasing_bluesky.physics import chebyshev
from nfphasing_bluesky.physics.grazing.dwba_rays import Waves
from nfphasing_bluesky.physics.grazing.form_factors import Bodies, quadrature
from nfphasing_bluesky.physics.grazing.grazing import wave_up


def span(bodies: Bodies, base: Tensor) -> tuple[Tensor, Tensor]:
    """Depth (N,) of the lowest point of bodies of all sizes, and the height (N,) from there to the highest.

    Args:
        bodies: of N samples.
        base: (N,), or (N, S) of each size, depth of their bases below the upper edge of their layer.
    """
    bases = _of_sizes(base)
    bottom = bases.amax(1)
    return bottom, bottom - (bases - bodies.height).amin(1)


def _of_sizes(base: Tensor) -> Tensor:
    return base[:, None] if base.ndim == 1 else base


def size_amplitudes(
    bodies: Bodies, base: Tensor, incoming: Waves, outgoing: Waves, q: Tensor, dtype: torch.dtype
) -> Tensor:
    """(N, 2, A, S, K) real and imaginary part of the amplitude of each size, angstrom^3.

    Args:
        bodies: of N samples.
        base: (N,) or (N, S), as of `span`.
        incoming: waves of (N, 1) in the layer.
        outgoing: of (N, A).
        q: (K,) of all samples, or (N, 1, 1, K), 1/angstrom.
        dtype: of the matrix product, and of the result.
    """
    depths, discs = needed(bodies, base, incoming, outgoing, q)
    light = illumination(bodies, base, incoming, outgoing, depths).to(dtype)
    piled = piled_discs(bodies, base, q, depths, discs, torch.float64).to(dtype)
    return (light @ piled.flatten(2)).unflatten(2, piled.shape[2:]).unflatten(1, (2, -1))


def needed(bodies: Bodies, base: Tensor, incoming: Waves, outgoing: Waves, q: Tensor) -> tuple[int, int]:
    """Depths and discs that resolve waves and bodies of all samples."""
    largest_k = sum(float(wave.k.detach().abs().max()) for wave in (incoming, outgoing))
    depths = chebyshev.enough(0.5 * float(span(bodies, base)[1].detach().max()) * largest_k)
    turns = float(q.detach().max()) * float(bodies.radius.detach().max())
    return depths, math.ceil(0.5 * (depths + chebyshev.enough(turns))) + 2


def illumination(bodies: Bodies, base: Tensor, incoming: Waves, outgoing: Waves, depths: int) -> Tensor:
    """(N, 2 A, Z) psi_i psi_f at the depths that the bodies span, real over imaginary part."""
    bottom, tall = (v.double()[:, None] for v in span(bodies, base))
    z = bottom - 0.5 * (1 + chebyshev.nodes(depths).to(tall.device)) * tall
    product = _wave(incoming, z) * _wave(outgoing, z)
    return torch.cat([product.real, product.imag], 1)


def _wave(waves: Waves, z: Tensor) -> Tensor:
    """(N, Q, Z) of both waves at depths z (N, Z) below the upper edge."""
    down = torch.exp(1j * waves.k[:, :, None] * z[:, None])
    return waves.down[:, :, None] * down + wave_up(waves.up[:, :, None], down)


def piled_discs(
    bodies: Bodies, base: Tensor, q: Tensor, depths: int, discs: int, dtype: torch.dtype
) -> Tensor:
    """(N, Z, S, K) what the discs of a body add up to at each depth, angstrom^3, computed in `dtype`."""
    place, weight = (v.to(bodies.radius.device) for v in quadrature(discs))
    height = bodies.height[..., None].double()
    bottom, tall = (v.double()[:, None, None] for v in span(bodies, base))
    # all bodies together span -1 to 1 of the depths, from the lowest point up
    over = bottom - _of_sizes(base).double()[..., None] + place * height
    onto = chebyshev.matrix(2 * over / tall - 1, depths) * (weight * height)[..., None]
    return (onto.to(dtype).transpose(2, 3) @ bodies.discs(place, q, dtype)).transpose(1, 2)


def coupled_means(weighted: Tensor, share: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    """<F c> <F* c> and <c^2>, real and imaginary parts; <F c> <F* c> = <Re F c>^2 + <Im F c>^2.

    Args:
        weighted: (N, 2, A, S, K) F of each size times its share.
        share: (N, S).
        phase: (N, S, K) of c.

    Returns:
        (N, 2, A, K) and (N, 2, K).
    """
    cosine, sine = ((weighted * part[:, None, None]).sum(3) for part in (phase.cos(), phase.sin()))
    product = (torch.complex(cosine, sine).square()).sum(1)
    step = torch.polar(share[..., None].expand_as(phase).contiguous(), 2 * phase).sum(1)
    return torch.view_as_real(product).movedim(-1, 1), torch.view_as_real(step).movedim(-1, 1)
