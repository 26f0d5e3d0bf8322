"""Reflectivity against closed forms, conservation laws and finite differences."""

import math

import pytest
import torch

from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.physics.reflectivity import (
    Stack,
    critical_q,
    from_refractive_index,
    reflection_amplitude,
    reflectivity,
    refractive_index,
    wave_fields,
)

Q = torch.linspace(0.004, 0.6, 300, dtype=torch.float64)[None]
UNIT = 4 * math.pi * ELECTRON_RADIUS_ANGSTROM


def stack(density, thickness, roughness, absorption=None) -> Stack:
    """One stack, float64."""
    absorption = [0.0] * len(density) if absorption is None else absorption
    values = (density, absorption, thickness, roughness)
    return Stack(*(torch.tensor([v], dtype=torch.float64) for v in values))


def many(n: int, layers: int, seed: int = 0) -> Stack:
    """N random absorbing stacks in vacuum, float64."""
    g = torch.Generator().manual_seed(seed)
    u = [torch.rand(n, k, generator=g, dtype=torch.float64) for k in (layers + 2, layers, layers + 1)]
    density = torch.cat([torch.zeros(n, 1, dtype=torch.float64), 0.2 + 4 * u[0][:, 1:]], 1)
    return Stack(density, 0.03 * density, 10 + 200 * u[1], 6 * u[2])


def test_a_bare_substrate_reflects_as_fresnel_says():
    q_c = critical_q(torch.tensor(0.7, dtype=torch.float64))
    inside = torch.complex(Q.square() - q_c.square(), torch.zeros_like(Q)).sqrt()
    expected = ((Q - inside) / (Q + inside)).abs().square()
    torch.testing.assert_close(reflectivity(stack([0, 0.7], [], [0]), Q), expected, rtol=1e-9, atol=0)


def test_below_the_critical_angle_everything_is_reflected():
    q = Q[Q < critical_q(torch.tensor(2.0))][None]
    assert q.numel() > 10
    found = reflectivity(stack([0, 2.0], [], [0]), q)
    torch.testing.assert_close(found, torch.ones_like(q), rtol=1e-12, atol=0)


def test_a_film_interferes_as_airy_says():
    film, substrate, thickness = 1.3, 0.7, 85.0
    k0, k1, k2 = (
        torch.complex((Q / 2).square() - UNIT * density, torch.zeros_like(Q)).sqrt()
        for density in (0.0, film, substrate)
    )
    r01, r12 = (k0 - k1) / (k0 + k1), (k1 - k2) / (k1 + k2)
    phase = torch.exp(2j * k1 * thickness)
    expected = ((r01 + r12 * phase) / (1 + r01 * r12 * phase)).abs().square()
    found = reflectivity(stack([0, film, substrate], [thickness], [0, 0]), Q)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_roughness_lowers_a_bare_surface_by_nevot_and_croce():
    rough, sharp = (reflectivity(stack([0, 0.334], [], [s]), Q) for s in (3.0, 0.0))
    k = torch.complex((Q / 2).square() - UNIT * 0.334, torch.zeros_like(Q)).sqrt()
    torch.testing.assert_close(rough, sharp * torch.exp(-2 * Q * k.real * 9.0), rtol=1e-9, atol=0)


def test_far_above_the_critical_angle_it_is_kinematic():
    sample = stack([0, 0.5, 0.9, 0.7], [40.0, 65.0], [0, 0, 0])
    q = torch.linspace(3.0, 4.0, 200, dtype=torch.float64)[None]
    depths = torch.tensor([0.0, 40.0, 105.0], dtype=torch.float64)
    steps = torch.tensor([0.5, 0.4, -0.2], dtype=torch.float64)
    amplitude = (steps[:, None] * torch.exp(1j * q * depths[:, None])).sum(0) * UNIT / q**2
    expected = amplitude.abs().square()
    difference = (reflectivity(sample, q) - expected).abs()
    assert float(difference.max() / expected.max()) < 3e-2


def test_layers_that_are_nothing_change_nothing():
    whole = many(5, 3)
    empty = torch.zeros(5, 1, dtype=torch.float64)
    padded = Stack(
        torch.cat([whole.density[:, :1], whole.density[:, :1], whole.density[:, 1:]], 1),
        torch.cat([empty, whole.absorption], 1),
        torch.cat([empty, whole.thickness], 1),
        torch.cat([empty, whole.roughness], 1),
    )
    q = Q.expand(5, -1)
    torch.testing.assert_close(reflectivity(padded, q), reflectivity(whole, q), rtol=1e-9, atol=0)


