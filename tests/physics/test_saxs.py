"""Form factors: limits, gradients, precision and batching."""

import pytest
import torch

from nfphasing_bluesky.physics import saxs
from nfphasing_bluesky.physics.particles import radial_density

RANGES = {
    "sphere": ((60.0, 15.0), (0.1, 0.4)),
    "core_shell_sphere": ((60.0, 15.0), (10.0, 40.0), (-0.4, 1.7), (0.1, 0.3), (0.2, 0.1)),
    "ellipsoid": ((60.0, 15.0), (20.0, 50.0), (0.1, 0.3)),
    "cylinder": ((30.0, 15.0), (200.0, 20.0), (0.1, 0.3)),
}
NAMES = list(RANGES)


def parameters(name: str, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.tensor(values, dtype=dtype) for values in RANGES[name]]


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_loop(name):
    q = torch.linspace(0.003, 0.5, 40, dtype=torch.float64)
    batch = getattr(saxs, name)(q, *parameters(name))
    rows = [getattr(saxs, name)(q, *(v[i : i + 1] for v in parameters(name))) for i in range(2)]
    torch.testing.assert_close(batch, torch.cat(rows), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name):
    q = torch.linspace(0.003, 0.5, 40, dtype=torch.float64)
    low = getattr(saxs, name)(q.float(), *parameters(name, torch.float32))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), getattr(saxs, name)(q, *parameters(name)), rtol=2e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("q", [1e-5, 2e-3, 0.083, 0.41])
def test_gradients_against_finite_differences(name, q):
    inputs = [v[:1].clone().requires_grad_() for v in parameters(name)]
    grid = torch.tensor([q], dtype=torch.float64, requires_grad=True)
    scaled = lambda x, *args: getattr(saxs, name)(x, *args).log()  # noqa: E731
    assert torch.autograd.gradcheck(scaled, (grid, *inputs), eps=1e-6, atol=1e-6, rtol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_without_polydispersity(name):
    inputs = [v.clone().requires_grad_() for v in parameters(name)]
    with torch.no_grad():
        inputs[{"core_shell_sphere": 3}.get(name, -1)].zero_()
    getattr(saxs, name)(torch.tensor([0.0, 1e-4, 0.01, 0.5]), *inputs).sum().backward()
    for value in inputs:
        assert value.grad is not None and torch.isfinite(value.grad).all()


@pytest.mark.parametrize("name", ["sphere", "ellipsoid", "cylinder"])
def test_guinier_limit(name):
    values = parameters(name)
    rg = getattr(radial_density, f"{name}_rg")(*values)
    q = 0.1 / rg[:, None]
    slope = -3 * getattr(saxs, name)(q, *values).log()[:, 0] / q[:, 0] ** 2
    torch.testing.assert_close(slope.sqrt(), rg, rtol=3e-3, atol=0)


def test_core_shell_is_a_sphere_at_equal_contrast():
    q = torch.linspace(1e-3, 0.5, 100, dtype=torch.float64)
    core, shell, one, zero = (torch.tensor([v], dtype=torch.float64) for v in (40.0, 20.0, 1.0, 0.0))
    ours = saxs.core_shell_sphere(q, core, shell, one, zero)
    error = (ours - saxs.sphere(q, core + shell, zero)).abs() / (1 + q * 60) ** -4
    assert error.max() < 1e-6


def test_equal_axes_make_a_sphere_and_wide_distributions_resolve():
    q = torch.linspace(1e-3, 0.5, 60, dtype=torch.float64)
    r, p = torch.tensor([70.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    torch.testing.assert_close(saxs.ellipsoid(q, r, r, p), saxs.sphere(q, r, p), rtol=1e-9, atol=0)


def test_densities_hold_the_particles_volume():
    r = torch.linspace(0, 400, 200_001, dtype=torch.float64)
    values = [torch.tensor([v], dtype=torch.float64) for v in (30.0, 120.0)]
    zero = torch.zeros(1, dtype=torch.float64)
    for name in ("ellipsoid", "cylinder"):
        for pair in (values, values[::-1]):
            rho = getattr(radial_density, name)(r, *pair)
            volume = torch.trapezoid(4 * torch.pi * r**2 * rho, r)
            mean, _ = getattr(radial_density, f"{name}_volumes")(*pair, zero)
            torch.testing.assert_close(volume, mean, rtol=1e-4, atol=0)


def test_core_shell_density_steps():
    r = torch.tensor([5.0, 15.0, 25.0])
    rho = radial_density.core_shell_sphere(
        r, torch.tensor([10.0]), torch.tensor([10.0]), torch.tensor([-0.5])
    )
    assert rho.tolist() == [[1.0, -0.5, 0.0]]


def test_smearing_leaves_a_line_and_reflects_at_zero():
    q = torch.tensor([1e-3, 0.05], dtype=torch.float64)
    dq = torch.full_like(q, 0.01)
    line = saxs.smear(lambda x: 1 + 0 * x, q, dq)
    torch.testing.assert_close(line, torch.ones(1, 2, dtype=torch.float64))
    steep = saxs.smear(lambda x: x, q, dq)
    assert steep[0, 0] > 5e-3
    assert steep[0, 1].item() == pytest.approx(0.05, rel=1e-9)


@pytest.mark.parametrize("ratio", [-0.4, 0.0, 1.0, 2.0])
def test_forward_value_of_a_core_shell_sphere_is_the_limit_of_its_curve(ratio):
    parts = [torch.tensor([v], dtype=torch.float64) for v in (60.0, 15.0, ratio, 0.2, 0.1)]
    forward = saxs.core_shell_sphere_forward(*parts)
    near = saxs.core_shell_sphere_unnormalised(torch.tensor([[1e-6]], dtype=torch.float64), *parts)
    torch.testing.assert_close(forward, near[:, 0], rtol=1e-6, atol=0)
