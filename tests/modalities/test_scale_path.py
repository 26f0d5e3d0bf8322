"""Fits of coherent patterns whose scale is free: exact slopes, and Gaussians along a bent ridge."""

from dataclasses import replace

import pytest
import torch

from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.modalities.coherent.half_pattern import SCALE, SPREAD, half_pattern
from nfphasing_bluesky.modalities.coherent.peaks import Known, fit
from nfphasing_bluesky.modalities.coherent.population import Mixture
from nfphasing_bluesky.modalities.coherent.scale_path import along_scale, told_apart
from nfphasing_bluesky.modalities.coherent.solutions import Search, solutions
from nfphasing_bluesky.training.rounds import simulate_usable


@pytest.fixture(scope="module")
def subject():
    return modality("saxs2d-cdi", {"shape": (5, 4)})


def patterns(subject, n):
    """Frames, and the true coordinates of each."""
    generator = torch.Generator().manual_seed(8)
    draws = subject.sample_prior(n, generator)
    batch, truth = subject.simulate(draws, generator)
    mean, deviation = subject.background.moments()
    scale, background = truth["scale"].double(), truth["background"].double()
    v = (scale / batch.scale).log() / SPREAD
    c = (background / scale - mean) / deviation
    z = torch.cat([subject.prior.latent(draws.theta.double()), v[:, None], c[:, None]], 1)
    return [half_pattern(batch, i, subject.prior, (mean, deviation)) for i in range(n)], z


def test_slopes_are_those_of_the_posterior(subject):
    (pattern,), z = patterns(subject, 1)
    z = (z + 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(-pattern.log_posterior(z).sum(), z)
    curvature, found = pattern.normal_equations(z.detach())
    torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-8)
    slopes = torch.autograd.functional.jacobian(lambda x: pattern.residuals(x)[0], z.detach())[:, 0]
    torch.testing.assert_close(curvature[0], slopes.mT @ slopes + torch.eye(z.shape[1]), rtol=1e-6, atol=1e-6)


def test_a_held_scale_stays_where_it_is(subject):
    (pattern,), z = patterns(subject, 1)
    curvature, gradient = replace(pattern, held=True).normal_equations(z)
    step = torch.linalg.solve(curvature, gradient)
    assert step[0, SCALE] == 0 and step.abs().max() > 0


def test_starts_have_the_scale_of_least_squares(subject):
    (pattern,), z = patterns(subject, 1)
    start = pattern.starts(z[:, : pattern.pixels])
    moved = start.repeat(2, 1)
    moved[:, SCALE] += torch.tensor([-1e-3, 1e-3])
    chi2 = pattern.residuals(torch.cat([start, moved])).square().sum(1)
    assert chi2[0] < chi2[1:].min()


def path_of(pattern, peaks):
    """Gaussians along the ridges of peaks, each ridge once."""
    return told_apart(along_scale(pattern, peaks, lambda p, z: fit(p, z, 12)), len(peaks.location))[0]


@pytest.fixture(scope="module")
def followed(subject):
    """Of simulated frames: the pattern, the Gaussians of its peaks, the path, and the true object."""
    seen = []
    for pattern, z in zip(*patterns(subject, 6), strict=True):
        known, generator = Known(pattern), torch.Generator().manual_seed(1)
        known.begin(torch.randn(8, pattern.pixels, generator=generator, dtype=torch.float64), 60)
        peaks = known.laplace(known.heavy()[:4])
        seen.append((pattern, peaks, path_of(pattern, peaks), z[: pattern.pixels]))
    return seen


def shares(path, count):
    """(count,) weight of each answer."""
    return torch.zeros(count).double().index_add(0, path.answer, path.log_weight.exp())


def test_truths_are_nearer_to_a_ridge_than_to_its_peak(followed):
    """The Gaussians along the scale give the objects of simulated frames more than one at the peak does."""
    gains = []
    for pattern, peaks, path, z in followed:
        d = pattern.pixels
        ridge = Mixture(path.log_weight, path.location, path.factor)
        straight = Mixture(peaks.log_weight, peaks.location[:, :d], peaks.factor[:, :d, :d])
        own, other = (m.log_parts(z[None]).logsumexp(1)[0] for m in (ridge, straight))
        gains.append(float(own - other))
    # most gain many nats, and where the peak is as good little is lost
    assert sorted(gains)[3] > 1 and min(gains) > -3 and sum(gains) > 20


def test_an_object_and_its_twin_weigh_the_same(followed):
    for _, peaks, path, _ in followed:
        assert path.log_weight.exp().sum() == pytest.approx(1.0)
        heavy = shares(path, len(peaks.location)).sort().values[-2:]
        assert heavy[0] > 0 and heavy.diff().abs().max() < 0.02


def test_two_peaks_of_one_ridge_are_one_answer(followed):
    for pattern, peaks, path, _ in followed[:2]:
        stride = 0.5 * peaks.factor[:, SCALE, :].norm(dim=1)[:, None]
        covariance = (peaks.factor @ peaks.factor.mT)[:, :, SCALE]
        begin = peaks.location - stride * covariance / covariance[:, SCALE, None]
        moved = fit(replace(pattern, held=True), begin, 12)
        twice = Mixture(
            peaks.log_weight.repeat(2), torch.cat([peaks.location, moved]), peaks.factor.repeat(2, 1, 1)
        )
        again = path_of(pattern, twice)
        count = len(peaks.location)
        found = shares(again, 2 * count).view(2, count)
        assert (found.amin(0) == 0).all()
        # whichever of the peaks of a ridge stands for it
        once, twice = (part.sort().values for part in (shares(path, count), found.sum(0)))
        torch.testing.assert_close(twice, once, atol=0.05, rtol=0)


def test_a_truth_whose_peak_weighs_nothing_is_among_the_answers():
    """The peaks of a pattern of 8 x 8 pixels of which that of the true object is 25 nats below the best."""
    subject = modality("saxs2d-cdi")
    batch, draws, _ = simulate_usable(subject, 20, torch.Generator().manual_seed(20_000_000))
    pattern = half_pattern(batch, 11, subject.prior, subject.background.moments())
    anchor = solutions(pattern, Search(16, 60, 8), torch.Generator().manual_seed(1))
    found = Mixture(anchor.features[:, 0], anchor.location, anchor.factor)
    truth = subject.prior.latent(draws.theta[11:12].double())
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(truth).sum()
    assert found.log_parts(truth).logsumexp(1) - prior > 50
