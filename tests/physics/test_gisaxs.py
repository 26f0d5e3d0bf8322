"""Distorted-wave scattering against the Born approximation, limits that are known, and derivatives."""

import math
from dataclasses import replace

import pytest
import torch

from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.physics.gisaxs import GrazingSample, scattered
from nfphasing_bluesky.physics.grazing.dwba_particles import Particles
from nfphasing_bluesky.physics.grazing.dwba_roughness import (
    Roughness,
    interface_amplitudes,
    roughness_within,
    spectral_density,
)
from nfphasing_bluesky.physics.grazing.form_factors import Bodies, Shape, form_factor, whole_spheres
from nfphasing_bluesky.physics.grazing.grazing import GrazingPixels, angular_pixels
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
from nfphasing_bluesky.physics.particles.size_distribution import log_normal
from nfphasing_bluesky.physics.reflectivity import Stack, wave_fields

N = 3


def rows(*values: float) -> torch.Tensor:
    """(N, len(values)), the same for all samples."""
    return torch.tensor(values, dtype=torch.float64).expand(N, -1).clone()


def each(value: float) -> torch.Tensor:
    return torch.full((N,), value, dtype=torch.float64)


def pixels(h: int = 9, w: int = 11, lowest: float = 1e-3) -> GrazingPixels:
    exit_rad = torch.linspace(lowest, 0.03, h, dtype=torch.float64)
    azimuth_rad = torch.linspace(-0.02, 0.03, w, dtype=torch.float64)
    return angular_pixels(1.4, 0.007, exit_rad, azimuth_rad, torch.float64)


def film() -> Stack:
    return Stack(
        rows(0.0, 0.4, 0.7) + 0.01 * torch.arange(N)[:, None],
        rows(0.0, 2e-3, 5e-3),
        rows(120.0) + torch.arange(N)[:, None],
        rows(4.0, 6.0),
    )


def shape_of_interfaces(vertical: float = 150.0) -> Roughness:
    return Roughness(rows(0.4, 0.8), rows(200.0, 500.0), each(vertical))


def spheres(layer: int = 0, order: Paracrystal | None = None, count: int = 5) -> Particles:
    sizes = log_normal(each(20.0) + torch.arange(N), each(0.15), count, reach=2.0)
    return Particles(
        bodies=whole_spheres(sizes.values),
        share=sizes.share,
        density=each(4.0),
        absorption=each(0.3),
        number=each(1e-5),
        layer=layer,
        base=each(119.0 if layer else -2.0),
        order=order,
    )


ORDERS = {
    "dilute": None,
    "chain": Paracrystal(each(150.0), each(20.0), each(2000.0), chain_rad=each(1.2)),
    "domains": Paracrystal(each(150.0), each(20.0), each(2000.0), domain=each(1700.0)),
    "coupled": Paracrystal(each(150.0), each(20.0), each(2000.0), coupling=each(2.0)),
}


@pytest.mark.parametrize("shape", Shape)
def test_without_interfaces_it_is_the_born_approximation(shape):
    where = pixels()
    side = rows(1.2) if shape is Shape.CONE else None
    height = 80.0 if shape is Shape.SPHERE else 55.0
    bodies = Bodies(shape, rows(40.0), rows(height), side)
    particles = Particles(bodies, rows(1.0), each(3.0), each(0.2), each(1e-5), 0, each(0.0))
    nothing = Stack(rows(0.0, 0.0), rows(0.0, 0.0), rows()[:, :0], rows(0.0))
    ours = scattered(GrazingSample(nothing, particles=(particles,)), where)
    q_z = 0.5 * (where.incoming_q + where.outgoing_q)
    flat = [v.expand(1, *where.shape).flatten() for v in (where.q_parallel, q_z[:, :, None])]
    amplitude = form_factor(replace(bodies), *flat)[:, 0].abs().square().view(N, *where.shape)
    torch.testing.assert_close(
        ours, ELECTRON_RADIUS_ANGSTROM**2 * (9 + 0.04) * 1e-5 * amplitude, rtol=1e-6, atol=0
    )


