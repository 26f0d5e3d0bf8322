"""Exact derivatives of core-shell spheres against those of the closed form by autograd."""

import torch

from nfphasing_bluesky.modalities.saxs1d_particles import CLASSES, SIMULATED
from nfphasing_bluesky.physics.particles.core_shell_slopes import core_shell_slopes

K = [c.name for c in CLASSES].index("core_shell_sphere")
LOWER, UPPER = (torch.tensor(bounds, dtype=torch.float64) for bounds in (CLASSES[K].lower, CLASSES[K].upper))


def objects(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return LOWER + (UPPER - LOWER) * torch.rand(n, 5, generator=generator, dtype=torch.float64)


def slopes(q: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return core_shell_slopes(q, theta[:, 0].exp(), theta[:, 1].exp(), *theta[:, 2:].unbind(1))


def test_curves_and_derivatives_are_those_of_the_closed_form() -> None:
    theta = objects(100)
    q = torch.logspace(-2.7, -0.2, 90, dtype=torch.float64).expand(len(theta), -1)
    # a particle of its own for every point, so that one backward pass gives all derivatives
    each = theta[:, None].expand(-1, q.shape[1], -1).flatten(0, 1).clone().requires_grad_()
    expected = SIMULATED[K](q.reshape(-1, 1), each)[:, 0]
    (gradient,) = torch.autograd.grad(expected.sum(), each)
    curve, found = slopes(q, theta)
    assert (curve - expected.detach().view_as(q)).abs().max() < 1e-5
    wide = (UPPER - LOWER)[:, None]
    away = (found - gradient.view(*q.shape, 5).mT).abs() * wide
    assert away.max() < 1e-4, away.amax((0, 2))


def test_a_single_size_is_the_limit_of_a_narrow_distribution() -> None:
    theta = objects(20)
    q = torch.logspace(-2, -0.5, 50, dtype=torch.float64).expand(len(theta), -1)
    theta[:, 3:] = 0.0
    sharp = slopes(q, theta)
    theta[:, 3:] = 1e-4
    for one, other in zip(sharp, slopes(q, theta), strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one[..., :3, :], other[..., :3, :], rtol=1e-2, atol=1e-3)


def test_the_curve_of_a_frame_does_not_depend_on_the_others_of_its_batch() -> None:
    theta = objects(40)
    q = torch.logspace(-2.5, -0.5, 300, dtype=torch.float64).expand(len(theta), -1)
    for whole, alone in zip(slopes(q, theta), slopes(q[7:8], theta[7:8]), strict=True):
        torch.testing.assert_close(whole[7:8], alone, rtol=1e-9, atol=1e-12)
