r"""Phases and absorptions that explain holograms and are as smooth as samples are.

Gauss-Newton steps under a Gaussian prior. Letters: B holograms of H x W pixels, K maps of each. The wave
behind the object is exp(sum_k c_k x_k): one map, the phase, with c = i + beta / delta for one material, or
two, phase and absorption. Each map has the prior of `smooth_objects`, a Gaussian of spread s_k with a falling
power spectrum S(f), whatever the others are: x_k = s_k S^(1/2) z_k with z the unit normal. Each round
linearises the hologram around x and takes a few steps of conjugate gradients towards

    (1 + J^T J) dz = J^T r - z,   r = (I - I(x)) / sigma

(Nocedal and Wright, Numerical Optimization, 2006, ch. 10). Nothing is around the frame.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.imaging.smooth_objects import KNEE_PER_PX, POWER, WHITE, conjugate_gradients
from nfphasing_bluesky.physics.propagate import FreeSpace

MOST_GAIN = 1.0
"""Largest logarithm of a modulus: a phase of the wrong sign would amplify without end."""

WEAK, STRONG = 0.02, 0.1
"""Spreads over the phase's that an absorption may have before anything is known of it."""

LEAST_ABSORPTION, WIDER = 0.01, 1.5
"""Least spread that it is believed to have, and by how much more than the better estimate shows."""

LEAST_PHASE_RAD = 3e-3


