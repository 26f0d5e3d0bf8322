"""Smooth phases and absorptions that explain holograms: against dense solutions and against autograd."""

import pytest
import torch

from nfphasing_bluesky.physics.holography import exit_wave, hologram, homogeneous_exit_wave
from nfphasing_bluesky.physics.imaging.smooth_objects import KNEE_PER_PX, POWER, WHITE
from nfphasing_bluesky.physics.imaging.smooth_phase import (
    smooth_maps,
    smooth_phase,
    smooth_phase_and_absorption,
)

H, W = 8, 10
NUMBER = torch.tensor([0.03, 0.1], dtype=torch.float64)
RATIO = torch.tensor([0.0, 0.05], dtype=torch.float64)
SPREAD = torch.tensor([0.3, 0.05], dtype=torch.float64)


def frames(strength: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth, hologram with noise, sigma, mask."""
    generator = torch.Generator().manual_seed(seed)
    truth = -strength * torch.rand(2, H, W, dtype=torch.float64, generator=generator)
    sigma = 0.01 + 0.02 * torch.rand(2, H, W, dtype=torch.float64, generator=generator)
    clean = hologram(homogeneous_exit_wave(truth, RATIO), NUMBER)
    noise = torch.randn(2, H, W, dtype=torch.float64, generator=generator)
    return truth, clean + sigma * noise, sigma, torch.rand(2, H, W, generator=generator) < 0.1


def precision(spread: torch.Tensor) -> torch.Tensor:
    """(2, H W, H W) of the prior, written out from its spectrum by a sum over frequencies."""
    rows, columns = torch.meshgrid(torch.fft.fftfreq(H), torch.fft.fftfreq(W), indexing="ij")
    power = (rows.double() ** 2 + columns.double() ** 2 + KNEE_PER_PX**2) ** (-POWER / 2)
    power = (power / power.mean() + WHITE) / (1 + WHITE)
    basis = torch.fft.fft2(torch.eye(H * W, dtype=torch.float64).view(-1, H, W), norm="ortho").flatten(1)
    each = (basis.conj() @ (basis / power.flatten()).mT).real
    return each / spread[:, None, None] ** 2


def energy(phase: torch.Tensor, data: tuple[torch.Tensor, ...], prior: torch.Tensor) -> torch.Tensor:
    """Half of what residuals and prior cost, the sum over frames."""
    _, measured, sigma, mask = data
    left = torch.where(mask, 0.0, (measured - hologram(homogeneous_exit_wave(phase, RATIO), NUMBER)) / sigma)
    flat = phase.flatten(1)
    return (left.square().sum() + torch.einsum("bi,bij,bj->", flat, prior, flat)) / 2


def test_a_weak_phase_is_the_dense_least_squares_solution():
    data = frames(1e-4)
    _, measured, sigma, mask = data
    found, left = smooth_phase(
        measured, sigma, mask, NUMBER, RATIO, torch.zeros_like(measured), SPREAD, rounds=1, steps=200
    )
    nothing = torch.zeros_like(measured, requires_grad=True)
    gradient = torch.autograd.grad(energy(nothing, data, precision(SPREAD)), nothing)[0].flatten(1)
    jacobian = torch.autograd.functional.jacobian(
        lambda p: hologram(homogeneous_exit_wave(p, RATIO), NUMBER), torch.zeros_like(measured)
    )
    for b in range(2):
        J = jacobian[b, :, :, b].reshape(H * W, H * W)
        used = torch.where(mask[b], 0.0, 1 / sigma[b] ** 2).flatten()
        expected = torch.linalg.solve(precision(SPREAD)[b] + J.mT @ (used[:, None] * J), -gradient[b])
        torch.testing.assert_close(found[b].flatten(), expected, rtol=1e-6, atol=1e-9)
    again = hologram(homogeneous_exit_wave(found, RATIO), NUMBER)
    torch.testing.assert_close(left, measured - again)


def test_a_strong_phase_ends_where_the_gradient_vanishes():
    data, wide = frames(1.0), torch.ones(2, dtype=torch.float64)
    truth, measured, sigma, mask = data
    found, _ = smooth_phase(measured, sigma, mask, NUMBER, RATIO, 0.7 * truth, wide, rounds=30, steps=100)
    slopes = []
    for phase in (found, truth):
        phase = phase.clone().requires_grad_()
        slopes.append(torch.autograd.grad(energy(phase, data, precision(wide)), phase)[0].norm())
    assert slopes[0] < 1e-5 * slopes[1]


def test_masked_pixels_say_nothing():
    _, measured, sigma, mask = frames(0.5)
    wild = torch.where(mask, 50.0, measured)
    found, other = (
        smooth_phase(one, sigma, mask, NUMBER, RATIO, torch.zeros_like(one), SPREAD, rounds=2, steps=5)[0]
        for one in (measured, wild)
    )
    torch.testing.assert_close(found, other)


def test_a_weak_phase_and_absorption_are_the_dense_least_squares_solution():
    _, measured, sigma, mask = frames(1e-4)
    spread = torch.stack([SPREAD, 0.3 * SPREAD], 1)
    factors = torch.tensor([1j, -1.0], dtype=torch.complex128).expand(2, 2)
    found, left = smooth_maps(
        measured,
        sigma,
        mask,
        NUMBER,
        factors,
        torch.zeros(2, 2, H, W, dtype=torch.float64),
        spread,
        rounds=1,
        steps=400,
    )
    nothing = torch.zeros(2, 2, H, W, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda u: hologram(exit_wave(u[:, 0], u[:, 1]), NUMBER), nothing
    )
    for b in range(2):
        J = jacobian[b, :, :, b].reshape(H * W, 2 * H * W)
        used = torch.where(mask[b], 0.0, 1 / sigma[b] ** 2).flatten()
        prior = torch.block_diag(*(precision(spread[:, k])[b] for k in range(2)))
        right = J.mT @ (used * (measured[b] - 1).flatten())
        expected = torch.linalg.solve(prior + J.mT @ (used[:, None] * J), right)
        torch.testing.assert_close(found[b].flatten(), expected, rtol=1e-5, atol=1e-8)
    again = hologram(exit_wave(found[:, 0], found[:, 1]), NUMBER)
    torch.testing.assert_close(left, measured - again)


@pytest.mark.parametrize(("number", "part", "worst"), [(0.1, 1, 0.35), (0.003, 0, 0.2)])
def test_absorption_is_found_near_the_object_and_phase_far_from_it(number, part, worst):
    side, number = 48, torch.tensor([number])
    y, x = torch.meshgrid(*(torch.arange(side) - 23.5,) * 2, indexing="ij")
    phase = -0.4 * torch.exp(-((x + 6) ** 2 + y**2) / 40)[None]
    absorption = (0.1, 0.05)[1 - part] * torch.exp(-((x - 8) ** 2 + (y + 2) ** 2) / 40)[None]
    sigma, mask = torch.full_like(phase, 1e-3), torch.zeros_like(phase, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    clean = hologram(exit_wave(phase, absorption), number)
    measured = clean + sigma * torch.randn(clean.shape, generator=generator)
    nothing, spread = torch.zeros_like(phase), phase.square().mean((1, 2)).sqrt()
    found = smooth_phase_and_absorption(measured, sigma, mask, number, nothing, spread, rounds=4, steps=20)
    truth = torch.stack([phase, absorption], 1)
    assert float((found.best - truth)[:, part].norm() / truth[:, part].norm()) < worst
    assert float(found.left.square().mean()) < 1.2e-6
    # that of a pure phase takes absorption for phase
    pure, _ = smooth_phase(measured, sigma, mask, number, torch.zeros(1), nothing, spread, rounds=4, steps=20)
    assert float((found.best[:, 0] - phase).norm()) < 0.5 * float((pure - phase).norm())
