"""The prior of p(r) shapes: it recovers a mixture that is known, and what it samples is what it scores."""

import pytest
import torch

from nfphasing_bluesky.core import ModelError
from nfphasing_bluesky.modalities.shapes.shape_prior import COMPONENTS, GRID, ShapePrior, fit_mixture

X = torch.linspace(0, 1, GRID, dtype=torch.float64)


def shapes(n: int) -> torch.Tensor:
    """Sums of two bumps of varying place and width, of unit area."""
    generator = torch.Generator().manual_seed(0)
    place, width, share = (torch.rand(n, 1, generator=generator).double() for _ in range(3))
    p = torch.exp(-0.5 * ((X - 0.3 - 0.3 * place) / (0.08 + 0.1 * width)) ** 2)
    p = (p + share * torch.exp(-0.5 * ((X - 0.7) / 0.1) ** 2)) * X * (1 - X)
    return p / torch.trapezoid(p, X, dim=-1)[:, None]


@pytest.fixture(scope="module")
def prior() -> ShapePrior:
    made = ShapePrior()
    made.fit_to(shapes(6000), torch.Generator().manual_seed(1))
    return made


def test_mixture_recovers_two_clusters():
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(3000, 2, generator=generator).double() * torch.tensor([1.0, 0.5]) + 4
    second = torch.randn(1000, 2, generator=generator).double() - 4
    log_weight, centre, covariance = fit_mixture(torch.cat([first, second]), 2, 60, generator)
    order = centre[:, 0].argsort()
    assert torch.allclose(log_weight.exp()[order], torch.tensor([0.25, 0.75]).double(), atol=0.02)
    assert torch.allclose(centre[order], torch.tensor([[-4.0, -4.0], [4.0, 4.0]]).double(), atol=0.15)
    assert float(covariance[order[1], 1, 1]) == pytest.approx(0.35, abs=0.05)


def test_draws_are_shapes_like_those_it_was_fitted_to(prior):
    p = prior.shape(prior.sample(3000, torch.Generator().manual_seed(5))).double()
    truth = shapes(3000)
    assert torch.allclose(torch.trapezoid(p, X, dim=-1), torch.ones(3000).double(), atol=1e-4)
    assert float((p.mean(0) - truth.mean(0)).abs().max()) < 0.05
    assert float((p.std(0) - truth.std(0)).abs().max()) < 0.15


def test_density_is_that_of_the_draws(prior):
    z = prior.sample(4000, torch.Generator().manual_seed(6)).double()
    # E[p(z') / p(z)] = 1 for z' = z + a small common shift: the density integrates to one
    shifted = prior.log_prob(z + 0.05) - prior.log_prob(z)
    assert float(shifted.exp().mean()) == pytest.approx(1.0, abs=0.05)


def test_rg_is_the_second_moment(prior):
    z = prior.sample(50, torch.Generator().manual_seed(7)).double()
    p = prior.shape(z)
    expected = (torch.trapezoid(X**2 * p, X, dim=-1) / 2).sqrt()
    assert torch.allclose(prior.rg(z), expected, rtol=1e-6)


def test_state_round_trip(prior):
    other = ShapePrior()
    other.load(prior.state())
    z = prior.sample(5, torch.Generator().manual_seed(8))
    assert torch.equal(other.log_prob(z), prior.log_prob(z))
    assert z.shape == (5, COMPONENTS)


def test_sampling_before_fitting_says_what_to_do():
    with pytest.raises(ModelError, match="fit_prior"):
        ShapePrior().sample(3, torch.Generator())
