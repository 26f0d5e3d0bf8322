"""Two-dimensional patterns and projected densities against analytic answers, numpy and each other."""

from math import pi

import numpy as np
import pytest
import torch
from scipy.special import j1

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.physics import saxs, saxs2d
from nfphasing_bluesky.physics.particles import projected_density
from nfphasing_bluesky.physics.particles.oriented import (
    Gaussian,
    Orientation,
    Spread,
    equispaced_gaussian,
    gaussian_sizes,
    moment,
    schulz_sizes,
)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def degrees(*values: float) -> torch.Tensor:
    return torch.deg2rad(tensor(*values))


def mesh(top: float, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """X and y over -top .. top, y along the rows."""
    axis = torch.linspace(-top, top, count, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def view(theta: float, phi: float, psi: float = 0.0, jitter: tuple[float, ...] = ()) -> Orientation:
    spreads = [Gaussian(degrees(value)) for value in jitter] + [None] * (3 - len(jitter))
    return Orientation(degrees(theta), degrees(phi), degrees(psi), *spreads)


def worst(found: torch.Tensor, expected: torch.Tensor, least: float = 1e-6) -> float:
    """Largest relative error where the expected intensity is above `least` of its maximum."""
    use = expected > least * expected.max()
    return float(((found - expected).abs() / expected)[use].max())


QX, QY = mesh(0.1, 41)


@pytest.mark.parametrize("theta", [0.0, 35.0, 90.0])
def test_cylinder_at_rest_is_the_closed_form(theta):
    n = torch.tensor([np.sin(np.radians(theta)) * np.cos(0.5), np.sin(np.radians(theta)) * np.sin(0.5)])
    along = (QX * n[0] + QY * n[1]).numpy()
    across = np.sqrt(np.maximum(QX.numpy() ** 2 + QY.numpy() ** 2 - along**2, 1e-30))
    expected = (2 * j1(45 * across) / (45 * across) * np.sinc(150 * along / pi)) ** 2
    orientation = Orientation(degrees(theta), tensor(0.5))
    found = saxs2d.cylinder(saxs2d.plane(QX, QY, 314), tensor(45), tensor(300), orientation)[0]
    assert worst(found, torch.from_numpy(expected)) < 2e-4
    assert (found - torch.from_numpy(expected)).abs().max() < 2e-8


def test_sphere_is_the_one_dimensional_model():
    pixels = saxs2d.plane(QX, QY, 240)
    sizes = schulz_sizes(tensor(0.1))
    found = saxs2d.ellipsoid(pixels, tensor(60), tensor(60), view(50, 20, 0, (20, 10)), sizes)[0]
    q = torch.hypot(QX, QY).flatten()
    expected = saxs.sphere(q, tensor(60), tensor(0.1)).view(QX.shape)
    assert worst(found, expected) < 1e-4


def test_every_orientation_averages_to_the_one_dimensional_cylinder():
    q = torch.linspace(0, 0.12, 40, dtype=torch.float64)
    u, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(80))
    # q lies along x, the axis makes an angle of cosine sin(theta) with it
    orientation = Orientation(((u + 1) / 2).asin(), torch.zeros_like(u))
    pixels = saxs2d.plane(q, torch.zeros_like(q), 420)
    ones = torch.ones_like(u)
    sizes = Spread(*(x.expand(80, -1) for x in vars(schulz_sizes(tensor(0.15))).values()))
    found = saxs2d.cylinder(pixels, 30 * ones, 200 * ones, orientation, sizes)
    expected = saxs.cylinder(q, tensor(30), tensor(200), tensor(0.15))[0]
    np.testing.assert_allclose(w @ found / 2, expected, rtol=1e-3)


@pytest.mark.parametrize("jitter", [(0.0, 0.0), (30.0, 0.0), (0.0, 30.0), (30.0, 30.0), (10.0, 20.0)])
@pytest.mark.parametrize("theta", [0.0, 25.0, 90.0])
def test_jitter_of_a_long_cylinder_by_brute_force(theta, jitter):
    qx, qy = QX.flatten()[::7], QY.flatten()[::7]
    found = saxs2d.cylinder(saxs2d.plane(qx, qy, 610), tensor(40), tensor(600), view(theta, 20, 0, jitter))[0]
    nodes = [Gaussian(degrees(value)).at(160) for value in jitter]
    dtheta, dphi = (x.flatten() for x in torch.meshgrid(*(n.values[0] for n in nodes), indexing="ij"))
    weight = torch.outer(*(n.weights[0] for n in nodes)).flatten() * dtheta.cos()
    frame = view(theta, 20).view()[0, :, :2]
    body = torch.stack([dtheta.sin(), -dphi.sin() * dtheta.cos(), dphi.cos() * dtheta.cos()], 1)
    along = body @ frame @ torch.stack([qx, qy])
    across = ((qx**2 + qy**2) - along.square()).clamp(min=1e-20).sqrt()
    disc = torch.from_numpy(2 * j1(40 * across.numpy())) / (40 * across)
    expected = (weight / weight.sum()) @ (disc * torch.sinc(300 * along / pi)).square()
    assert worst(found, expected) < 2e-4


def test_symmetries_and_forward_value():
    pixels = saxs2d.plane(QX, QY, 330)
    found = saxs2d.cylinder(pixels, tensor(45), tensor(300), view(60, 0, 0, (10, 15)))[0]
    np.testing.assert_allclose(found, found.flip(0, 1), atol=1e-12)
    np.testing.assert_allclose(found, found.flip(0), atol=1e-12)
    assert float(found[20, 20]) == pytest.approx(1, abs=1e-8)
    turned = saxs2d.cylinder(pixels, tensor(45), tensor(300), view(60, 90, 0, (10, 15)))[0]
    np.testing.assert_allclose(found, turned.T, atol=1e-9)


def test_cube_of_three_sides_turned_by_psi():
    pixels = saxs2d.plane(QX, QY, 190)
    first = saxs2d.parallelepiped(pixels, tensor(40), tensor(70), tensor(160), view(30, 40, 90))
    second = saxs2d.parallelepiped(pixels, tensor(70), tensor(40), tensor(160), view(30, 40, 0))
    np.testing.assert_allclose(first, second, atol=1e-10)
    frame = view(30, 40, 90).view()[0, :, :2]
    body = frame @ torch.stack([QX.flatten(), QY.flatten()]) * tensor(40, 70, 160)[:, None]
    expected = torch.sinc(body / (2 * pi)).prod(0).square().view(QX.shape)
    assert worst(first[0], expected) < 2e-4


def test_batches_are_their_members_and_float32_stays():
    pixels = saxs2d.plane(QX.float(), QY.float(), 400)
    theta, phi = degrees(20, 70).float(), degrees(-30, 110).float()
    jitter = Gaussian(degrees(4, 12).float())
    radius, length = tensor(30, 50).float(), tensor(90, 310).float()
    both = saxs2d.cylinder(pixels, radius, length, Orientation(theta, phi, None, jitter))
    assert both.dtype == torch.float32 and both.shape == (2, 41, 41)
    for i in range(2):
        alone = Orientation(theta[i : i + 1], phi[i : i + 1], None, Gaussian(jitter.sigma[i : i + 1]))
        one = saxs2d.cylinder(pixels, radius[i : i + 1], length[i : i + 1], alone)
        np.testing.assert_allclose(one[0], both[i], rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("theta", [0.0, 40.0])
@pytest.mark.parametrize("shape", ["cylinder", "ellipsoid", "parallelepiped"])
def test_gradients(shape, theta):
    pixels = saxs2d.plane(tensor(0, 0.03, -0.02), tensor(0, 0.01, 0.05), 130)

    def pattern(values: torch.Tensor) -> torch.Tensor:
        a, b, theta, phi, *jitter, p = (value[None] for value in values)
        orientation = Orientation(theta, phi, None, *(Gaussian(value) for value in jitter))
        if shape == "parallelepiped":
            return saxs2d.parallelepiped(pixels, a, b, a + b, orientation) + 0 * p
        return getattr(saxs2d, shape)(pixels, a, b, orientation, gaussian_sizes(p, 8))

    values = tensor(20, 40, np.radians(theta), 0.4, 0.1, 0.2, 0.05).requires_grad_()
    assert torch.autograd.gradcheck(pattern, values, eps=1e-5, atol=1e-6, rtol=1e-4)


def test_sizes_have_their_moments():
    sizes = schulz_sizes(tensor(1e-9, 0.1, 0.5))
    p2 = tensor(0, 0.1, 0.5).square()
    np.testing.assert_allclose(moment(sizes, 1), 1, rtol=1e-3)
    np.testing.assert_allclose(moment(sizes, 4), (1 + p2) * (1 + 2 * p2) * (1 + 3 * p2), rtol=5e-3)
    cut = gaussian_sizes(tensor(0.1), cut=6)
    np.testing.assert_allclose(moment(cut, 4), 1 + 6 * 0.01 + 3e-4, rtol=1e-6)
    coarse = equispaced_gaussian(degrees(10), 401)
    fine = Gaussian(degrees(10)).at(50)
    np.testing.assert_allclose(moment(coarse, 2), moment(fine, 2), rtol=2e-3)


def test_errors_say_what_to_do():
    with pytest.raises(GeometryError, match="spans 304.*larger d_max"):
        saxs2d.cylinder(saxs2d.plane(QX, QY, 200), tensor(25), tensor(300), view(0, 0))
    with pytest.raises(GeometryError, match="does not match"):
        saxs2d.plane(QX, QY[0], 200)
    with pytest.raises(GeometryError, match="expected above 0"):
        saxs2d.plane(0 * QX, 0 * QY, 200)


VIEWS = [(0.0, 0.0, 0.0), (90.0, 30.0, 0.0), (35.0, -70.0, 20.0)]


def solid(shape: str, x: torch.Tensor, y: torch.Tensor, orientation: Orientation) -> tuple:
    """Projection of a solid with its volume."""
    if shape == "parallelepiped":
        image = projected_density.parallelepiped(x, y, tensor(40), tensor(70), tensor(160), orientation)
        return image, 40 * 70 * 160
    if shape == "cylinder":
        return projected_density.cylinder(x, y, tensor(45), tensor(150), orientation), pi * 45**2 * 150
    image = projected_density.ellipsoid(x, y, tensor(90), tensor(30), orientation)
    return image, 4 / 3 * pi * 90 * 30**2


@pytest.mark.parametrize("angles", VIEWS)
@pytest.mark.parametrize("shape", ["cylinder", "ellipsoid", "parallelepiped"])
def test_projection_holds_the_volume(shape, angles):
    x, y = mesh(100, 401)
    image, volume = solid(shape, x, y, view(*angles))
    assert float(image.sum()) * 0.5**2 == pytest.approx(volume, rel=0.01)
    assert image.shape == (1, 401, 401) and (image >= 0).all()


@pytest.mark.parametrize("angles", VIEWS)
@pytest.mark.parametrize("shape", ["cylinder", "ellipsoid", "parallelepiped"])
def test_fourier_transform_of_the_projection_is_the_pattern(shape, angles):
    """The pattern is the squared transform of the projection (the projection-slice theorem)."""
    x, y = mesh(100, 401)
    orientation = view(*angles)
    image, volume = solid(shape, x, y, orientation)
    q = tensor(0, 0.02, 0.05, -0.03), tensor(0, 0.03, -0.01, -0.04)
    phase = q[0][:, None] * x.flatten() + q[1][:, None] * y.flatten()
    amplitude = (torch.polar(torch.ones_like(phase), phase) @ image.flatten().to(torch.complex128)) * 0.25
    lengths = {"cylinder": (45, 150), "ellipsoid": (90, 30), "parallelepiped": (40, 70, 160)}[shape]
    pixels = saxs2d.plane(*q, 190)
    found = getattr(saxs2d, shape)(pixels, *(tensor(v) for v in lengths), orientation)[0]
    np.testing.assert_allclose(found, (amplitude.abs() / volume).square(), atol=2e-3)


def test_sphere_along_and_across_an_axis():
    x, y = mesh(100, 51)
    r2 = x.square() + y.square()
    sphere = projected_density.ellipsoid(x, y, tensor(60), tensor(60), view(40, 20))[0]
    np.testing.assert_allclose(sphere, 2 * (3600 - r2).clamp(min=0).sqrt(), atol=1e-5)
    end_on = projected_density.cylinder(x, y, tensor(45), tensor(150), view(0, 0))[0]
    np.testing.assert_allclose(end_on, torch.where(r2 < 45**2, 150.0, 0.0), atol=1e-6)
    # phi = 0: the axis lies along x, the columns
    side_on = projected_density.cylinder(x, y, tensor(45), tensor(150), view(90, 0))[0]
    chord = 2 * (45**2 - y.square()).clamp(min=0).sqrt()
    np.testing.assert_allclose(side_on, torch.where(x.abs() < 75, chord, 0), atol=1e-6)
    box = projected_density.parallelepiped(x, y, tensor(41), tensor(71), tensor(161), view(0, 0))[0]
    np.testing.assert_allclose(box, torch.where((x.abs() < 20.5) & (y.abs() < 35.5), 161.0, 0), atol=1e-6)
    flat = projected_density.parallelepiped(x, y, tensor(41), tensor(71), tensor(161), view(90, 0))[0]
    np.testing.assert_allclose(flat, torch.where((x.abs() < 80.5) & (y.abs() < 35.5), 41.0, 0), atol=1e-6)


def test_projections_have_finite_gradients_and_keep_the_dtype():
    x, y = mesh(60, 31)
    radius, length, theta = (torch.tensor([v]).requires_grad_() for v in (40.0, 80.0, 0.0))
    orientation = Orientation(theta, torch.zeros(1))
    image = projected_density.cylinder(x, y, radius, length, orientation)
    image = image + projected_density.ellipsoid(x, y, radius, length, orientation)
    image = image + projected_density.parallelepiped(x, y, radius, length, length, orientation)
    assert image.dtype == torch.float32
    image.sum().backward()
    assert all(v.grad.isfinite().all() for v in (radius, length, theta))
