"""Diffuse scattering of rough interfaces, in the distorted-wave Born approximation.

An interface j of electron density step drho_j scatters r_e drho_j s_j with s_j the product of the incoming
and the outgoing wave at it: of both from above over the part of the profile that is above, and of both from
below over the rest, an error function of standard deviation sigma_j,

    s_j = sum_terms T_terms,above h(q_z sigma_j) + T_terms,below h(-q_z sigma_j),   h(x) = w(x / 2^(1/2)) / 2,

w the Faddeeva function. Without roughness both waves are continuous and s_j is their product. The interfaces
are self-affine with Hurst exponent H and lateral correlation length xi,

    P_j(q) = 4 pi H sigma^2 xi^2 / (1 + q^2 xi^2)^(1 + H),

normalised to int P d^2q / (2 pi)^2 = sigma^2, and heights of two of them are correlated as
exp(-|z_j - z_k| / xi_v) at each q:

    sum_jk r_e^2 drho_j drho_k* s_j s_k* (P_j P_k)^(1/2) exp(-|z_j - z_k| / xi_v).

S. K. Sinha et al., Phys. Rev. B 38, 2297 (1988); J.-P. Schlomka et al., Phys. Rev. B 51, 2311 (1995); G.
Palasantzas, Phys. Rev. B 48, 14472 (1993); Z. H. Ming et al., Phys. Rev. B 47, 16373 (1993).

Dimension letters: N samples, L layers, J = L + 1 interfaces, A levels, H rows, W columns, K lengths of
q_parallel.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.physics.grazing.faddeeva import faddeeva
from nfphasing_bluesky.physics.grazing.grazing import GrazingPixels, wave_up
from nfphasing_bluesky.physics.layers.depth_profile import interface_depths
from nfphasing_bluesky.physics.reflectivity import Fields, Stack

_LENGTHS = 48


@dataclass(frozen=True)
class Roughness:
    """Lateral shape of the interfaces of N stacks; the heights' standard deviation is the stack's roughness.

    Args:
        hurst: (N, L + 1) Hurst exponent of each interface, over 0, at most 1: large for smooth hills.
        lateral: (N, L + 1) lateral correlation length, angstrom.
        vertical: (N,) depth over which interfaces follow one another, angstrom; 0 for not at all.
    """

    hurst: Tensor
    lateral: Tensor
    vertical: Tensor


def spectral_density(sigma: Tensor, hurst: Tensor, lateral: Tensor, q: Tensor) -> Tensor:
    """P(q) of self-affine interfaces, angstrom^4 for lengths in angstrom; arguments broadcast."""
    return (
        (4 * math.pi)
        * hurst
        * (sigma * lateral).square()
        * torch.exp(-(1 + hurst) * torch.log1p((q * lateral).square()))
    )


def roughness_within(sigma: Tensor, hurst: Tensor, lateral: Tensor, q_max: float) -> Tensor:
    """Standard deviation of the heights that waves up to q_max make: the root of int P d^2q / (2 pi)^2."""
    return sigma * (1 - torch.exp(-hurst * torch.log1p((q_max * lateral).square()))).sqrt()


def roughness_scattering(
    roughness: Roughness, stack: Stack, incoming: Fields, outgoing: Fields, pixels: GrazingPixels
) -> Tensor:
    """(N, H, W) differential cross section per area of sample and solid angle, 1 (a pure number).

    Args:
        roughness: of N samples.
        stack: of N samples.
        incoming: at `pixels.incoming_q`.
        outgoing: at `pixels.outgoing_q`.
        pixels: where to.
    """
    at_nodes = roughness_on_grid(roughness, stack, incoming, outgoing, pixels.log_q_nodes(_LENGTHS))
    return pixels.spread_logarithm(at_nodes.to(pixels.dtype))


def roughness_on_grid(
    roughness: Roughness, stack: Stack, incoming: Fields, outgoing: Fields, q: Tensor
) -> Tensor:
    """(N, A, K) the same at all pairs of levels and lengths of q.

    Args:
        roughness: of N samples.
        stack: of N samples.
        incoming: at the incidence angle.
        outgoing: at A levels.
        q: (K,) lengths of q in the plane, or (N, 1, K) of each sample its own, 1/angstrom.
    """
    interfaces = stack.layers + 1
    if roughness.hurst.shape[1] != interfaces or roughness.lateral.shape[1] != interfaces:
        raise ValueError(
            f"hurst and lateral have shapes {tuple(roughness.hurst.shape)} and "
            f"{tuple(roughness.lateral.shape)}, expected (N, {interfaces}) for {stack.layers} layers"
        )
    amplitude = interface_amplitudes(stack, incoming, outgoing)
    j, k = torch.triu_indices(interfaces, interfaces, device=amplitude.device)
    twice = torch.where(j == k, 1.0, 2.0).double()
    pairs = (amplitude[:, j] * amplitude[:, k].conj()).real * (twice * _kinship(roughness, stack)[:, j, k])[
        ..., None
    ]
    root = spectral_density(
        stack.roughness.double()[..., None],
        roughness.hurst.double()[..., None],
        roughness.lateral.double()[..., None],
        q,
    ).sqrt()
    return pairs.transpose(1, 2) @ (root[:, j] * root[:, k])


def _kinship(roughness: Roughness, stack: Stack) -> Tensor:
    """(N, J, J) correlation of the heights of two interfaces."""
    depth = interface_depths(stack).double()
    apart = (depth[:, :, None] - depth[:, None]).abs()
    return torch.exp(-apart / roughness.vertical.double().clamp_min(1e-9)[:, None, None])


def interface_amplitudes(stack: Stack, incoming: Fields, outgoing: Fields) -> Tensor:
    """(N, J, A) complex r_e drho_j s_j, 1/angstrom^2."""
    sigma = stack.roughness.double()[..., None]
    above = [_at_lower_edge(stack, wave) for wave in (incoming, outgoing)]
    below = [_at_upper_edge(wave) for wave in (incoming, outgoing)]
    both = _smoothed(above[0], above[1], sigma) + _smoothed(below[0], below[1], -sigma)
    step = torch.complex(stack.density, -stack.absorption).diff(dim=1)[..., None]
    return ELECTRON_RADIUS_ANGSTROM * step * both


class _Edge(NamedTuple):
    """Waves at one edge of the layers, (N, J, Q) each."""

    down: Tensor
    up: Tensor
    wave_vector: Tensor


def _at_lower_edge(stack: Stack, wave: Fields) -> _Edge:
    """Of every layer over an interface."""
    thickness = torch.nn.functional.pad(stack.thickness, (1, 0))[..., None]
    k = wave.wave_vector[:, :-1]
    phase = torch.exp(1j * k * thickness)
    return _Edge(wave.transmitted[:, :-1] * phase, wave_up(wave.reflected[:, :-1], phase), k)


def _at_upper_edge(wave: Fields) -> _Edge:
    """Of every layer under an interface."""
    return _Edge(wave.transmitted[:, 1:], wave.reflected[:, 1:], wave.wave_vector[:, 1:])


def _smoothed(one: _Edge, other: _Edge, sigma: Tensor) -> Tensor:
    """Sum of the four products of down and up waves, each with h(q_z sigma) of its own q_z."""
    forth, back = _shares((one.wave_vector + other.wave_vector) * sigma)
    across, along = _shares((one.wave_vector - other.wave_vector) * sigma)
    return one.down * (other.down * back + other.up * along) + one.up * (
        other.down * across + other.up * forth
    )


def _shares(x: Tensor) -> tuple[Tensor, Tensor]:
    """h(x) and h(-x), whose sum is exp(-x^2 / 2)."""
    share = 0.5 * faddeeva(x * math.sqrt(0.5))
    return share, torch.exp(-0.5 * x.square()) - share
