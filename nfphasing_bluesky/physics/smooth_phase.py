r"""Phases that explain holograms and are as smooth as samples are: Gauss-Newton steps under a Gaussian prior.

Letters: B holograms of H x W pixels. The phase of one material, phi, has the prior of `smooth_objects`, a
Gaussian of spread s with a falling power spectrum S(f); phi = s S^(1/2) z with z the unit normal. Each round
linearises the hologram around phi and takes a few steps of conjugate gradients towards

    (1 + J^T J) dz = J^T r - z,   r = (I - I(phi)) / sigma

(Nocedal and Wright, Numerical Optimization, 2006, ch. 10). Nothing is around the frame.
"""

import torch
from torch import Tensor

from nfphasing_bluesky.physics.propagate import fresnel_matrix
from nfphasing_bluesky.physics.smooth_objects import KNEE_PER_PX, POWER, WHITE, conjugate_gradients

MOST_GAIN = 1.0
"""Largest logarithm of a modulus: a phase of the wrong sign would amplify without end."""


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
    """Move phases to the maximum of their posterior.

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
    shape = (holograms.shape[1], holograms.shape[2])
    root, s = power_spectrum(shape, holograms).sqrt(), spread[:, None, None]
    complex_ = holograms.dtype.to_complex()
    rows, columns = (fresnel_matrix(n, fresnel_number).to(complex_) for n in shape)
    ratio = beta_over_delta.to(holograms)[:, None, None]
    weight = torch.where(mask, 0.0, 1 / sigma)

    def filtered(x: Tensor, transfer: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=shape)

    def at(z: Tensor) -> tuple[Tensor, Tensor]:
        phase = s * filtered(z, root)
        wave = torch.polar((ratio * phase).clamp_max(MOST_GAIN).exp(), phase)
        return wave, 1 + rows @ (wave - 1) @ columns.mT

    z = filtered(start / s, 1 / root)
    for _ in range(rounds):
        wave, there = at(z)
        left = holograms - there.abs().square()
        slope, turned = 2 * weight * there, (1j + ratio) * wave

        def back(residual: Tensor, slope: Tensor = slope, turned: Tensor = turned) -> Tensor:
            heard = rows.mH @ (slope * residual) @ columns.conj()
            return s * filtered((turned.conj() * heard).real, root)

        def normal(v: Tensor, slope: Tensor = slope, turned: Tensor = turned) -> Tensor:
            moved = rows @ (turned * (s * filtered(v, root))) @ columns.mT
            return v + back((slope.conj() * moved).real)  # noqa: B023

        z = z + conjugate_gradients(normal, back(weight * left) - z, steps)
    _, there = at(z)
    return s * filtered(z, root), holograms - there.abs().square()
