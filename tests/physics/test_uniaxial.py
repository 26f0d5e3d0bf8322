"""Uniaxial patterns in polar harmonics against those of every pixel, which are checked against sasmodels."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics import saxs2d
from nfphasing_bluesky.physics.particles import uniaxial
from nfphasing_bluesky.physics.particles.oriented import Gaussian, Orientation, gaussian_sizes

Q_TOP = 0.14
MODULUS = torch.linspace(0.003, 1, 40, dtype=torch.float64)
AZIMUTH = torch.linspace(0, torch.pi, 37, dtype=torch.float64)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def degrees(value: float) -> torch.Tensor:
    return torch.deg2rad(tensor(value))


@pytest.fixture(scope="module")
def rings() -> uniaxial.Rings:
    return uniaxial.rings(MODULUS)


@pytest.fixture(scope="module")
def plane() -> saxs2d.Plane:
    q = Q_TOP * MODULUS[:, None]
    return saxs2d.plane(q * AZIMUTH.cos(), q * AZIMUTH.sin(), 900.0)


def pattern(rings, values, theta, phi, spread, tilt_spread, cut=6.0) -> torch.Tensor:
    angles = [degrees(v) for v in (theta, spread, tilt_spread)]
    coefficients = uniaxial.harmonics(rings, uniaxial.multipoles(rings, values), *angles, tensor(cut))
    even = 2 * torch.arange(coefficients.shape[2], dtype=torch.float64)
    return coefficients[0] @ (even[:, None] * (AZIMUTH - degrees(phi))).cos()


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error over the largest value of the ring."""
    return float(((found - expected).abs() / expected.amax(1, keepdim=True)).max())


# spreads of zero hold all harmonics; at 90 degrees the two conventions are one
@pytest.mark.parametrize(
    ("theta", "spread", "tilt_spread", "cut"),
    [
        (90, 12, 8, 6),
        (90, 12, 8, 2.5),
        (90, 30, 25, 3),
        (90, 4, 3, 4),
        (60, 0, 0, 3),
        (35, 0, 0, 3),
        (90, 0, 20, 2),
    ],
)
@pytest.mark.parametrize("shape", ["cylinder", "ellipsoid"])
def test_patterns_are_those_of_every_pixel(rings, plane, shape, theta, spread, tilt_spread, cut):
    sizes = (45.0, 300.0) if shape == "cylinder" else (100.0, 40.0)
    values = getattr(uniaxial, shape)(rings, *(tensor(Q_TOP * s) for s in sizes), tensor(0.1))
    jitter = [Gaussian(degrees(v), cut) for v in (tilt_spread, spread)]
    view = Orientation(degrees(theta), degrees(30), None, *jitter)
    expected = getattr(saxs2d, shape)(plane, *(tensor(s) for s in sizes), view, gaussian_sizes(tensor(0.1)))
    assert worst(pattern(rings, values, theta, 30, spread, tilt_spread, cut), expected[0]) < 2e-5


def test_a_tilted_particle_spreads_about_the_beam(rings):
    """Where sasmodels' order of rotations differs: a mean of patterns turned in the detector."""
    values = uniaxial.cylinder(rings, tensor(Q_TOP * 30), tensor(Q_TOP * 250), tensor(0.1))
    found = pattern(rings, values, 60, 20, 9, 5)
    x, w = np.polynomial.hermite_e.hermegauss(25)
    turned = [pattern(rings, values, 60, 20 + 9 * float(v), 0, 5) for v in x]
    expected = sum(weight * one for weight, one in zip(w / w.sum(), turned, strict=True))
    assert worst(found, expected) < 1e-6
    weights = w * np.cos(np.radians(5 * x))
    leaning = [pattern(rings, values, 60 + 5 * float(v), 20, 9, 0) for v in x]
    expected = sum(weight * one for weight, one in zip(weights / weights.sum(), leaning, strict=True))
    assert worst(found, expected) < 1e-6


def test_a_spinning_parallelepiped_is_the_mean_over_psi(rings, plane):
    a, b, c = 60.0, 35.0, 160.0
    values = uniaxial.parallelepiped(rings, *(tensor(Q_TOP * s) for s in (a, b, c)), tensor(0.0))
    psi = (torch.arange(72, dtype=torch.float64) + 0.5) * torch.pi / 72
    ones = torch.ones_like(psi)
    view = Orientation(degrees(70) * ones, degrees(30) * ones, psi)
    near = saxs2d.parallelepiped(plane, a * ones, b * ones, c * ones, view).mean(0)
    assert worst(pattern(rings, values, 70, 30, 0, 0), near) < 2e-5


def test_distributed_sides(rings):
    """The mean over sides a and b by brute force, weighted with V^2."""
    sizes = gaussian_sizes(tensor(0.2))
    found = uniaxial.parallelepiped(rings, tensor(7.0), tensor(4.0), tensor(20.0), tensor(0.2))[0]
    t, w = sizes.values[0], sizes.weights[0] * sizes.values[0].square()
    first, second = (m.flatten() for m in torch.meshgrid(t, t, indexing="ij"))
    each = uniaxial.parallelepiped(rings, 7 * first, 4 * second, 20 + 0 * first, 0 * first)
    weights = torch.outer(w, w).flatten()
    expected = torch.einsum("n,nrm->rm", weights / weights.sum(), each)
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("shape", ["cylinder", "ellipsoid"])
def test_single_precision_is_enough_for_fits(rings, shape):
    args, angles = (tensor(6.0), tensor(30.0), tensor(0.1)), [degrees(v) for v in (80, 10, 5)]

    def coefficients(own: uniaxial.Rings) -> torch.Tensor:
        made = getattr(uniaxial, shape)(own, *args)
        return uniaxial.harmonics(own, uniaxial.multipoles(own, made), *angles, tensor(3.0))

    single = coefficients(rings.to("cpu", torch.float32))[0]
    assert single.dtype == torch.float32
    assert worst(single.double(), coefficients(rings)[0]) < 2e-6


def test_gradients(rings):
    few = uniaxial.rings(MODULUS[::13], degree=20)

    def total(values: torch.Tensor, shape: str) -> torch.Tensor:
        a, b, p, theta, spread, tilt, cut = (value[None] for value in values)
        sizes = (a, b, a + b) if shape == "parallelepiped" else (a, b)
        made = getattr(uniaxial, shape)(few, *sizes, p)
        return uniaxial.harmonics(few, uniaxial.multipoles(few, made), theta, spread, tilt, cut)

    for shape in ("cylinder", "ellipsoid", "parallelepiped"):
        values = tensor(3.0, 5.0, 0.1, 1.2, 0.2, 0.1, 2.5).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda v, s=shape: total(v, s), values, eps=1e-5, atol=1e-5, rtol=1e-3
        )
