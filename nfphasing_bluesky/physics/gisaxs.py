"""Grazing-incidence small-angle scattering of layer stacks with rough interfaces and particles.

Rough interfaces and particles scatter independently of one another; the specular beam is not part of it.
Densities are those of `reflectivity`: electrons, their absorption in the same unit.

Dimension letters: N samples, H rows, W columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.physics.grazing.dwba_particles import Particles, particle_scattering
from nfphasing_bluesky.physics.grazing.dwba_roughness import Roughness, roughness_scattering
from nfphasing_bluesky.physics.grazing.grazing import GrazingPixels
from nfphasing_bluesky.physics.reflectivity import Stack, wave_fields


@dataclass(frozen=True)
class GrazingSample:
    """N samples.

    Args:
        stack: of layers.
        roughness: lateral shape of its interfaces, or None where they scatter nothing.
        particles: kinds of particles, each in one layer.
    """

    stack: Stack
    roughness: Roughness | None = None
    particles: tuple[Particles, ...] = ()


def scattered(sample: GrazingSample, pixels: GrazingPixels) -> Tensor:
    """(N, H, W) differential cross section per area of sample, dsigma / (A dOmega): a pure number.

    0 below the horizon. Times solid angle over sin(incidence) it is the share of the beam that a pixel
    receives. Differentiable; in `pixels.dtype`.
    """
    stack = Stack(*(getattr(sample.stack, name).double() for name in _PARTS))
    incoming = wave_fields(stack, pixels.incoming_q.expand(len(stack), -1))
    outgoing = wave_fields(stack, pixels.outgoing_q.expand(len(stack), -1))
    total = torch.zeros(len(stack), *pixels.shape, dtype=pixels.dtype, device=stack.density.device)
    if sample.roughness is not None:
        total = total + roughness_scattering(sample.roughness, stack, incoming, outgoing, pixels)
    for particles in sample.particles:
        total = total + particle_scattering(particles, stack, incoming, outgoing, pixels)
    return torch.where(pixels.above_horizon, total, 0.0)


_PARTS = ("density", "absorption", "thickness", "roughness")
