"""What solutions add to ideal bodies: fluctuations, and a little of something larger."""

import pytest
import torch

from nfphasing_bluesky.physics import solutions
from nfphasing_bluesky.physics.pair_distance import coefficients_from_p, p_from_coefficients, rg_over_dmax
from nfphasing_bluesky.physics.solutions import with_aggregates, with_fluctuations

X = torch.linspace(0, 1, 401, dtype=torch.float64)


def spheres(n: int) -> torch.Tensor:
    p = 12 * X**2 * (2 - 3 * X + X**3)
    return coefficients_from_p(p.expand(n, -1), X, 14)


def test_none_are_mixed_when_none_should_be():
    c = spheres(20)
    assert torch.equal(with_aggregates(c, 0.0, torch.Generator().manual_seed(0)), c)


def test_the_share_that_is_asked_for_is_mixed_and_stays_normalised():
    c = spheres(4000)
    mixed = with_aggregates(c, 0.3, torch.Generator().manual_seed(0))
    changed = (mixed != c).any(1)
    assert abs(float(changed.double().mean()) - 0.3) < 0.03
    area = torch.trapezoid(p_from_coefficients(mixed, X), X, dim=-1)
    assert torch.allclose(area, torch.ones_like(area), atol=1e-3)


def test_a_trace_of_large_spheres_has_the_rg_that_the_moments_add_up_to(monkeypatch):
    monkeypatch.setattr(solutions, "FRACTION", (0.1, 0.1 + 1e-12))
    monkeypatch.setattr(solutions, "SIZE_RATIO", (2.0, 2.0 + 1e-12))
    mixed = with_aggregates(spheres(3), 1.0, torch.Generator().manual_seed(0))
    # Rg^2 = 0.9 Rg1^2 + 0.1 Rg2^2 with Rg1 = 0.6^0.5 / 4 and Rg2 = 0.6^0.5 / 2 of the larger diameter
    expected = (0.9 * 0.6 / 16 + 0.1 * 0.6 / 4) ** 0.5
    assert torch.allclose(rg_over_dmax(mixed), torch.full((3,), expected, dtype=torch.float64), rtol=5e-3)


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
    rg = rg_over_dmax(with_fluctuations(spheres(2000), torch.Generator().manual_seed(1)))
    assert 0.003 < float(rg.std() / rg.mean()) < 0.03
