"""Random bodies: analytic p(r), symmetry of the draws, and the range of shapes."""

import pytest
import torch

from nfphasing_bluesky.physics.shapes import bodies, pair_distance, solids


def ball(n: int, hollow: float = 0.0, axes: tuple[float, float, float] = (1, 1, 1), cylinder: bool = False):
    shape = (n, 1)
    return solids.Primitives(
        torch.zeros(n, 1, 3),
        torch.tensor(axes, dtype=torch.float32).expand(n, 1, 3),
        torch.eye(3).expand(n, 1, 3, 3),
        torch.full(shape, hollow),
        torch.full(shape, cylinder),
        torch.ones(shape),
    )


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


def test_sphere_has_its_pair_distances(generator):
    p, d_max = solids.pair_distances(ball(8), generator)
    x = torch.linspace(0, 1, 128)
    exact = 12 * x**2 * (1 - 1.5 * x + 0.5 * x**3) * 2
    assert (p.mean(0) - exact).norm() / exact.norm() < 0.02
    torch.testing.assert_close(d_max, torch.full((8,), 2.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (ball(4), 0.6**0.5 / 2),
        (ball(4, hollow=0.97), 0.495),
        (ball(4, axes=(0.02, 0.02, 1.0), cylinder=True), 12**-0.5),
    ],
    ids=["sphere", "shell", "rod"],
)
def test_radius_of_gyration_over_diameter(body, expected, generator):
    p, _ = solids.pair_distances(body, generator)
    rg = pair_distance.rg(p, torch.linspace(0, 1, 128))
    torch.testing.assert_close(rg, torch.full_like(rg, expected), rtol=1e-2, atol=0)


def test_overlap_is_not_counted_twice(generator):
    one = ball(1)
    two = solids.Primitives(*(torch.cat([v, v], 1) for v in vars(one).values()))
    p, _ = solids.pair_distances(two, generator, points=900)
    single, _ = solids.pair_distances(one, generator, points=900)
    assert (p - single).norm() / single.norm() < 0.05


def test_histogram_of_three_points():
    points = torch.tensor([[[0.0, 0, 0], [0.5, 0, 0], [0.0, 1.0, 0]]])
    weights = torch.tensor([[1.0, 2.0, 1.0]])
    p, d_max = solids.pair_distance_histogram(points, weights, bins=65)
    assert d_max.item() == pytest.approx(1.25**0.5)
    x = torch.linspace(0, 1, 65)
    near, far = p[0, x < 0.7].sum(), p[0, x > 0.7].sum()
    # weights 2 at 0.5, 1 at 1, 2 at 1.118 (the last falls on the end point, which is set to 0, in part)
    assert near > far
    assert (p[0] > 0).sum() <= 6


def test_bodies_repeat_with_their_seed_and_differ_without():
    first, again = (bodies.sample_shapes(12, torch.Generator().manual_seed(3), 16) for _ in range(2))
    other = bodies.sample_shapes(12, torch.Generator().manual_seed(4), 16)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("family", list(bodies.FAMILIES))
def test_every_family_makes_proper_distributions(family, generator):
    body = bodies.FAMILIES[family][0](6, generator)
    p, d_max = solids.pair_distances(body, generator)
    points, weights = solids.draw_points(body, 200, generator)
    assert torch.isfinite(p).all() and (p >= 0).all() and (d_max > 0).all()
    torch.testing.assert_close(p.sum(1) / 127, torch.ones(6), rtol=1e-4, atol=0)
    assert (weights > 0).float().mean() > 0.7
    extent = torch.cdist(points, points) * ((weights[:, :, None] > 0) & (weights[:, None] > 0))
    assert (extent.amax((1, 2)) <= 1.02 * d_max).all()


def test_the_prior_spans_compact_long_and_hollow(generator):
    c = bodies.sample_shapes(240, generator, 24)
    torch.testing.assert_close(c.square().sum(1) / 2, torch.ones(240))
    x = torch.linspace(0, 1, 401)
    ratio = pair_distance.rg(pair_distance.p_from_coefficients(c, x), x)
    assert ratio.min() < 0.29 and ratio.max() > 0.42
    assert ((ratio > 0.31) & (ratio < 0.33)).sum() > 5
