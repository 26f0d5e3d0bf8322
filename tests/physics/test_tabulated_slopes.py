"""Derivatives of curves from tables against those of the closed forms by autograd."""

import pytest
import torch

from nfphasing_bluesky.modalities.saxs1d_particles import CLASSES, FORWARD, SIMULATED, SLOPES
from nfphasing_bluesky.physics.particles import orientation_rules, tabulated_slopes

TABULATED = ["sphere", "ellipsoid", "cylinder"]
N, Q = 48, 60


def objects(name):
    """Number of a class of `saxs1d-particles`, N objects of its prior, and their q."""
    k = [c.name for c in CLASSES].index(name)
    lower, upper = torch.tensor(CLASSES[k].lower), torch.tensor(CLASSES[k].upper)
    generator = torch.Generator().manual_seed(k)
    theta = lower + torch.rand(N, len(lower), generator=generator) * (upper - lower)
    return k, theta, torch.logspace(-2.7, -0.2, Q).expand(N, -1)


@pytest.mark.parametrize("name", TABULATED)
def test_curves_are_those_of_the_tables(name):
    k, theta, q = objects(name)
    torch.testing.assert_close(SLOPES[k](q, theta)[0], FORWARD[k](q, theta), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("name", TABULATED)
def test_derivatives_are_those_of_the_closed_forms(name):
    k, theta, q = objects(name)
    # a particle of its own for every point, so that one backward pass gives all derivatives
    each = theta.double()[:, None].expand(-1, Q, -1).flatten(0, 1).clone().requires_grad_()
    curve = SIMULATED[k](q.double().reshape(-1, 1), each)[:, 0]
    (gradient,) = torch.autograd.grad(curve.sum(), each)
    expected, found = gradient.view(N, Q, -1).mT, SLOPES[k](q, theta)[1]
    assert found.shape == expected.shape
    error = (found - expected).abs() / torch.maximum(expected.abs(), curve.detach().view(N, 1, Q))
    assert float(error.median()) < 3e-5
    assert float(error.flatten().quantile(0.99)) < 1e-3
    # the deepest minima
    assert float(error.max()) < 0.05


@pytest.mark.parametrize("name", TABULATED)
def test_what_is_computed_with_it_changes_nothing(name, monkeypatch):
    k, theta, q = objects(name)
    together = SLOPES[k](q, theta)
    alone = [SLOPES[k](q[i : i + 1], theta[i : i + 1]) for i in range(4)]
    monkeypatch.setattr(orientation_rules, "AT_ONCE", 5000)
    parts = SLOPES[k](q, theta)
    for whole, one, in_parts in zip(together, zip(*alone, strict=True), parts, strict=True):
        torch.testing.assert_close(whole[:4], torch.cat(one), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(whole, in_parts, rtol=1e-5, atol=1e-7)


def test_beyond_the_table_it_falls_off_as_before():
    q = torch.tensor([[2.0, 20.0]])
    _, slopes = tabulated_slopes.sphere_slopes(q, torch.tensor([500.0]), torch.tensor([0.2]))
    value, _ = tabulated_slopes.sphere_slopes(q, torch.tensor([500.0]), torch.tensor([0.2]))
    assert float(slopes[0, 0, 1] / value[0, 1]) == pytest.approx(-4.0, rel=1e-3)


def test_values_that_make_no_sense_spoil_no_others():
    q = torch.linspace(0.01, 0.3, 20).expand(3, -1)
    length, p = torch.tensor([50.0, float("nan"), 80.0]), torch.full((3,), 0.1)
    good = torch.tensor([0, 2])
    for form in (tabulated_slopes.ellipsoid_slopes, tabulated_slopes.cylinder_slopes):
        some = form(q, length, torch.full((3,), 60.0), p)
        own = form(q[good], length[good], torch.full((2,), 60.0), p[good])
        for part, alone in zip(some, own, strict=True):
            torch.testing.assert_close(part[good], alone, rtol=1e-4, atol=1e-6)