def test_what_is_not_reflected_goes_into_the_substrate():
    sample = stack([0, 1.1, 0.4, 0.7], [60.0, 120.0], [0, 0, 0])
    fields = wave_fields(sample, Q)
    reflected = fields.reflected[:, 0].abs().square()
    flux = fields.wave_vector.real
    transmitted = flux[:, -1] / flux[:, 0] * fields.transmitted[:, -1].abs().square()
    torch.testing.assert_close(reflected + transmitted, torch.ones_like(Q), rtol=1e-10, atol=0)


def test_absorption_takes_some():
    sample = stack([0, 1.1, 0.7], [300.0], [0, 0], [0, 0.05, 0.02])
    fields = wave_fields(sample, Q)
    flux = fields.wave_vector.real[:, -1] / fields.wave_vector.real[:, 0]
    total = fields.reflected[:, 0].abs().square() + flux * fields.transmitted[:, -1].abs().square()
    assert float(total.max()) < 1.0
    assert float(total.min()) < 0.8


def test_the_field_and_its_slope_are_continuous_at_sharp_interfaces():
    sample = many(4, 3)
    sharp = Stack(sample.density, sample.absorption, sample.thickness, 0 * sample.roughness)
    down, up, k = wave_fields(sharp, Q.expand(4, -1))
    phase = torch.exp(1j * k[:, 1:-1] * sharp.thickness[:, :, None])
    ones = torch.ones_like(phase[:, :1])
    above_down = down[:, :-1] * torch.cat([ones, phase], 1)
    above_up = up[:, :-1] / torch.cat([ones, phase], 1)
    size = above_down.abs() + above_up.abs()
    value = (above_down + above_up) - (down[:, 1:] + up[:, 1:])
    slope = k[:, :-1] * (above_down - above_up) - k[:, 1:] * (down[:, 1:] - up[:, 1:])
    assert float((value.abs() / size).max()) < 1e-9
    assert float((slope.abs() / (size * k[:, :-1].abs())).max()) < 1e-9


def test_fields_reflect_what_the_recursion_does():
    sample, q = many(6, 5), Q.expand(6, -1)
    torch.testing.assert_close(wave_fields(sample, q).reflected[:, 0], reflection_amplitude(sample, q))


def test_refractive_indices_of_silicon():
    # CXRO: delta 7.58e-6, beta 1.75e-7 at 8047.8 eV
    density, absorption = from_refractive_index(torch.tensor(7.58e-6), torch.tensor(1.75e-7), 1.5406)
    assert float(density) == pytest.approx(0.712, abs=2e-3)
    delta, beta = refractive_index(density, absorption, 1.5406)
    assert float(delta) == pytest.approx(7.58e-6, rel=1e-6)
    assert float(beta) == pytest.approx(1.75e-7, rel=1e-6)


def test_gradients_agree_with_finite_differences():
    sample = many(2, 3)
    q = torch.tensor([[0.02, 0.05, 0.11, 0.3]], dtype=torch.float64).expand(2, -1)

    def log_curve(density, absorption, thickness, roughness):
        return reflectivity(Stack(density, absorption, thickness, roughness), q).log()

    inputs = tuple(
        v.clone().requires_grad_()
        for v in (sample.density, sample.absorption, sample.thickness, sample.roughness)
    )
    assert torch.autograd.gradcheck(log_curve, inputs, eps=1e-6, atol=1e-4, rtol=1e-4)


def test_single_precision_is_enough_for_measured_curves():
    sample, q = many(50, 5, seed=1), Q.expand(50, -1)
    single = Stack(*(v.float() for v in vars(sample).values()))
    exact = reflectivity(sample, q)
    error = ((reflectivity(single, q.float()) - exact) / exact).abs()
    assert float(error.quantile(0.99)) < 1e-3
    assert float(error.max()) < 0.05


def test_shapes_that_do_not_belong_together_are_named():
    with pytest.raises(ValueError, match=r"expected \(N, L \+ 2\)"):
        stack([0, 1.0, 0.7], [10.0, 20.0], [0, 0])