def power_spectrum(shape: tuple[int, int], like: Tensor) -> Tensor:
    """(H, W // 2 + 1) S(f) of `smooth_objects`, of mean 1 over the plane, at the frequencies of rfft2."""
    rows = torch.fft.fftfreq(shape[0], dtype=like.dtype, device=like.device)[:, None]
    columns = torch.fft.fftfreq(shape[1], dtype=like.dtype, device=like.device)
    power = (rows**2 + columns**2 + KNEE_PER_PX**2) ** (-POWER / 2)
    return ((power / power.mean() + WHITE) / (1 + WHITE))[:, : shape[1] // 2 + 1]


def smooth_phase(
    holograms: Tensor,
    sigma: Tensor,
    mask: Tensor,
    fresnel_number: Tensor,
    beta_over_delta: Tensor,
    start: Tensor,
    spread: Tensor,
    *,
    rounds: int,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Move phases of one material to the maximum of their posterior.

    Args:
        holograms: (B, H, W), 1 without an object.
        sigma: (B, H, W).
        mask: (B, H, W) bool, True = do not use.
        fresnel_number: (B,).
        beta_over_delta: (B,).
        start: (B, H, W) phases, rad.
        spread: (B,) s, rad.
        rounds: linearisations.
        steps: of conjugate gradients in each.

    Returns:
        (B, H, W) phases, rad, and the hologram less that of the phase.
    """
    factors = 1j + beta_over_delta.to(holograms)[:, None]
    found, left = smooth_maps(
        holograms,
        sigma,
        mask,
        fresnel_number,
        factors,
        start[:, None],
        spread[:, None],
        rounds=rounds,
        steps=steps,
    )
    return found[:, 0], left


class SmoothTransmission(NamedTuple):
    """Phase and absorption that explain B holograms.

    Args:
        best: (B, 2, H, W) phase, rad, and absorption.
        left: (B, H, W) the hologram less that of the best.
        strong: (B, 2, H, W) both, if absorption is not much weaker than phase.
    """

    best: Tensor
    left: Tensor
    strong: Tensor


def smooth_phase_and_absorption(
    holograms: Tensor,
    sigma: Tensor,
    mask: Tensor,
    fresnel_number: Tensor,
    start: Tensor,
    spread: Tensor,
    *,
    rounds: int,
    steps: int,
) -> SmoothTransmission:
    """Move phases and absorptions, each on its own, to the maximum of their posterior.

    A hologram has one number a pixel and u has two, so much hangs on how strong the absorption is believed to
    be, and on where one begins: what an absorption does to low frequencies takes an enormous phase. One
    estimate believes it to be weak and begins at a phase, one believes it to be strong and begins at
    nothing. The one of more evidence goes on, with the spreads that it shows.

    Args:
        holograms: (B, H, W), 1 without an object.
        sigma: (B, H, W).
        mask: (B, H, W) bool, True = do not use.
        fresnel_number: (B,).
        start: (B, H, W) phases, rad, that explain holograms of a pure phase.
        spread: (B,) of the phase, rad.
        rounds: linearisations of each estimate.
        steps: of conjugate gradients in each round.
    """
    factors = torch.tensor([1j, -1.0], dtype=holograms.dtype.to_complex(), device=holograms.device)
    seen = (holograms, sigma, mask, fresnel_number, factors.expand(len(holograms), 2))
    nothing = torch.zeros_like(start)
    found, costs = [], []
    for belief, begin in ((WEAK, start), (STRONG, nothing)):
        spreads = torch.stack([spread, belief * spread], 1)
        maps, left = smooth_maps(*seen, torch.stack([begin, nothing], 1), spreads, rounds=rounds, steps=steps)
        found.append(maps)
        costs.append(_cost(maps, left, spreads, sigma, mask, fresnel_number))
    weak, strong = found
    best = torch.where((costs[0] <= costs[1])[:, None, None, None], weak, strong)
    shown = best.square().mean((2, 3)).sqrt()
    phase = shown[:, 0].clamp_min(LEAST_PHASE_RAD)
    absorption = torch.maximum(WIDER * shown[:, 1], LEAST_ABSORPTION * phase)
    best, left = smooth_maps(*seen, best, torch.stack([phase, absorption], 1), rounds=rounds, steps=steps)
    return SmoothTransmission(best, left, strong)


def _cost(maps: Tensor, left: Tensor, spread: Tensor, sigma: Tensor, mask: Tensor, number: Tensor) -> Tensor:
    """(B,) minus twice the logarithm of the evidence of spreads (B, 2) at their maps (B, 2, H, W).

    The determinant is that of a weak object without edges, whose frequencies do not mix: there phase and
    absorption show as 2 sin(chi) and 2 cos(chi), chi = pi f^2 / Fr.
    """
    shape = (left.shape[1], left.shape[2])
    spectrum, weight = power_spectrum(shape, left), torch.where(mask, 0.0, 1 / sigma)
    z = torch.fft.rfft2(maps / spread[:, :, None, None]) / spectrum.sqrt()
    z = torch.fft.irfft2(z, s=shape)
    misfit = (weight * left).square().sum((1, 2)) + z.square().sum((1, 2, 3))
    rows = torch.fft.fftfreq(shape[0], dtype=left.dtype, device=left.device)[:, None]
    columns = torch.fft.rfftfreq(shape[1], dtype=left.dtype, device=left.device)
    chi = torch.pi * (rows**2 + columns**2) / number.to(left)[:, None, None]
    one, other = (spread[:, k, None, None].square() for k in (0, 1))
    known = 4 * spectrum * (one * chi.sin().square() + other * chi.cos().square())
    gain = torch.log1p(known * weight.square().mean((1, 2))[:, None, None])
    # a half plane: all but its first column, and its last of an even width, stand for two
    twice = torch.full_like(gain[0, 0], 2.0)
    twice[0] = 1.0
    if shape[1] % 2 == 0:
        twice[-1] = 1.0
    return misfit + (gain * twice).sum((1, 2))


def smooth_maps(
    holograms: Tensor,
    sigma: Tensor,
    mask: Tensor,
    fresnel_number: Tensor,
    factors: Tensor,
    start: Tensor,
    spread: Tensor,
    *,
    rounds: int,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Move maps x to the maximum of their posterior.

    Args:
        holograms: (B, H, W), 1 without an object.
        sigma: (B, H, W).
        mask: (B, H, W) bool, True = do not use.
        fresnel_number: (B,).
        factors: (B, K) complex c_k.
        start: (B, K, H, W).
        spread: (B, K) s_k.
        rounds: linearisations.
        steps: of conjugate gradients in each.

    Returns:
        (B, K, H, W) maps and the hologram less theirs.
    """
    shape = (holograms.shape[1], holograms.shape[2])
    root, s = power_spectrum(shape, holograms).sqrt(), spread[:, :, None, None]
    free_space = FreeSpace(shape, fresnel_number, holograms + 0j)
    c = factors[:, :, None, None]
    weight = torch.where(mask, 0.0, 1 / sigma)

    def filtered(x: Tensor, transfer: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=shape)

    def at(z: Tensor) -> tuple[Tensor, Tensor]:
        exponent = (c * (s * filtered(z, root))).sum(1)
        wave = torch.polar(exponent.real.clamp_max(MOST_GAIN).exp(), exponent.imag)
        return wave, 1 + free_space(wave - 1)

    z = filtered(start / s, 1 / root)
    for _ in range(rounds):
        wave, there = at(z)
        left = holograms - there.abs().square()
        slope, turned = 2 * weight * there, c * wave[:, None]

        def back(residual: Tensor, slope: Tensor = slope, turned: Tensor = turned) -> Tensor:
            heard = free_space.adjoint(slope * residual)
            return s * filtered((turned.conj() * heard[:, None]).real, root)

        def normal(v: Tensor, slope: Tensor = slope, turned: Tensor = turned) -> Tensor:
            moved = free_space((turned * (s * filtered(v, root))).sum(1))
            return v + back((slope.conj() * moved).real)  # noqa: B023

        z = z + conjugate_gradients(normal, back(weight * left) - z, steps)
    _, there = at(z)
    return s * filtered(z, root), holograms - there.abs().square()
