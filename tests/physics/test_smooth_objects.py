"""Objects that explain frames under a Gaussian prior: against autograd and a dense solution."""

import pytest
import torch

from nfphasing_bluesky.physics.imaging.overlap import Group, GroupFrames
from nfphasing_bluesky.physics.imaging.patches import cut
from nfphasing_bluesky.physics.imaging.probes import random_probes
from nfphasing_bluesky.physics.imaging.smooth_objects import (
    SOFTENED,
    SmoothPrior,
    conjugate_gradients,
    evened,
    linearised,
    refine,
)
from nfphasing_bluesky.physics.objects import random_objects
from nfphasing_bluesky.physics.ptychography import FarField, NearField, wave_intensity

FAR = FarField(centred=False)
SIDE, REACH, B, J = 8, 3, 2, 3


def group(seed: int = 0) -> Group:
    """Frames of nothing in particular: the solution is known all the same."""
    generator = torch.Generator().manual_seed(seed)
    probe = 3 * torch.randn(B, 2, SIDE, SIDE, dtype=torch.complex128, generator=generator)
    counts = torch.poisson(torch.full((B, J, SIDE, SIDE), 20.0, dtype=torch.float64), generator=generator)
    offset = torch.randint(-REACH, REACH + 1, (B, J, 2), generator=generator)
    offset[:, 0], offset[0, 1, 0] = 0, REACH
    mask = torch.rand(B, J, SIDE, SIDE, generator=generator) < 0.1
    present = torch.tensor([[True, True, True], [True, True, False]])
    fraction = torch.rand(B, J, 2, dtype=torch.float64, generator=generator) - 0.5
    return Group(counts, mask, probe, offset, fraction, present, torch.zeros_like(counts[:, 0]))


def subject() -> tuple[GroupFrames, SmoothPrior, torch.Tensor]:
    """Frames, prior, and z to linearise around."""
    frames = GroupFrames(group(), FAR)
    spread = torch.tensor([[0.4, 0.1], [0.2, 0.3]], dtype=torch.float64)
    prior = SmoothPrior.like(frames.flat(), spread)
    generator = torch.Generator().manual_seed(1)
    return (
        frames,
        prior,
        torch.randn(B, 2, *frames.flat().shape[1:], dtype=torch.float64, generator=generator),
    )


def energy(frames: GroupFrames, prior: SmoothPrior, z: torch.Tensor) -> torch.Tensor:
    """(B,) half of the squares of residuals and of z, written out."""
    theta = prior.coloured(z)
    canvas = torch.polar(torch.exp(-theta[:, 1]), theta[:, 0])
    total = z.square().sum((1, 2, 3)) / 2
    for j in range(frames.count):
        root = (wave_intensity(frames.waves(canvas, j)) + SOFTENED).sqrt()
        short = 2 * ((frames.counts[:, j] + SOFTENED).sqrt() - root)
        total = total + (frames.used[:, j] * short.square()).sum((1, 2)) / 2
    return total


def test_draws_of_the_prior_have_its_spread_and_are_undone():
    canvas = torch.zeros(400, 24, 24, dtype=torch.complex64)
    spread = torch.tensor([0.5, 0.1]).expand(400, 2)
    prior = SmoothPrior.like(canvas, spread)
    z = torch.randn(400, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    theta = prior.coloured(z)
    torch.testing.assert_close(theta.square().mean((0, 2, 3)).sqrt(), spread[0], rtol=0.1, atol=0)
    torch.testing.assert_close(prior.white(theta), z, rtol=1e-3, atol=1e-3)
    # neighbouring pixels are alike, as those of objects are
    assert float((theta[:, 0, 1:] - theta[:, 0, :-1]).std()) < 0.6 * float(theta[:, 0].std())


def test_the_gradient_is_that_of_autograd():
    frames, prior, z = subject()
    z = 0.3 * z
    local = linearised(frames, prior, z)
    free = z.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(energy(frames, prior, free).sum(), free)
    torch.testing.assert_close(local.gradient - z, -wanted, rtol=1e-6, atol=1e-6)


def test_the_normal_operator_is_that_of_the_jacobian():
    frames, prior, z = subject()
    z = 0.3 * z
    local = linearised(frames, prior, z)

    def roots(at: torch.Tensor) -> torch.Tensor:
        theta = prior.coloured(at)
        canvas = torch.polar(torch.exp(-theta[:, 1]), theta[:, 0])
        return torch.stack(
            [
                2 * frames.used[:, j] * (wave_intensity(frames.waves(canvas, j)) + SOFTENED).sqrt()
                for j in range(J)
            ]
        )

    direction = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(2))
    _, along = torch.autograd.functional.jvp(roots, z, direction)
    _, back = torch.autograd.functional.vjp(roots, z, along)
    torch.testing.assert_close(local.normal(direction), direction + back, rtol=1e-6, atol=1e-6)


