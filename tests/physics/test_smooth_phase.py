"""Smooth phases that explain holograms: against a dense solution and against autograd."""

import torch

from nfphasing_bluesky.physics.holography import hologram, homogeneous_exit_wave
from nfphasing_bluesky.physics.smooth_objects import KNEE_PER_PX, POWER, WHITE
from nfphasing_bluesky.physics.smooth_phase import smooth_phase

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
