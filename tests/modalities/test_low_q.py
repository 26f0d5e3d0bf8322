"""The beginning of a curve, predicted from the rest of it."""

import math
from dataclasses import replace

import pytest
import torch

from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.modalities.curves import CurveBatch
from nfphasing_bluesky.modalities.shapes import low_q, size_scan
from nfphasing_bluesky.models import load
from nfphasing_bluesky.training.rounds import simulate_usable

N = 150


@pytest.fixture(scope="module")
def subject():
    return modality("saxs1d-pr", None, load("saxs1d-pr").part("prior"))


@pytest.fixture(scope="module")
def simulated(subject):
    batches = [simulate_usable(subject, N, torch.Generator().manual_seed(s))[0] for s in range(3)]
    return [(batch, subject.agreement(batch, subject.anchors(batch))) for batch in batches]


def test_the_probability_is_uniform_over_curves_of_the_prior(simulated):
    found = torch.cat([p for _, p in simulated])
    applies = ~found.isnan()
    assert 0.6 < float(applies.double().mean()) < 0.95
    p = found[applies].sort().values
    expected = (torch.arange(len(p), dtype=torch.float64) + 0.5) / len(p)
    # the 99 % quantile of Kolmogorov's distance
    assert float((p - expected).abs().max()) < 1.63 / len(p) ** 0.5
    assert float((p < 1e-4).double().mean()) < 0.01


def test_aggregates_far_above_a_trace_are_found(subject, simulated):
    judged = found = 0
    for batch, before in simulated:
        lowest = torch.where(batch.mask, torch.inf, batch.q).amin(1, keepdim=True)
        start = torch.where(batch.q < 1.5 * lowest, batch.intensity, 0.0).amax(1, keepdim=True)
        upturn = 0.6 * start / (1 + (batch.q / lowest).square()).square()
        # where the points are good enough to see it
        seen = torch.where(batch.mask, 0.0, upturn / batch.sigma).square().sum(1).sqrt()
        sharp = (before > 1e-3) & (seen > 15)
        spoilt = replace(batch, intensity=batch.intensity + upturn).at(sharp)
        after = subject.agreement(spoilt, subject.anchors(spoilt))
        judged += int((~after.isnan()).sum())
        found += int((after < 1e-4).sum())
    assert judged > 50
    assert found > 0.7 * judged


def test_a_beginning_that_was_not_measured_is_not_judged(subject, simulated):
    batch, _ = simulated[0]
    large = batch.at(subject.anchors(batch).get(0, torch.arange(len(batch))).location[:, 0] > 0.5)
    assert len(large) > 20
    cut = replace(large, mask=large.mask | (large.q < 0.06))
    assert bool(subject.agreement(cut, subject.anchors(large)).isnan().all())


def test_what_the_anchors_made_of_a_batch_changes_nothing(subject, simulated):
    batch, found = simulated[0]
    few = batch.at(torch.arange(20))
    anchors = subject.anchors(few)
    alone = subject.agreement(few, anchors)
    torch.testing.assert_close(alone, found[:20], rtol=1e-4, atol=1e-9, equal_nan=True)
    everyone = subject.anchors(batch).get(0, torch.arange(20))
    torch.testing.assert_close(anchors.get(0, torch.arange(20)).location, everyone.location)


def test_the_beginning_ends_at_twice_the_lowest_q_or_at_the_first_channel():
    q = torch.linspace(0.01, 0.1, 10)[None].expand(2, -1)
    curve = _curve(q, torch.ones_like(q), torch.ones_like(q))
    low = low_q.beginning(curve, torch.tensor([20.0, math.pi / 0.015]))
    assert low[0].tolist() == [True] + [False] * 9
    assert low[1].tolist() == [True] + [False] * 9
    finer = _curve(*(torch.linspace(0.01, 0.1, 100)[None],) * 3)
    reach = torch.where(low_q.beginning(finer, torch.tensor([20.0])), finer.q, 0.0).max()
    assert float(reach) == pytest.approx(0.02, abs=1e-3)


def test_the_prediction_is_that_of_linear_regression():
    """Curves that don't depend on the size: the textbook's predictive distribution, written out."""
    generator = torch.Generator().manual_seed(4)
    q = torch.linspace(0.01, 0.3, 40, dtype=torch.float64)[None]
    shapes = torch.stack([torch.exp(-40 * q[0]), q[0], torch.ones(40, dtype=torch.float64)], 1)
    sigma = 0.02 + 0.01 * torch.rand(1, 40, generator=generator, dtype=torch.float64)
    data = 3 * (shapes @ torch.tensor([1.0, 0.4, 0.05], dtype=torch.float64))[None]
    data = data + sigma * torch.randn(1, 40, generator=generator, dtype=torch.float64)
    curve = _curve(q, data, sigma)
    prior = size_scan.Coefficients(torch.tensor([0.1, 0.0]), torch.tensor([0.5, 0.1]))
    found = low_q.probability(
        lambda y: shapes.expand(1, y.shape[1], -1, -1), curve, torch.tensor([50.0]), prior
    )

    low = low_q.beginning(curve, torch.tensor([50.0]))[0]
    scale = _scale_without(shapes[~low], data[0, ~low], sigma[0, ~low], prior)
    precision = torch.diag(torch.cat([torch.zeros(1), prior.std.double() ** -2]).double()) / scale**2
    centre = scale * torch.cat([torch.zeros(1), prior.mean]).double()
    x, w = shapes[~low], sigma[0, ~low] ** -2
    covariance = torch.linalg.inv(x.T @ (w[:, None] * x) + precision)
    best = covariance @ (x.T @ (w * data[0, ~low]) + precision @ centre)
    off = data[0, low] - shapes[low] @ best
    spread = shapes[low] @ covariance @ shapes[low].T + torch.diag(sigma[0, low] ** 2)
    chi2 = off @ torch.linalg.solve(spread, off)
    expected = torch.special.gammaincc(low.sum().double() / 2, chi2 / 2)
    assert int(low.sum()) >= 2
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


def _scale_without(x, data, sigma, prior):
    """The scale that the coefficients' prior is relative to, by fixed-point iteration."""
    scale = 3.0
    for _ in range(50):
        precision = torch.diag(torch.cat([torch.zeros(1), prior.std.double() ** -2]).double()) / scale**2
        pulled = precision @ (scale * torch.cat([torch.zeros(1), prior.mean]).double())
        w = sigma**-2
        scale = float(torch.linalg.solve(x.T @ (w[:, None] * x) + precision, x.T @ (w * data) + pulled)[0])
    return scale


def _curve(q, intensity, sigma):
    n = len(q)
    return CurveBatch(
        q=q,
        intensity=intensity,
        sigma=sigma,
        mask=torch.zeros_like(q, dtype=torch.bool),
        contrast=torch.ones(n),
        q_relative_error=torch.zeros(n),
    )