def test_conjugate_gradients_solve_what_a_dense_solver_solves():
    frames, prior, z = subject()
    local = linearised(frames, prior, 0.1 * z)
    size = z[0].numel()
    columns = []
    for unit in torch.eye(size, dtype=z.dtype):
        columns.append(local.normal(unit.reshape(1, *z.shape[1:]).expand_as(z)).flatten(1))
    matrix = torch.stack(columns, 2)
    right = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(4))
    dense = torch.linalg.solve(matrix, right.flatten(1)).reshape(z.shape)
    torch.testing.assert_close(conjugate_gradients(local.normal, right, 300), dense, rtol=1e-6, atol=1e-8)


def test_rounds_come_to_where_nothing_is_left_to_gain():
    frames, prior, z = subject()
    start = prior.coloured(0.1 * z)
    canvas = torch.polar(torch.exp(-start[:, 1]), start[:, 0])
    found = refine(frames, canvas, prior, rounds=30, steps=40)
    theta = torch.stack([found[-1].angle(), -found[-1].abs().log()], 1)
    at = prior.white(theta).requires_grad_()
    before = energy(frames, prior, 0.1 * z)
    after = energy(frames, prior, at)
    (slope,) = torch.autograd.grad(after.sum(), at)
    assert (after < before).all()
    assert float(slope.abs().max()) < 1e-3 * float(linearised(frames, prior, 0.1 * z).gradient.abs().max())


def test_preconditioned_steps_solve_the_same_system():
    frames, prior, z = subject()
    local = linearised(frames, prior, 0.1 * z)
    transfer = evened(frames, frames.flat(), prior)
    assert transfer.shape == z.shape and float(transfer.max()) < 1 and float(transfer.min()) > 0

    def even(values: torch.Tensor) -> torch.Tensor:
        return torch.fft.ifft2(torch.fft.fft2(values) * transfer).real

    right = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(4))
    exact = conjugate_gradients(local.normal, right, 300)
    torch.testing.assert_close(
        conjugate_gradients(local.normal, right, 300, even), exact, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("number", [None, 0.03])
def test_few_preconditioned_steps_come_closer(number):
    generator = torch.Generator().manual_seed(3)
    side, step = 32, torch.tensor([[0, 0], [0, 5], [5, 0], [5, 5]])
    probe = 1000 * random_probes(1, side, generator, modes=1)[:, :1].to(torch.complex128)
    maps = random_objects(1, (side + 16, side + 16), generator=generator, kinds=["grains"]).maps.double()
    whole = torch.polar(torch.exp(-0.05 * maps), -0.6 * maps)
    patches = cut(whole.expand(4, -1, -1), 8 + step, (side, side))
    propagation = FAR if number is None else NearField(number)
    waves = propagation.forward(patches[:, None] * probe)
    counts = torch.poisson(wave_intensity(waves), generator=generator)[None]
    nothing = torch.zeros(1, 4, side, side)
    frames = GroupFrames(
        Group(
            counts,
            nothing.bool(),
            probe,
            step[None],
            nothing[..., :2, 0].double(),
            nothing[..., 0, 0] == 0,
            nothing[:, 0].double(),
        ),
        propagation,
    )
    canvas = frames.flat()
    prior = SmoothPrior.like(canvas, torch.tensor([[0.3, 0.03]], dtype=torch.float64))
    start = prior.white(torch.stack([canvas.angle(), -canvas.abs().log()], 1))
    transfer = evened(frames, canvas, prior)

    local = linearised(frames, prior, start)
    right = local.gradient - start

    def left(steps: int, precondition) -> float:
        """Energy of the linearised frames."""
        z = conjugate_gradients(local.normal, right, steps, precondition)
        return float((z * (local.normal(z) / 2 - right)).sum())

    def even(values: torch.Tensor) -> torch.Tensor:
        return torch.fft.ifft2(torch.fft.fft2(values) * transfer).real

    least = left(400, even)
    assert left(8, even) - least < 0.8 * (left(8, lambda z: z) - least)


def test_the_contrast_is_that_of_a_weak_grating():
    side, number, cycles, size = 64, 0.05, 5, 1e-4
    wave = size * torch.cos(2 * torch.pi * cycles * torch.arange(side, dtype=torch.float64) / side).expand(
        side, -1
    )
    squared = torch.tensor([[(cycles / side) ** 2]], dtype=torch.float64)
    for index, object_ in enumerate((torch.polar(torch.ones_like(wave), wave), torch.exp(-wave) + 0j)):
        seen = NearField(number).forward(object_[None, None]).abs().square()
        # a weak grating's intensity swings by twice its size times its transfer
        share = float(((seen - seen.mean()).abs().max() / (2 * size)) ** 2)
        assert share == pytest.approx(float(NearField(number).contrast(squared)[0, index, 0, 0]), abs=1e-3)
    assert NearField(torch.tensor([number, 2 * number])).contrast(squared).shape == (2, 2, 1, 1)
    assert FAR.contrast(squared).sum() == 1
