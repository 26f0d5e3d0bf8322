"""Fits before any network: they find the truth, and their covariance is that of an exact posterior."""

import math

import pytest
import torch

from nfphasing_bluesky.modalities import Anchors, Draws, modality
from nfphasing_bluesky.modalities.anchors import anchor_features
from nfphasing_bluesky.models import load

N = 100


def spheres(count: int, seed: int = 4):
    subject = modality("saxs1d-particles")
    generator = torch.Generator().manual_seed(seed)
    draws = subject.sample_prior(4 * count, generator)
    chosen = (draws.label == 0).nonzero()[:count, 0]
    draws = Draws(draws.label[chosen], draws.theta[chosen], torch.arange(count))
    batch, _ = subject.simulate(draws, generator)
    y, _ = subject.box(0)(draws.theta[:, :2].double(), draws.theta)
    return subject, batch, y


@pytest.fixture(scope="module")
def sphere_fits():
    subject, batch, y = spheres(N)
    return subject, batch, y, subject.anchors(batch).get(0, torch.arange(N))


def test_sphere_fits_are_calibrated(sphere_fits):
    _, _, y, anchor = sphere_fits
    pull, _ = anchor.standardise(y.float())
    good = anchor.features[:, -3] < 0.01
    assert good.sum() > 0.8 * N
    squares = pull[good].square().sum(1)
    # chi^2 of two degrees of freedom: median 1.39
    assert 0.8 < float(squares.median()) < 2.2
    assert float((squares < 5.99).double().mean()) > 0.7


def test_the_fit_is_where_the_posterior_is_highest(sphere_fits):
    subject, batch, _, anchor = sphere_fits
    sharp = (anchor.features[:, -3] < 0.01).nonzero()[:10, 0]

    def density(y):
        theta, log_det = subject.box(0).inverse(y.double(), y)
        label = torch.zeros(len(y), dtype=torch.long)
        padded = torch.nn.functional.pad(theta.float(), (0, subject.width - 2))
        draws = Draws(label, padded, sharp)
        return subject.log_likelihood(draws, batch) + subject.log_prior(draws) + log_det

    best = density(anchor.location[sharp])
    for direction in torch.eye(2):
        for sign in (-1.5, 1.5):
            moved = anchor.location[sharp] + sign * (anchor.factor[sharp] @ direction)
            assert float((density(moved) < best).double().mean()) >= 0.9


def test_a_fit_does_not_depend_on_its_batch(sphere_fits):
    subject, batch, _, anchor = sphere_fits
    alone = subject.anchors(batch).get(0, torch.tensor([7]))
    sigma = anchor.factor[7].diagonal()
    assert float(((alone.location[0] - anchor.location[7]) / sigma).abs().max()) < 1e-3
    assert torch.allclose(alone.factor[0], anchor.factor[7], rtol=1e-3, atol=1e-6)


def test_classes_fitted_together_are_fitted_as_alone():
    subject = modality("saxs1d-particles")
    generator = torch.Generator().manual_seed(6)
    batch, _ = subject.simulate(subject.sample_prior(24, generator), generator)
    rows = {0: torch.arange(24), 1: torch.arange(3, 20), 2: torch.arange(0, 24, 2), 3: torch.tensor([5])}
    together = subject.anchors(batch)
    together.prepare(rows)
    for k, mine in rows.items():
        found, alone = together.get(k, mine), subject.anchors(batch).get(k, mine)
        pulls = (found.location - alone.location) / alone.factor.diagonal(dim1=1, dim2=2)
        assert float((pulls.abs().amax(1) < 1e-2).double().mean()) > 0.9
        assert found.features.shape == alone.features.shape


def test_a_curve_of_another_class_gets_a_wide_anchor():
    subject = modality("saxs1d-particles")
    generator = torch.Generator().manual_seed(8)
    draws = subject.sample_prior(200, generator)
    # long thin cylinders, which no sphere explains
    long = (draws.label == 3) & (draws.theta[:, 1] - draws.theta[:, 0] > math.log(8))
    draws = Draws(draws.label[long], draws.theta[long], torch.arange(int(long.sum())))
    batch, _ = subject.simulate(draws, generator)
    anchors = subject.anchors(batch)
    everyone = torch.arange(len(batch))
    right, wrong = anchors.get(3, everyone), anchors.get(0, everyone)
    assert float(wrong.features[:, -3].median()) > float(right.features[:, -3].median()) + 0.5


def test_anchors_are_found_once_and_only_when_asked_for():
    subject, batch, _ = spheres(6)
    asked: list[int] = []

    def find(k, frames):
        asked.extend(frames.tolist())
        return subject.anchors(batch).get(k, frames)

    lazy = Anchors(6, find)
    first = lazy.get(0, torch.tensor([4, 1]))
    again = lazy.get(0, torch.tensor([1, 2, 4]))
    assert sorted(asked) == [1, 2, 4]
    assert torch.equal(first.location[0], again.location[2])
    with pytest.raises(LookupError, match="no anchor of class 0"):
        Anchors(6).get(0, torch.tensor([0]))


@pytest.mark.parametrize("name", ["saxs1d-particles", "saxs1d-pr"])
def test_curves_that_make_no_sense_get_a_finite_anchor_and_spare_the_others(name):
    subject = modality(name, None, load(name).part("prior"))
    generator = torch.Generator().manual_seed(6)
    batch, _ = subject.simulate(subject.sample_prior(8, generator), generator)
    alone = subject.anchors(batch).get(0, torch.tensor([5]))
    batch.intensity[0] = 1e30
    batch.intensity[1] = -batch.intensity[1]
    batch.intensity[2] = 0.0
    batch.sigma[3] = 1e-25
    batch.intensity[4, ::2] *= -1e20
    anchor = subject.anchors(batch).get(0, torch.arange(8))
    for part in (anchor.location, anchor.factor, anchor.features):
        assert torch.isfinite(part).all()
    assert (anchor.factor.diagonal(dim1=1, dim2=2) > 0).all()
    assert torch.allclose(anchor.location[5], alone.location[0], atol=1e-3)


def test_features_tell_of_rival_minima():
    """Core-shell spheres: where all four fits had come to, best first, and how far behind the others are."""
    subject = modality("saxs1d-particles")
    generator = torch.Generator().manual_seed(3)
    draws = subject.sample_prior(32, generator)
    shells = (draws.label == 1).nonzero()[:, 0]
    batch, _ = subject.simulate(draws, generator)
    everyone = torch.arange(len(shells))
    anchor = subject.anchors(batch.at(shells)).get(1, everyone)
    rivals = anchor.features[:, anchor_features(5) :]
    assert rivals.shape == (len(shells), 4 * 5 + 3 + 4)
    behind = rivals[:, 20:23]
    assert (behind >= 0).all() and (behind.diff(dim=1) >= 0).all()
    # a fit is never worse than where the best of the trials was
    best = anchor.location + (anchor.factor @ (2 * rivals[:, :5]).sinh()[:, :, None])[:, :, 0]
    theta = subject.box(1).inverse(torch.stack([best, anchor.location]).double(), best)[0].float()
    found = [subject.log_likelihood(Draws(draws.label[shells], t, everyone), batch.at(shells)) for t in theta]
    ended = (rivals[:, :5].abs().amax(1) < 3) & (anchor.features[:, 2 * 5] < 0.01)
    assert ended.sum() >= 3
    assert (found[1] > found[0] - 1)[ended].all()
