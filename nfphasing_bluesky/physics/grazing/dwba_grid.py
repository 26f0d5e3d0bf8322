"""Scattering of particles on grids of exit angles and lengths of q in the plane, each sample its own grid.

The scattering of isotropic samples depends on nothing else, so that frames that were summed over such a grid
need no interpolation: rows are illumination, columns are piled discs (`dwba_amplitudes`), and between both is
one matrix product.

Dimension letters: N samples, A levels, S sizes, K lengths of q_parallel.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.grazing.form_factors import Bodies
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
from nfphasing_bluesky.physics.phasors import phasor


class Population(NamedTuple):
    """Particles of S sizes in each of N samples.

    Attributes:
        bodies: of each size.
        share: (N, S) of all particles, 1 in all.
        base: (N, S) depth of their bases below the upper edge of their layer, of the medium below the
            surface, angstrom.
    """

    bodies: Bodies
    share: Tensor
    base: Tensor


def grid_square(particles: Population, light: Tensor, piled: Tensor) -> Tensor:
    """(N, A, K) <|F|^2>, angstrom^6; see `grid_intensity`."""
    root = particles.share.to(piled).sqrt()[:, None, :, None]
    return _parts(light @ (piled * root).flatten(2)).unflatten(3, piled.shape[2:]).square().sum((1, 3))


def grid_intensity(
    square: Tensor, particles: Population, order: Paracrystal, light: Tensor, piled: Tensor, q: Tensor
) -> Tensor:
    """(N, A, K) intensity of one particle in its order, angstrom^6: as `dwba_particles` has it.

    Args:
        square: of `grid_square`.
        particles: of N samples.
        order: radial and coupled (`Paracrystal.coupling`).
        light: (N, 2 A, Z) of `dwba_amplitudes.illumination`.
        piled: (N, Z, S, K) of `dwba_amplitudes.piled_discs`.
        q: (N, K) 1/angstrom, in the dtype of the result.
    """
    if order.coupling is None:
        raise ValueError("order without coupling; give a coupling of 0 for none")
    share, radius = particles.share.to(q)[:, :, None], particles.bodies.radius
    excess = radius - (particles.share * radius).sum(1, keepdim=True)
    phase = (order.coupling[:, None] * excess).to(q)[..., None] * q[:, None]
    means = torch.cat([(piled * (share * c)[:, None]).sum(2) for c in (phase.cos(), phase.sin())], 2)
    # <F c> <F* c> = <Re F c>^2 + <Im F c>^2
    cosine, sine = _parts(light @ means).chunk(2, 3)
    product = torch.complex(cosine, sine).square().sum(1)
    c_square = torch.polar(share.expand_as(phase).contiguous(), 2 * phase).sum(1)
    f = phasor(*(part[:, 0] for part in order.step(q[:, None])))
    return square + 2 * (product * (f / (1 - c_square * f))[:, None]).real


def _parts(both: Tensor) -> Tensor:
    """(N, 2, A, .) real and imaginary part of (N, 2 A, .)."""
    return both.unflatten(1, (2, -1))