def test_a_stack_of_one_material_under_its_own_name_changes_nothing():
    one = Stack(rows(0.0, 0.7), rows(0.0, 5e-3), rows()[:, :0], rows(3.0))
    cut = Stack(rows(0.0, 0.7, 0.7), rows(0.0, 5e-3, 5e-3), rows(200.0), rows(3.0, 0.0))
    ours = scattered(GrazingSample(one, particles=(spheres(),)), pixels())
    torch.testing.assert_close(scattered(GrazingSample(cut, particles=(spheres(),)), pixels()), ours)


def test_the_same_depth_from_above_and_from_below():
    """Particles on the bottom of a film over a film of the same material, told from either edge."""
    stack = Stack(
        rows(0.0, 0.5, 0.5, 0.7), rows(0.0, 3e-3, 3e-3, 5e-3), rows(100.0, 100.0), rows(3.0, 0.0, 0.0)
    )
    low = replace(spheres(layer=2, count=1), base=each(95.0))
    thick = Stack(rows(0.0, 0.5, 0.7), rows(0.0, 3e-3, 5e-3), rows(200.0), rows(3.0, 0.0))
    whole = replace(low, layer=1, base=each(195.0))
    torch.testing.assert_close(
        scattered(GrazingSample(stack, particles=(low,)), pixels()),
        scattered(GrazingSample(thick, particles=(whole,)), pixels()),
    )


def test_sharp_interfaces_see_both_waves():
    stack = replace(film(), roughness=torch.zeros(N, 2, dtype=torch.float64))
    where = pixels()
    waves = [wave_fields(stack, q.expand(N, -1)) for q in (where.incoming_q, where.outgoing_q)]
    at_surface = [wave.transmitted[:, 0] + wave.reflected[:, 0] for wave in waves]
    step = torch.complex(stack.density, -stack.absorption).diff(dim=1)[:, :1]
    expected = ELECTRON_RADIUS_ANGSTROM * step * at_surface[0] * at_surface[1]
    torch.testing.assert_close(interface_amplitudes(stack, *waves)[:, 0], expected)


def test_interfaces_that_follow_each_other_add_amplitudes():
    stack, where = film(), pixels()
    shape = Roughness(rows(0.5, 0.5), rows(300.0, 300.0), each(1e12))
    waves = [wave_fields(stack, q.expand(N, -1)) for q in (where.incoming_q, where.outgoing_q)]
    heights = stack.roughness[..., None] * interface_amplitudes(stack, *waves)
    spectrum = spectral_density(
        each(1.0)[:, None, None], torch.tensor(0.5), torch.tensor(300.0), where.q_parallel
    )
    expected = heights.sum(1).abs().square()[:, :, None] * spectrum
    torch.testing.assert_close(scattered(GrazingSample(stack, shape), where), expected, rtol=1e-5, atol=0)


def test_interfaces_that_do_not_add_intensities():
    stack, where = film(), pixels()
    both = scattered(GrazingSample(stack, shape_of_interfaces(0.0)), where)
    smooth = [replace(shape_of_interfaces(0.0), hurst=rows(*h)) for h in ((0.4, 1e-12), (1e-12, 0.8))]
    apart = sum(scattered(GrazingSample(stack, shape), where) for shape in smooth)
    torch.testing.assert_close(both, apart, rtol=1e-5, atol=0)


