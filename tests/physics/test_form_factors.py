"""Form factors of bodies of revolution against closed forms, also of complex q_z, and cut-up bodies."""

import math

import numpy as np
import pytest
import torch
from scipy.special import jv

from nfphasing_bluesky.physics.grazing.form_factors import Bodies, Shape, form_factor, volume, whole_spheres

Q = torch.tensor([1e-4, 0.01, 0.05, 0.1, 0.2], dtype=torch.float64)
Q_Z = torch.tensor([0.2 + 0.003j, 0.1, 0.03 + 0.01j, -0.15, 0.02], dtype=torch.complex128)


def one(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([[v]], dtype=torch.float64) for v in values]


def test_sphere():
    radius = 40.0
    x = radius * (Q**2 + Q_Z**2).sqrt()
    closed = 4 * math.pi * radius**3 * (x.sin() - x * x.cos()) / x**3 * torch.exp(1j * Q_Z * radius)
    torch.testing.assert_close(form_factor(whole_spheres(one(radius)[0]), Q, Q_Z)[0, 0], closed)


def test_cylinder():
    radius, height = 40.0, 70.0
    body = Bodies(Shape.CYLINDER, *one(radius, height))
    disc = torch.tensor(2 * math.pi * radius * jv(1, (Q * radius).numpy())) / Q
    closed = disc * (torch.exp(1j * Q_Z * height) - 1) / (1j * Q_Z)
    torch.testing.assert_close(form_factor(body, Q, Q_Z)[0, 0], closed)


def test_a_steep_cone_is_a_cylinder():
    sizes = one(40.0, 70.0)
    cone = Bodies(Shape.CONE, *sizes, *one(math.pi / 2 - 1e-9))
    torch.testing.assert_close(
        form_factor(cone, Q, Q_Z), form_factor(Bodies(Shape.CYLINDER, *sizes), Q, Q_Z), rtol=1e-6, atol=0
    )


def test_a_cone_and_its_top_make_a_higher_cone():
    side = one(1.0)
    whole, lower = (Bodies(Shape.CONE, *one(40.0, height), *side) for height in (50.0, 30.0))
    top = Bodies(Shape.CONE, *one(40.0 - 30.0 / math.tan(1.0), 20.0), *side)
    lifted = form_factor(top, Q, Q_Z) * torch.exp(30j * Q_Z)
    torch.testing.assert_close(form_factor(lower, Q, Q_Z) + lifted, form_factor(whole, Q, Q_Z))


def test_a_truncated_sphere_and_the_cap_below_it_make_a_sphere():
    """The cap is a truncated sphere upside down: its form factor is that of -q_z."""
    upper, cap = (Bodies(Shape.TRUNCATED_SPHERE, *one(40.0, height)) for height in (55.0, 25.0))
    halves = form_factor(upper, Q, Q_Z) * torch.exp(25j * Q_Z)
    halves = halves + form_factor(cap, Q, -Q_Z) * torch.exp(25j * Q_Z)
    torch.testing.assert_close(halves, form_factor(whole_spheres(one(40.0)[0]), Q, Q_Z))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (whole_spheres(one(10.0)[0]), 4 / 3 * math.pi * 1000),
        (Bodies(Shape.TRUNCATED_SPHERE, *one(10.0, 10.0)), 2 / 3 * math.pi * 1000),
        (Bodies(Shape.CYLINDER, *one(10.0, 7.0)), 700 * math.pi),
        (Bodies(Shape.CONE, *one(10.0, 10.0), *one(math.pi / 4)), math.pi * 1000 / 3),
    ],
)
def test_volume_is_the_form_factor_at_zero(body, expected):
    assert volume(body).item() == pytest.approx(expected)
    zero = torch.zeros(1, dtype=torch.float64)
    assert form_factor(body, zero, zero).real.item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", Shape)
def test_differentiable(shape):
    radius, height = (v.requires_grad_() for v in one(30.0, 25.0))
    side = one(1.2)[0].requires_grad_() if shape is Shape.CONE else None
    inputs = [v for v in (radius, height, side) if v is not None]

    def amplitude(*values: torch.Tensor) -> torch.Tensor:
        return form_factor(Bodies(shape, *values), Q, Q_Z) / 1e5

    assert torch.autograd.gradcheck(amplitude, inputs, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "sizes", "says"),
    [
        (Shape.TRUNCATED_SPHERE, (10.0, 21.0), "higher than twice"),
        (Shape.CONE, (10.0, 11.0, math.pi / 4), "sides meet"),
        (Shape.CONE, (10.0, 5.0), "belongs to cones"),
        (Shape.CYLINDER, (10.0, 5.0, 1.0), "belongs to cones"),
    ],
)
def test_impossible_bodies_are_refused(shape, sizes, says):
    with pytest.raises(ValueError, match=says):
        Bodies(shape, *one(*sizes))


def test_sizes_of_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(N, S\)"):
        whole_spheres(torch.tensor(np.ones(3)))
