"""Diffuse scattering of particles in a layer of a stack, in the distorted-wave Born approximation.

In its layer the incoming wave is T exp(i k z) + R exp(-i k z), and so is, run backwards, the outgoing one.
Their product has four terms; a particle of contrast drho against the layer scatters, per solid angle,

    |r_e drho int pi r(z)^2 [2 J1(q r) / (q r)] psi_i(z) psi_f(z) dz|^2,

which is the sum of the four terms with their form factors of complex q_z. The waves depend on the row alone
and are smooth over the height of a particle: they are computed at Z depths. What the discs add up to depends
on q_parallel alone and is projected onto those depths. Their product is a matrix product.
S. K. Sinha et al., Phys. Rev. B 38, 2297 (1988); M. Rauscher et al., Phys. Rev. B 52, 16855 (1995).

Particles of several sizes whose places do not depend on their size scatter (decoupling approximation)

    <|F|^2> + |<F>|^2 (S - 1);

with a coupling kappa of size and distance (R. Lazzari, F. Leroy and G. Renaud, Phys. Rev. B 76, 125411
(2007))

    <|F|^2> + 2 Re[<F c> <F* c> f / (1 - <c^2> f)],   c = exp(i kappa q (R - <R>)).

Dimension letters: N samples, A levels, H rows, W columns, S sizes, M discs, Z depths, K lengths
of q_parallel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.physics import chebyshev
from nfphasing_bluesky.physics.grazing.dwba_amplitudes import coupled_means, size_amplitudes, span
from nfphasing_bluesky.physics.grazing.dwba_rays import waves_in
from nfphasing_bluesky.physics.grazing.form_factors import Bodies
from nfphasing_bluesky.physics.grazing.grazing import GrazingPixels
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal, structure_factor
from nfphasing_bluesky.physics.phasors import phasor
from nfphasing_bluesky.physics.reflectivity import Fields, Stack


@dataclass(frozen=True)
class Particles:
    """One kind of particles in each of N samples.

    Args:
        bodies: of S sizes.
        share: (N, S) of all particles, 1 in all.
        density: (N,) electron density, e/angstrom^3.
        absorption: (N,) in the same unit.
        number: (N,) particles per area, 1/angstrom^2.
        layer: that they are in, all of them: 0 is the medium of the beam, over the surface.
        base: (N,), or (N, S) of each size, depth of their bases below the upper edge of the layer, of the
            medium below the surface (0 for particles on it), angstrom. A particle must not leave its layer.
        order: where they sit; None for anywhere.
    """

    bodies: Bodies
    share: Tensor
    density: Tensor
    absorption: Tensor
    number: Tensor
    layer: int
    base: Tensor
    order: Paracrystal | None = None


@dataclass(frozen=True)
class Moments:
    """What of the form factors of all sizes enters intensities, at K lengths of q.

    Args:
        square: (N, A, K) <|F|^2>.
        mean_square: (N, A, K) |<F>|^2; None without order, and with coupling.
        coupled: (N, 2, A, K) real and imaginary part of <F c> <F* c>, and
        step: (N, 2, K) those of <c^2>; None without coupling.
    """

    square: Tensor
    mean_square: Tensor | None = None
    coupled: Tensor | None = None
    step: Tensor | None = None


def check_inside(particles: Particles, stack: Stack) -> None:
    """Raise ValueError for particles that leave their layer."""
    media = stack.layers + 2
    if not 0 <= particles.layer < media:
        raise ValueError(f"particles are in layer {particles.layer}, expected 0 to {media - 1}")
    bottom, tall = span(particles.bodies, particles.base)
    slack = 1e-6 * tall + 1e-9
    if particles.layer == 0:
        if bool((bottom > slack).any()):
            raise ValueError(
                f"particles over the surface reach {float(bottom.max()):.4g} angstrom below it; give their "
                "base a depth of 0 or less"
            )
        return
    if bool((bottom - tall < -slack).any()):
        raise ValueError(
            f"particles in layer {particles.layer} reach {float((tall - bottom).max()):.4g} angstrom over "
            "its upper edge; put them deeper, or make them smaller"
        )
    if particles.layer < media - 1:
        over = bottom - stack.thickness[:, particles.layer - 1]
        if bool((over > slack).any()):
            raise ValueError(
                f"particles in layer {particles.layer} reach {float(over.max()):.4g} angstrom below its "
                "lower edge; put them higher"
            )


def particle_scattering(
    particles: Particles, stack: Stack, incoming: Fields, outgoing: Fields, pixels: GrazingPixels
) -> Tensor:
    """(N, H, W) differential cross section per area of sample and solid angle, 1 (a pure number).

    Args:
        particles: of N samples.
        stack: of N samples.
        incoming: at `pixels.incoming_q`.
        outgoing: at `pixels.outgoing_q`.
        pixels: where to.
    """
    check_inside(particles, stack)
    moments = size_moments(particles, incoming, outgoing, pixels)
    intensity = _intensity(particles, moments, pixels)
    contrast = (particles.density - stack.density[:, particles.layer]).square() + (
        particles.absorption - stack.absorption[:, particles.layer]
    ).square()
    strength = ELECTRON_RADIUS_ANGSTROM**2 * contrast * particles.number
    return strength[:, None, None].to(intensity) * intensity


def size_moments(particles: Particles, incoming: Fields, outgoing: Fields, pixels: GrazingPixels) -> Moments:
    """Moments at `pixels.q_nodes`, angstrom^6."""
    bodies, excess = particles.bodies, _coupled_excess(particles)
    turns = pixels.largest_q * float(bodies.radius.detach().max())
    lengths = chebyshev.enough(2 * (turns + pixels.largest_q * _largest(excess))) // 2 + 8
    q = pixels.q_nodes(lengths)
    waves = waves_in(incoming, particles.layer), waves_in(outgoing, particles.layer)
    amplitude = size_amplitudes(bodies, particles.base, *waves, q, pixels.dtype)
    share = particles.share.to(pixels.dtype)
    weighted = share[:, None, None, :, None] * amplitude
    square = (weighted * amplitude).sum((1, 3))
    if particles.order is None:
        return Moments(square)
    if excess is None:
        return Moments(square, weighted.sum(3).square().sum(1))
    phase = excess.to(pixels.dtype)[..., None] * q.to(pixels.dtype)
    coupled, step = coupled_means(weighted, share, phase)
    return Moments(square, None, coupled, step)


def _largest(excess: Tensor | None) -> float:
    return 0.0 if excess is None else float(excess.detach().abs().max())


def _coupled_excess(particles: Particles) -> Tensor | None:
    """(N, S) kappa (R - <R>), angstrom; None without coupling."""
    if particles.order is None or particles.order.coupling is None:
        return None
    radius = particles.bodies.radius
    mean = (particles.share * radius).sum(1, keepdim=True)
    return particles.order.coupling[:, None] * (radius - mean)


def _intensity(particles: Particles, moments: Moments, pixels: GrazingPixels) -> Tensor:
    """(N, H, W) of one particle, angstrom^6."""
    order = particles.order
    if order is None:
        return pixels.spread(moments.square[:, None])[:, 0]
    q_x, q_y = (part.to(pixels.dtype) for part in pixels.q_plane)
    q = order.q_along(q_x, q_y)
    if moments.mean_square is not None:
        parts = pixels.spread(torch.stack([moments.square, moments.mean_square], 1))
        return parts[:, 0] + parts[:, 1] * (structure_factor(order, q) - 1)
    if moments.coupled is None or moments.step is None:
        raise AssertionError("moments of ordered particles are either plain or coupled")
    step = moments.step[:, :, None].expand(-1, -1, pixels.levels, -1)
    parts = pixels.spread(torch.cat([moments.square[:, None], moments.coupled, step], 1))
    product, c_square = torch.complex(parts[:, 1], parts[:, 2]), torch.complex(parts[:, 3], parts[:, 4])
    f = phasor(*order.step(q))
    return parts[:, 0] + 2 * (product * f / (1 - c_square * f)).real
