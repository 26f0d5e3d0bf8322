"""Exact slopes of a reflectivity against automatic differentiation, and the fast complex functions."""

import pytest
import torch

from nfphasing_bluesky.physics.layers.reflectivity_slopes import reflectivity_slopes
from nfphasing_bluesky.physics.layers.reflectometer import BeamShape, illuminated_share
from nfphasing_bluesky.physics.phasors import complex_exp
from nfphasing_bluesky.physics.reflectivity import Stack, reflectivity, wave_vectors

PARTS = ("density", "absorption", "thickness", "roughness")


def random_stacks(layers: int) -> tuple[Stack, torch.Tensor]:
    generator = torch.Generator().manual_seed(layers)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    density, absorption = 3 * uniform(4, layers + 2), 0.1 * uniform(4, layers + 2)
    density[:, 0] = absorption[:, 0] = 0.0
    stack = Stack(density, absorption, 20 + 100 * uniform(4, layers), 1 + 5 * uniform(4, layers + 1))
    return stack, torch.linspace(0.008, 0.5, 30, dtype=torch.float64).expand(4, -1).clone()


@pytest.mark.parametrize("layers", [0, 1, 4])
def test_slopes_are_those_of_automatic_differentiation(layers):
    stack, q = random_stacks(layers)
    inputs = tuple(getattr(stack, name) for name in PARTS)

    def total(*values: torch.Tensor) -> torch.Tensor:
        return reflectivity(Stack(*values[:4]), values[4]).sum(0)

    found = reflectivity_slopes(stack, q)
    torch.testing.assert_close(found.curve, reflectivity(stack, q), rtol=1e-9, atol=0)
    expected = torch.autograd.functional.jacobian(total, (*inputs, q))
    for name, theirs in zip(PARTS, expected[:4], strict=True):
        ours, theirs = getattr(found, name), theirs.permute(1, 2, 0)
        if name in ("density", "absorption"):
            ours, theirs = ours[:, 1:], theirs[:, 1:]
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(found.q, expected[4].diagonal(dim1=0, dim2=2), rtol=1e-8, atol=1e-14)


def test_roots_and_exponentials_are_those_of_torch():
    stack, q = random_stacks(4)
    unit = 4 * torch.pi * 2.8179403205e-5
    absorption = torch.nn.functional.pad(stack.absorption[:, 1:], (1, 0))
    over = torch.complex(stack.density - stack.density[:, :1], -absorption)[:, :, None] * unit
    k = wave_vectors(stack, q)
    torch.testing.assert_close(k, ((0.5 * q).square()[:, None] - over).sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(complex_exp(2j * k), (2j * k).exp(), rtol=1e-12, atol=0)


def test_a_soft_hat_is_a_hat_but_for_its_edge():
    reach = torch.linspace(0.0, 3.0, 301, dtype=torch.float64)[None]
    spill = torch.ones(1, dtype=torch.float64)
    hat, soft = (illuminated_share(reach, spill, s) for s in (BeamShape.HAT, BeamShape.SOFT_HAT))
    assert float((soft - hat).abs().max()) < 0.04
    assert float((soft - hat)[(reach - 1).abs() > 0.3].abs().max()) < 2e-4
    assert float(soft.diff().diff().abs().max()) < 0.3 * float(hat.diff().diff().abs().max())
