"""Phasors against torch's, and their gradients where a modulus is nearly nothing."""

import pytest
import torch

from nfphasing_bluesky.physics.phasors import complex_exp, phasor

TINY = [0.0, 5e-324, 1e-310, 1e-300, 1e-3]


@pytest.mark.parametrize("modulus", TINY)
def test_gradients_are_those_of_cosine_and_sine(modulus):
    a = torch.tensor([modulus], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    z = phasor(a, b)
    (2 * z.real + z.imag).sum().backward()
    torch.testing.assert_close(a.grad, 2 * b.detach().cos() + b.detach().sin(), rtol=1e-12, atol=0.0)
    expected = modulus * (b.detach().cos() - 2 * b.detach().sin())
    torch.testing.assert_close(b.grad, expected, rtol=1e-12, atol=1e-322)


def test_values_are_torch_s():
    generator = torch.Generator().manual_seed(0)
    modulus = torch.rand(50, generator=generator, dtype=torch.float64)
    phase = 20 * torch.randn(50, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(phasor(modulus, phase), torch.polar(modulus, phase), rtol=1e-14, atol=1e-15)
    z = torch.complex(-20 * modulus, phase)
    torch.testing.assert_close(complex_exp(z), torch.exp(z), rtol=1e-12, atol=1e-15)


def test_what_has_decayed_leaves_gradients_finite():
    decay = torch.tensor([-1.0, -700.0, -740.0, -800.0], dtype=torch.float64, requires_grad=True)
    complex_exp(torch.complex(decay, torch.ones_like(decay))).real.sum().backward()
    torch.testing.assert_close(
        decay.grad, decay.detach().exp() * torch.ones_like(decay).cos(), rtol=1e-9, atol=1e-320
    )
