"""Scattering of spheroids in a layer of a stack along single rays, in closed form: for cuts, which are few.

`dwba_particles` piles discs and serves whole frames, where rows share their waves. A cut has some hundred
rays, each with an exit angle and a q of its own; there the form factor of a body that is even about its
middle is cheaper. With the waves T exp(i k z) + R exp(-i k z) in the layer, K = k_i + k_f and k = k_i - k_f,
a spheroid whose middle lies at depth z scatters with

    F(K) [T_i T_f exp(i K z) + R_i R_f exp(-i K z)] + F(k) [T_i R_f exp(i k z) + R_i T_f exp(-i k z)],
    F(k) = V 3 (sin t - t cos t) / t^3,   t^2 = (q r)^2 + (k h / 2)^2,

r its radius in the plane, h its height; t is complex where the layer absorbs. S. K. Sinha et al., Phys.
Rev. B 38, 2297 (1988).

Dimension letters: N samples, S sizes, M rays.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal, structure_factor
from nfphasing_bluesky.physics.phasors import phasor
from nfphasing_bluesky.physics.reflectivity import Fields

_SMALL = 0.05
"""|t|^2 below which the form factor is taken from its series: float32 has lost the difference."""


@dataclass(frozen=True)
class Spheroids:
    """Spheroids of S sizes in each of N samples, their axes upright.

    Args:
        radius: (N, S) in the plane, angstrom.
        height: (N, S) angstrom.
        share: (N, S) of all particles, 1 in all.
        middle: (N, S) depth of their middles below the upper edge of their layer, of the medium below the
            surface, angstrom.
    """

    radius: Tensor
    height: Tensor
    share: Tensor
    middle: Tensor


class Waves(NamedTuple):
    """Both waves in the layer of the particles, along M rays; the incoming one may be the same for all.

    Attributes:
        down, up: (N, M) or (N, 1) complex amplitudes T and R at the upper edge of the layer.
        k: the same shape, complex vertical wave vector, 1/angstrom.
    """

    down: Tensor
    up: Tensor
    k: Tensor


def waves_in(fields: Fields, layer: int) -> Waves:
    """Waves in one layer of a stack."""
    return Waves(fields.transmitted[:, layer], fields.reflected[:, layer], fields.wave_vector[:, layer])


class RayBasis(NamedTuple):
    """What a body scatters of two waves with a common wave vector, whatever their amplitudes are, angstrom^3.

    Attributes:
        with_re, with_im: (N, S, M) of V F(k) exp(i k z).
        against_re, against_im: of V F(k) exp(-i k z).
    """

    with_re: Tensor
    with_im: Tensor
    against_re: Tensor
    against_im: Tensor


def ray_basis(bodies: Spheroids, k_in: Tensor, k_out: Tensor, q: Tensor) -> tuple[RayBasis, RayBasis]:
    """Basis of the sum and of the difference of wave vectors.

    Args:
        bodies: of N samples.
        k_in: (N, 1) complex vertical wave vector in their layer, 1/angstrom.
        k_out: (N, M).
        q: (N, M) length of q in the plane, 1/angstrom; its dtype is that of the result.
    """
    flat = (q[:, None] * bodies.radius[:, :, None].to(q)).square()
    half = (0.5 * bodies.height[:, :, None].to(q)).square()
    middle = bodies.middle[:, :, None].to(q)
    volume = ((math.pi / 6 * 4) * bodies.radius.square() * bodies.height)[:, :, None].to(q)
    absorbs = bool((k_in.imag != 0).any() or (k_out.imag != 0).any())
    make = _absorbing_basis if absorbs else _clear_basis
    sums = (_parts(k, q) for k in (k_in + k_out, k_in - k_out))
    first, second = (make(re[:, None], im[:, None], flat, half, middle, volume) for re, im in sums)
    return first, second


def _clear_basis(
    k_re: Tensor, k_im: Tensor, flat: Tensor, half: Tensor, middle: Tensor, volume: Tensor
) -> RayBasis:
    """Over the surface nothing is absorbed, and half of the work is spared."""
    form = volume * _real_form(flat + k_re.square() * half)
    phase = k_re * middle
    real, imag = form * phase.cos(), form * phase.sin()
    return RayBasis(real, imag, real, -imag)


def _absorbing_basis(
    k_re: Tensor, k_im: Tensor, flat: Tensor, half: Tensor, middle: Tensor, volume: Tensor
) -> RayBasis:
    re, im = _form(flat + (k_re.square() - k_im.square()) * half, 2 * k_re * k_im * half)
    phase, damping = k_re * middle, (k_im * middle).clamp(-_MOST_GROWTH, _MOST_GROWTH)
    cosine, sine = phase.cos(), phase.sin()
    less = volume * torch.exp(-damping)
    more = volume * torch.exp(damping)
    there, back = re * cosine, im * sine
    turned, aside = re * sine, im * cosine
    return RayBasis(
        less * (there - back), less * (turned + aside), more * (there + back), more * (aside - turned)
    )


def lit(
    basis: tuple[RayBasis, RayBasis], incoming: Waves, outgoing: Waves, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Real and imaginary part (N, S, M) of the amplitude of each size, angstrom^3.

    Args:
        basis: of `ray_basis`.
        incoming: waves of N samples; (N, 1).
        outgoing: (N, M).
        dtype: of the result.
    """
    like = torch.empty(0, dtype=dtype)
    products = (
        (incoming.down * outgoing.down, incoming.up * outgoing.up),
        (incoming.down * outgoing.up, incoming.up * outgoing.down),
    )
    real = imag = torch.zeros((), dtype=dtype, device=incoming.k.device)
    for part, pair in zip(basis, products, strict=True):
        (a, b), (c, d) = ((v[:, None] for v in _parts(product, like)) for product in pair)
        real = real + a * part.with_re - b * part.with_im + c * part.against_re - d * part.against_im
        imag = imag + a * part.with_im + b * part.with_re + c * part.against_im + d * part.against_re
    return real, imag


