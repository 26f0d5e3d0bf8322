"""What solutions add to ideal bodies: fluctuations, and a little of something larger."""

import pytest
import torch

from nfphasing_bluesky.physics.shapes import solutions
from nfphasing_bluesky.physics.shapes.pair_distance import coefficients_from_p, p_from_coefficients, rg
from nfphasing_bluesky.physics.shapes.solutions import loose_aggregates, with_fluctuations

X = torch.linspace(0, 1, 401, dtype=torch.float64)


def spheres(n: int) -> torch.Tensor:
    p = 12 * X**2 * (2 - 3 * X + X**3)
    return coefficients_from_p(p.expand(n, -1), X, 14)


def test_fluctuations_have_the_size_that_is_asked_for():
    c = spheres(4000)
    p, q = (
        p_from_coefficients(c, X),
        p_from_coefficients(with_fluctuations(c, torch.Generator().manual_seed(0)), X),
    )
    assert torch.allclose(torch.trapezoid(q, X, dim=-1), torch.ones(4000, dtype=torch.float64), atol=1e-3)
    middle = (X > 0.02) & (X < 0.98)
    spread = (q / p)[:, middle].log().std()
    # a uniform size between 0 and FLUCTUATION has the root mean square FLUCTUATION / 3^0.5
    assert float(spread) == pytest.approx(solutions.FLUCTUATION / 3**0.5, rel=0.25)


def test_fluctuations_widen_the_distribution_of_rg():
    c = with_fluctuations(spheres(2000), torch.Generator().manual_seed(1))
    found = rg(p_from_coefficients(c, X), X)
    assert 0.003 < float(found.std() / found.mean()) < 0.06


def test_aggregates_follow_guinier_and_porod():
    extent = 100.0
    small = torch.tensor([1e-4, 2e-4], dtype=torch.float64)
    slope = -torch.log(loose_aggregates(small * extent)) / small.square()
    torch.testing.assert_close(slope, torch.full_like(slope, 6 * 0.03 * extent**2 / 3), rtol=2e-3, atol=0)
    far = loose_aggregates(torch.tensor([1e3, 1e4], dtype=torch.float64))
    assert float(far[0] / far[1]) == pytest.approx(1e4, rel=1e-3)
