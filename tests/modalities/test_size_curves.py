"""Sums over the points of many sizes: interpolated between nodes they are those of each size on its own."""

import dataclasses

import pytest
import torch

from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.models import load
from nfphasing_bluesky.training.rounds import simulate_usable

DRAWS = 160


@pytest.fixture(scope="module")
def subject():
    return modality("saxs1d-pr", None, load("saxs1d-pr").part("prior"))


@pytest.fixture(scope="module")
def frames(subject):
    return simulate_usable(subject, 12, torch.Generator().manual_seed(3))


def around(subject, frames, i, spread):
    """One frame, and draws around its truth with a few far away."""
    batch, draws, _ = frames
    generator = torch.Generator().manual_seed(i)
    theta = draws.theta[i] + spread * torch.randn(DRAWS, 4, generator=generator)
    theta[:4] = subject.sample_prior(4, generator).theta
    low, high = subject.bounds(torch.zeros(1, dtype=torch.long))
    nothing = torch.zeros(DRAWS, dtype=torch.long)
    drawn = Draws(nothing, torch.minimum(torch.maximum(theta, low), high), nothing)
    return batch.at(torch.tensor([i])), drawn


@pytest.mark.parametrize("spread", [0.003, 0.03, 0.15])
def test_a_frame_at_once_agrees_with_each_draw_alone(subject, frames, spread):
    for i in range(len(frames.batch)):
        batch, drawn = around(subject, frames, i, spread)
        noise = torch.randn(DRAWS, subject.noise_columns, generator=torch.Generator().manual_seed(i))
        together = subject.evaluate(drawn, batch, noise)
        # as frames of their own, so that nothing is shared
        own = dataclasses.replace(drawn, frame=torch.arange(DRAWS))
        alone = subject.evaluate(own, batch.at(drawn.frame), noise)
        likely = alone.log_likelihood > alone.log_likelihood.max() - 15
        difference = (together.log_likelihood - alone.log_likelihood)[likely].abs()
        assert float(difference.max()) < 0.05
        # a draw in a thousand or so is of another component: those that hardly any draw wants are left out
        beta = (together.nuisance["beta"] - alone.nuisance["beta"])[likely].abs()
        assert float((beta > 2e-5).double().mean()) <= 0.02
        off = ((together.predicted - alone.predicted).abs() / batch.sigma)[likely][:, ~batch.mask[0]]
        assert float(off[beta <= 2e-5].max()) < 0.02


def test_draws_in_any_order_of_frames_agree(subject, frames):
    batch, draws, _ = frames
    order = torch.randperm(len(draws), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        subject.log_likelihood(draws.at(order), batch), subject.log_likelihood(draws, batch)[order]
    )
