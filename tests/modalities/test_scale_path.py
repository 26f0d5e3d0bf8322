"""Fits of coherent patterns whose scale is free: exact slopes, and Gaussians along a bent ridge."""

from dataclasses import replace

import pytest
import torch

from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.modalities import solutions as solutions_of
from nfphasing_bluesky.modalities.half_pattern import SCALE, SPREAD, half_pattern
from nfphasing_bluesky.modalities.population import Mixture
from nfphasing_bluesky.modalities.scale_path import along_scale
from nfphasing_bluesky.modalities.solutions import Search


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


def test_truths_are_nearer_to_a_ridge_than_to_its_peak(subject, monkeypatch):
    """The Gaussians along the scale give the objects of simulated frames more than one at the peak does."""
    seen = []

    def kept(pattern, found, fit):
        path = along_scale(pattern, found, fit)
        seen.append((found, path))
        return path

    monkeypatch.setattr(solutions_of, "along_scale", kept)
    gains = []
    for pattern, z in zip(*patterns(subject, 3), strict=True):
        d = pattern.pixels
        anchor = solutions_of.solutions(pattern, Search(8, 60, 4), torch.Generator().manual_seed(1))
        peaks, path = seen[-1]
        ridge = Mixture(path.log_weight, path.location, path.factor)
        straight = Mixture(peaks.log_weight, peaks.location[:, :d], peaks.factor[:, :d, :d])
        assert len(anchor.location) == len(path.answer) > len(peaks.location)
        assert path.log_weight.exp().sum() == pytest.approx(1.0)
        # an object and its twin weigh the same
        shares = torch.zeros(len(peaks.location)).double().index_add(0, path.answer, path.log_weight.exp())
        assert shares.min() > 0 and shares.sort().values[-2:].diff().abs().max() < 0.02
        own, other = (m.log_parts(z[None, :d]).logsumexp(1)[0] for m in (ridge, straight))
        gains.append(float(own - other))
    assert sum(gains) > 1 and min(gains) > -3