def test_spectra_hold_the_variance_of_heights():
    q = torch.linspace(0, 0.5, 400_001, dtype=torch.float64)
    for hurst, lateral in ((0.3, 50.0), (0.9, 400.0)):
        shape = torch.tensor(hurst, dtype=torch.float64), torch.tensor(lateral, dtype=torch.float64)
        spectrum = spectral_density(torch.tensor(5.0, dtype=torch.float64), *shape, q)
        variance = torch.trapezoid(spectrum * q, q) / (2 * math.pi)
        within = roughness_within(torch.tensor(5.0, dtype=torch.float64), *shape, 0.5)
        assert variance.item() == pytest.approx(within.item() ** 2, rel=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_is_its_samples(order):
    """Nothing of one sample reaches another, within what interpolation leaves."""
    sample = GrazingSample(film(), shape_of_interfaces(), (spheres(1, ORDERS[order]), spheres(0)))

    def only(value, i: int):
        if isinstance(value, torch.Tensor):
            return value[i : i + 1]
        if isinstance(value, tuple):
            return tuple(only(v, i) for v in value)
        if hasattr(value, "__dataclass_fields__"):
            return replace(
                value, **{name: only(getattr(value, name), i) for name in value.__dataclass_fields__}
            )
        return value

    whole = scattered(sample, pixels())
    for i in range(N):
        torch.testing.assert_close(scattered(only(sample, i), pixels())[0], whole[i], rtol=2e-4, atol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_differentiable_in_everything(order):
    where = pixels(3, 4)
    sample = GrazingSample(film(), shape_of_interfaces(), (spheres(1, ORDERS[order], 3),))
    kind = sample.particles[0]

    def pattern(density, thickness, sigma, hurst, lateral, vertical, radius, base, electrons):
        stack = replace(film(), density=density, thickness=thickness, roughness=sigma)
        bodies = whole_spheres(radius)
        particles = replace(kind, bodies=bodies, base=base, density=electrons)
        shape = Roughness(hurst, lateral, vertical)
        return scattered(GrazingSample(stack, shape, (particles,)), where).log()

    stack, shape = film(), shape_of_interfaces()
    inputs = [
        *(stack.density, stack.thickness, stack.roughness),
        *(shape.hurst, shape.lateral, shape.vertical),
        *(kind.bodies.radius, kind.base, kind.density),
    ]
    inputs = [v.detach().clone().requires_grad_() for v in inputs]
    assert torch.autograd.gradcheck(pattern, inputs, eps=1e-5, atol=1e-4, rtol=1e-3, fast_mode=True)


def test_incidence_of_each_sample_and_its_derivative():
    exit_rad, azimuth_rad = torch.linspace(2e-3, 0.02, 4).double(), torch.linspace(0, 0.02, 5).double()
    angles = torch.tensor([0.006, 0.007, 0.008], dtype=torch.float64)
    sample = GrazingSample(film(), shape_of_interfaces(), (spheres(),))
    together = scattered(sample, angular_pixels(1.4, angles, exit_rad, azimuth_rad, torch.float64))
    for i, angle in enumerate(angles):
        alone = scattered(sample, angular_pixels(1.4, float(angle), exit_rad, azimuth_rad, torch.float64))
        torch.testing.assert_close(together[i], alone[i], rtol=1e-5, atol=0)

    def pattern(incidence):
        return scattered(sample, angular_pixels(1.4, incidence, exit_rad, azimuth_rad, torch.float64)).log()

    assert torch.autograd.gradcheck(pattern, (angles.requires_grad_(),), eps=1e-7, atol=1e-2, rtol=1e-3)


def test_layers_that_let_nothing_through():
    """50 um under the critical angle: both waves underflow, and the pattern and its slopes stay finite."""
    thickness = rows(5e5).requires_grad_()
    stack = replace(film(), thickness=thickness)
    buried = replace(spheres(layer=1), base=each(5e5))
    pattern = scattered(GrazingSample(stack, shape_of_interfaces(), (buried, spheres())), pixels())
    pattern.sum().backward()
    assert torch.isfinite(pattern).all() and torch.isfinite(thickness.grad).all()
    at_the_top = scattered(GrazingSample(film(), shape_of_interfaces(0.0), (spheres(),)), pixels())
    assert (pattern[:, 0] > 0.1 * at_the_top[:, 0]).all()


def test_dark_below_the_horizon():
    where = pixels(lowest=-0.01)
    pattern = scattered(GrazingSample(film(), shape_of_interfaces(), (spheres(),)), where)
    below = where.level_rad[0] <= 0
    assert below.any() and (pattern[:, below] == 0).all() and (pattern[:, ~below] > 0).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer": 0, "base": each(5.0)}, "below it"),
        ({"layer": 1, "base": each(10.0)}, "upper edge"),
        ({"layer": 1, "base": each(130.0)}, "lower edge"),
        ({"layer": 3}, "expected 0 to 2"),
    ],
)
def test_particles_must_not_leave_their_layer(change, says):
    with pytest.raises(ValueError, match=says):
        scattered(GrazingSample(film(), particles=(replace(spheres(), **change),)), pixels())


def test_interfaces_without_a_shape_are_refused():
    shape = Roughness(rows(0.4), rows(200.0), each(0.0))
    with pytest.raises(ValueError, match=r"expected \(N, 2\)"):
        scattered(GrazingSample(film(), shape), pixels())


def test_a_beam_along_the_surface_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        angular_pixels(1.4, 0.0, torch.ones(2), torch.ones(2))
