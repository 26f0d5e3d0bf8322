"""p(r): transforms against analytic curves, closed forms, the positive parametrisation."""

import math

import pytest
import torch

from nfphasing_bluesky.physics.shapes import pair_distance


def sphere_p(x: torch.Tensor) -> torch.Tensor:
    """p(x) of a sphere of diameter 1, unit area."""
    return 24 * x**2 * (1 - 1.5 * x + 0.5 * x**3) * (1 / 2)


def sphere_curve(kappa: torch.Tensor) -> torch.Tensor:
    y = kappa / 2
    return (3 * (y.sin() - y * y.cos()) / y**3) ** 2


@pytest.fixture
def x():
    return torch.linspace(0, 1, 128, dtype=torch.float64)


def unit(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return p / torch.trapezoid(p, x)


def test_reference_transform_of_a_sphere():
    r = torch.linspace(0, 100, 4001, dtype=torch.float64)
    q = torch.linspace(0.01, 0.6, 80, dtype=torch.float64)
    p = sphere_p(r / 100)
    ours = pair_distance.intensity(q, p, r)[0] / pair_distance.i0(p, r)
    assert (ours - sphere_curve(q * 100)).abs().max() < 1e-6
    assert pair_distance.rg(p, r).item() == pytest.approx(100 * math.sqrt(0.6) / 2, rel=1e-6)


def test_a_thin_shell_and_a_thin_rod():
    r = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    # all pairs on a shell of diameter 1: p = 2 r, Rg = 1/2; of a line: p = 2 (1 - r), Rg^2 = 1/12
    assert pair_distance.rg(2 * r, r).item() == pytest.approx(0.5, rel=1e-6)
    assert pair_distance.rg(2 * (1 - r), r).item() == pytest.approx(12**-0.5, rel=1e-6)
    q = torch.tensor([0.5, 3.0, 9.0], dtype=torch.float64)
    shell = pair_distance.intensity(q, 2 * r, r)[0] / (4 * torch.pi)
    torch.testing.assert_close(shell, ((q / 2).sin() / (q / 2)) ** 2, rtol=1e-6, atol=1e-9)


def test_fast_transform_on_a_grid_matches_the_sphere(x):
    debye = pair_distance.UniversalDebye(128)
    d_max = torch.tensor([80.0, 250.0], dtype=torch.float64)
    q = torch.linspace(1e-3, 1.0, 3000, dtype=torch.float64)
    exact = sphere_curve(q * d_max[:, None])
    ours = debye(unit(sphere_p(x), x).expand(2, -1), d_max, q)
    assert (ours - exact).abs().max() < 1e-4
    assert ((ours - exact).abs() / (exact + 0.1 * (1 + q * d_max[:, None] / 4) ** -4)).max() < 0.05


def test_fast_transform_of_wavy_shapes_matches_quadrature():
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    d_max = torch.tensor([60.0, 120.0, 240.0], dtype=torch.float64)
    q = torch.linspace(1e-3, 1.0, 60, dtype=torch.float64)
    fine = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    exact = pair_distance.intensity(q * d_max[:, None], pair_distance.p_from_coefficients(c, fine), fine) / (
        4 * torch.pi
    )
    p = pair_distance.p_from_coefficients(c, torch.linspace(0, 1, 401, dtype=torch.float64))
    ours = pair_distance.UniversalDebye(401)(p, d_max, q)
    torch.testing.assert_close(ours, exact, rtol=2e-3, atol=2e-6)


def test_shared_rows_are_the_curves(x):
    debye = pair_distance.UniversalDebye(128, kappa_max=60.0)
    c = torch.tensor([[1.0, 0.2, 0.0], [0.8, -0.3, 0.2]], dtype=torch.float64)
    p = pair_distance.p_from_coefficients(c, torch.linspace(0, 1, 128, dtype=torch.float64))
    d_max = torch.tensor([40.0, 110.0, 75.0], dtype=torch.float64, requires_grad=True)
    q = torch.linspace(0.01, 0.5, 50, dtype=torch.float64).expand(3, -1)
    values = debye.rows(debye.table(p).T.contiguous(), d_max, q)
    for i in range(2):
        curve = debye(p[i].expand(3, -1), d_max, q)
        torch.testing.assert_close(values[..., i], curve)
        slopes = (torch.autograd.grad(v.sum(), d_max, retain_graph=True)[0] for v in (values[..., i], curve))
        torch.testing.assert_close(*slopes)


def test_beyond_its_grid_the_curve_stays_finite_and_falls(x):
    debye = pair_distance.UniversalDebye(128, kappa_max=20.0)
    curve = debye(unit(sphere_p(x), x)[None], torch.tensor([100.0]).double(), torch.tensor([0.3, 0.6]))[0]
    assert curve[1].abs().item() == pytest.approx(curve[0].abs().item() / 16, rel=1e-6)


def test_parametrisation_round_trip_and_closed_forms(x):
    generator = torch.Generator().manual_seed(1)
    c = torch.randn(4, 12, generator=generator, dtype=torch.float64) * 0.2
    c[:, 0] += 2
    c = pair_distance.normalise_coefficients(c)
    p = pair_distance.p_from_coefficients(c, x)
    assert (p >= 0).all() and p[:, 0].abs().max() < 1e-12 and p[:, -1].abs().max() < 1e-12
    torch.testing.assert_close(torch.trapezoid(p, x), torch.ones(4, dtype=torch.float64))
    positive = torch.tensor([[2.0, 0.3, 0.1]], dtype=torch.float64)
    back = pair_distance.coefficients_from_p(pair_distance.p_from_coefficients(positive, x), x, 3)
    torch.testing.assert_close(back, pair_distance.normalise_coefficients(positive), rtol=1e-6, atol=1e-9)


def test_fast_transform_has_the_right_gradients():
    debye = pair_distance.UniversalDebye(33, kappa_max=40.0, step=0.05)
    x = torch.linspace(0, 1, 33, dtype=torch.float64)
    p = (6 * x * (1 - x))[None].requires_grad_(True)
    d_max = torch.tensor([90.0], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.013, 0.11], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: debye(a, b, q), (p, d_max))
