"""Draws that walk in the exact posterior: slopes against autograd, moments against quadrature."""

from dataclasses import replace

import pytest
import torch

from nfphasing_bluesky.core import Origin
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.modalities.coherent.half_pattern import half_pattern
from nfphasing_bluesky.modalities.coherent.object_walk import TRAJECTORIES, ExactPosterior, walked
from nfphasing_bluesky.modalities.draws import Draws
from tests.modalities.test_saxs2d_cdi import reconstructor


@pytest.mark.parametrize("known", [True, False])
def test_the_exact_posterior_is_that_of_the_modality(known):
    subject = modality("saxs2d-cdi", {"shape": (5, 4)})
    generator = torch.Generator().manual_seed(2)
    draws = subject.sample_prior(1, generator)
    batch, _ = subject.simulate(draws, generator)
    batch = replace(batch, scale_known=torch.tensor([known]))
    exact = ExactPosterior(
        half_pattern(batch, 0, subject.prior, subject.background.moments()), subject.background
    )
    z = subject.prior.latent(draws.theta.double()) + 0.1 * torch.randn(6, 20, dtype=torch.float64)
    z.requires_grad_()
    of_frame = Draws(
        torch.zeros(6, dtype=torch.long), torch.special.ndtr(z), torch.zeros(6, dtype=torch.long)
    )
    expected = subject.log_likelihood(of_frame, batch) - 0.5 * z.square().sum(1)
    (slopes,) = torch.autograd.grad(expected.sum(), z)
    value, found = exact(z.detach())
    torch.testing.assert_close(value.diff(), expected.detach().diff(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, slopes, rtol=1e-6, atol=1e-6)


def test_draws_that_begin_beside_the_posterior_end_with_its_moments():
    """Two pixels of which one is near its bound, so that the posterior is skewed."""
    subject = modality("saxs2d-cdi", {"shape": (1, 2), "correlation_px": 0.0})
    generator = torch.Generator().manual_seed(5)
    truth = torch.tensor([[0.97, 0.4]])
    draws = replace(subject.sample_prior(1, generator), theta=truth)
    sigma = torch.full((1, 1, 4), 0.1)
    batch, _ = subject.simulate(draws, generator)
    batch = replace(
        batch,
        intensity=subject.forward(draws, batch),
        sigma=sigma,
        mask=torch.zeros(1, 1, 4, dtype=torch.bool),
        scale=torch.ones(1, dtype=torch.float64),
        scale_known=torch.tensor([True]),
    )
    exact = ExactPosterior(
        half_pattern(batch, 0, subject.prior, subject.background.moments()), subject.background
    )
    line = torch.linspace(-5, 6, 701, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    grid = grid[grid[:, 0] > grid[:, 1]]
    weight = exact(grid)[0].softmax(0)
    mean = weight @ grid
    deviation = (weight @ (grid - mean).square()).sqrt()
    skewness = weight @ ((grid - mean) / deviation) ** 3
    assert skewness.abs().max() > 0.3
    location, factor = (mean + 1.5 * deviation)[None], torch.diag(1.5 * deviation)[None]
    begin = location + torch.randn(3000, 2, generator=generator, dtype=torch.float64) @ factor[0].mT
    own = torch.zeros(3000, dtype=torch.long)
    found, rate = walked(exact, begin, location, factor, own, TRAJECTORIES, generator)
    assert rate > 0.5
    # a few go over to the twin
    found = found.sort(1, descending=True).values
    error = deviation / 3000**0.5
    assert ((found.mean(0) - mean).abs() < 4 * error).all()
    torch.testing.assert_close(found.std(0), deviation, rtol=0.06, atol=0)
    torch.testing.assert_close((((found - mean) / deviation) ** 3).mean(0), skewness, rtol=0, atol=0.3)


def test_where_draws_walk_to_does_not_depend_on_the_frames_beside_them():
    subject = reconstructor((5, 4), 24, starts=2, steps=20, slots=2)
    generator = torch.Generator().manual_seed(3)
    batch, _ = subject.modality.simulate(subject.modality.sample_prior(2, generator), generator)
    batch = replace(batch, scale_known=torch.tensor([True, True]))
    origins = [Origin(seq_num=4), Origin(seq_num=9)]
    both = subject.reconstruct(batch, origins)
    alone = subject.reconstruct(batch.at(torch.tensor([1])), origins[1:])
    torch.testing.assert_close(*(torch.from_numpy(p.samples) for p in (both[1], alone[0])), rtol=0, atol=1e-4)
    assert 0.3 < both[1].trust.acceptance <= 1