def ray_amplitudes(bodies: Spheroids, incoming: Waves, outgoing: Waves, q: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part (N, S, M) of the amplitude of each size, angstrom^3.

    Args:
        bodies: of N samples.
        incoming: of N samples; (N, 1).
        outgoing: (N, M).
        q: (N, M) length of q in the plane, 1/angstrom; its dtype is that of the result.
    """
    return lit(ray_basis(bodies, incoming.k, outgoing.k, q), incoming, outgoing, q.dtype)


def _parts(value: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    return value.real.to(like.dtype), value.imag.to(like.dtype)


_MOST_GROWTH = 60.0
"""Where nothing is left of the wave that comes back, its factor would overflow."""


def _real_form(square: Tensor) -> Tensor:
    """3 (sin t - t cos t) / t^3 of real t^2."""
    small = square < _SMALL
    far = torch.where(small, 1.0, square)
    t = far.sqrt()
    value = 3 * (t.sin() - t * t.cos()) / (far * t)
    return torch.where(small, 1 - square / 10 + square.square() / 280, value)


def _form(real: Tensor, imag: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of 3 (sin t - t cos t) / t^3 from those of t^2."""
    size = torch.hypot(real, imag)
    small = size < _SMALL
    real_far, imag_far = torch.where(small, 1.0, real), torch.where(small, 0.0, imag)
    # the principal root; the function is even in t
    length = torch.hypot(real_far, imag_far)
    t_re = (0.5 * (length + real_far).clamp_min(0.0)).sqrt()
    t_im = torch.copysign((0.5 * (length - real_far).clamp_min(_TINY)).sqrt(), imag_far)
    grow = torch.exp(t_im.clamp(-_MOST_GROWTH, _MOST_GROWTH))
    shrink = grow.reciprocal()
    cosh, sinh = 0.5 * (grow + shrink), 0.5 * (grow - shrink)
    sine, cosine = t_re.sin(), t_re.cos()
    sin_re, sin_im = sine * cosh, cosine * sinh
    cos_re, cos_im = cosine * cosh, -sine * sinh
    top_re = sin_re - (t_re * cos_re - t_im * cos_im)
    top_im = sin_im - (t_re * cos_im + t_im * cos_re)
    # t^3 = t^2 t
    cube_re, cube_im = real_far * t_re - imag_far * t_im, real_far * t_im + imag_far * t_re
    scale = 3.0 / (length.square() * length)
    far_re = scale * (top_re * cube_re + top_im * cube_im)
    far_im = scale * (top_im * cube_re - top_re * cube_im)
    near_re = 1 - real / 10 + (real.square() - imag.square()) / 280
    near_im = imag * (-0.1 + real / 140)
    return torch.where(small, near_re, far_re), torch.where(small, near_im, far_im)


_TINY = 1e-24


def ray_intensity(
    bodies: Spheroids, order: Paracrystal, amplitude: tuple[Tensor, Tensor], q: Tensor
) -> Tensor:
    """(N, M) intensity of one particle in its order, angstrom^6: as `dwba_particles` has it.

    Args:
        bodies: of N samples.
        order: of the particles; with `coupling` theirs, else decoupled.
        amplitude: of `ray_amplitudes`.
        q: (N, M) length of q in the plane, 1/angstrom.
    """
    real, imag = amplitude
    share = bodies.share[:, :, None].to(q)
    square = (share * (real.square() + imag.square())).sum(1)
    if order.coupling is None:
        mean = (share * real).sum(1).square() + (share * imag).sum(1).square()
        return square + mean * (structure_factor(order, q[:, None])[:, 0] - 1)
    mean_radius = (bodies.share * bodies.radius).sum(1, keepdim=True)
    excess = (order.coupling[:, None] * (bodies.radius - mean_radius))[:, :, None].to(q)
    phase = excess * q[:, None]
    cosine, sine = phase.cos(), phase.sin()
    # <F c> <F* c> = <Re F c>^2 + <Im F c>^2
    product = sum(
        torch.complex((share * part * cosine).sum(1), (share * part * sine).sum(1)).square()
        for part in (real, imag)
    )
    c_square = torch.complex(
        (share * (cosine.square() - sine.square())).sum(1), (2 * share * cosine * sine).sum(1)
    )
    f = phasor(*(part[:, 0] for part in order.step(q[:, None])))
    return square + 2 * (product * f / (1 - c_square * f)).real
