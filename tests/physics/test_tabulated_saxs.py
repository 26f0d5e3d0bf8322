"""Curves from tables are those of the closed forms and of quadrature, whatever is computed beside them."""

import pytest
import torch

from nfphasing_bluesky.modalities.saxs1d_particles import CLASSES, FORWARD, SIMULATED
from nfphasing_bluesky.physics import saxs
from nfphasing_bluesky.physics.particles import schulz, size_tables, tabulated_saxs

TABULATED = ["sphere", "ellipsoid", "cylinder"]
N = 48


def curves(name, dtype=torch.float32):
    """Objects of the prior of `saxs1d-particles`, their q, and curves by the closed forms and by tables."""
    k = [c.name for c in CLASSES].index(name)
    lower, upper = torch.tensor(CLASSES[k].lower), torch.tensor(CLASSES[k].upper)
    generator = torch.Generator().manual_seed(k)
    theta = (lower + torch.rand(N, len(lower), generator=generator) * (upper - lower)).to(dtype)
    q = torch.logspace(-2.7, -0.2, 60, dtype=dtype).expand(N, -1)
    return q, theta, SIMULATED[k](q.double(), theta.double()), FORWARD[k]


@pytest.mark.parametrize("name", TABULATED)
def test_they_agree_with_the_closed_forms(name):
    q, theta, expected, tabulated = curves(name)
    error = (tabulated(q, theta) / expected - 1).abs().flatten()
    assert float(error.median()) < 1e-6
    assert float(error.quantile(0.99)) < 1e-4
    # the deepest minima, of flat particles, 1e-5 of the forward intensity
    assert float(error.max()) < 2e-2


@pytest.mark.parametrize("name", TABULATED)
def test_a_curve_does_not_depend_on_the_others(name):
    q, theta, _, tabulated = curves(name)
    together = tabulated(q, theta)
    alone = torch.cat([tabulated(q[i : i + 1], theta[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together[:6], alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", TABULATED)
def test_gradients_are_those_of_the_closed_forms(name):
    q, theta, _, tabulated = curves(name, torch.float64)
    q, theta = q[:6, :40], theta[:6].requires_grad_()
    weight = torch.rand(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    k = [c.name for c in CLASSES].index(name)
    found, expected = (
        torch.autograd.grad((form(q, theta).log() * weight).sum(), theta)[0]
        for form in (tabulated, SIMULATED[k])
    )
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-2)


def test_a_single_size_and_the_widest_spread_are_in_the_tables():
    p = torch.tensor([0.0, 1e-4, 0.005, 0.4])
    x = torch.linspace(0.01, 40.0, 300).expand(4, -1)
    rows = torch.arange(4, dtype=torch.int32)[:, None]
    found = size_tables.sphere(p, x)(rows, x)
    expected = schulz.sphere_average(x.double(), schulz.relative_variance(p)[:, None])
    envelope = (1 + x.double().square()).reciprocal().square()
    assert float(((found - expected) / envelope).abs().max()) < 1e-4


def test_beyond_the_table_it_falls_off_as_before():
    q = torch.tensor([[2.0, 20.0]])
    found = tabulated_saxs.sphere(q, torch.tensor([500.0]), torch.tensor([0.2]))[0]
    assert float(found[1] / found[0]) == pytest.approx(1e-4, rel=0.05)


def test_values_that_make_no_sense_spoil_no_others():
    q = torch.linspace(0.01, 0.3, 20).expand(3, -1)
    radius, p = torch.tensor([50.0, float("nan"), 80.0]), torch.full((3,), 0.1)
    found = tabulated_saxs.sphere(q, radius, p)
    good = torch.tensor([0, 2])
    torch.testing.assert_close(found[good], saxs.sphere(q[good], radius[good], p[good]), rtol=1e-4, atol=0)
