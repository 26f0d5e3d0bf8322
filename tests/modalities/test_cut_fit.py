"""Fits of pairs of cuts that begin at draws, and scales of draws that explain nothing."""

import pytest
import torch

from nfphasing_bluesky.modalities import FitsAgain
from nfphasing_bluesky.modalities.gisaxs1d import GisaxsCuts
from nfphasing_bluesky.modalities.grazing.cut_curves import CutsBatch
from nfphasing_bluesky.modalities.grazing.cut_fit import FITS, FITTED, best_draws, fit_again
from nfphasing_bluesky.modalities.grazing.cut_model import cuts, moved_cuts
from nfphasing_bluesky.modalities.grazing.loose_scale import Measured, loosened
from nfphasing_bluesky.modalities.unit_box import unit_box


@pytest.fixture(scope="module")
def subject() -> GisaxsCuts:
    return GisaxsCuts()


@pytest.fixture(scope="module")
def simulated(subject) -> tuple:
    generator = torch.Generator().manual_seed(4)
    draws = subject.sample_prior(24, generator)
    batch, truth = subject.simulate(draws, generator)
    return draws, batch, truth


def pairs_of(subject, simulated, kind: int, count: int) -> tuple[CutsBatch, torch.Tensor]:
    """Usable pairs of one class, and their truth in 0..1."""
    draws, batch, _ = simulated
    rows = ((draws.label == kind) & subject.usable(batch)).nonzero()[:count, 0]
    return batch.at(rows), draws.theta[rows, : len(subject.classes[kind].free)]


@pytest.mark.parametrize("kind", [0, 1])
def test_samples_moved_along_a_coordinate_are_those_computed_anew(subject, simulated, kind):
    batch, theta = pairs_of(subject, simulated, kind, 3)
    theta = 0.05 + 0.9 * theta
    moved = torch.cat([theta[:, None], theta[:, None] + 0.02 * torch.eye(theta.shape[1])], 1)
    found = moved_cuts(moved, kind, batch.q, FITTED)
    each = moved.shape[1]
    anew = cuts(moved.flatten(0, 1), kind, batch.q.repeat_interleave(each, 0), FITTED)
    torch.testing.assert_close(found.flatten(0, 1), anew, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [0, 1])
def test_fits_explain_what_they_begin_close_to(subject, simulated, kind):
    batch, truth = pairs_of(subject, simulated, kind, 4)
    generator = torch.Generator().manual_seed(1)
    away = 0.05 * torch.randn(len(truth), 12, truth.shape[1], generator=generator)
    drawn = (truth[:, None] + away).clamp(0.01, 0.99)
    fits = fit_again(kind, drawn, batch, subject.background)
    assert len(fits.location) == FITS * len(truth)
    chi2 = fits.features[:, 2 * truth.shape[1] + 1].exp().view(len(truth), FITS).amin(1)
    assert float(chi2.median()) < 1.3
    # what the cuts tell: the fits are narrower than the prior by nats
    assert float(fits.log_volume().median()) < -3


def test_the_draw_that_is_the_truth_is_the_best_one(subject, simulated):
    batch, truth = pairs_of(subject, simulated, 0, 4)
    others = torch.rand(len(truth), 15, truth.shape[1], generator=torch.Generator().manual_seed(2))
    found = best_draws(0, torch.cat([others, truth[:, None]], 1), batch, subject.background, 1)
    torch.testing.assert_close(found[:, 0], truth)


def test_shares_of_fits_add_up_and_lie_in_the_box(subject, simulated):
    batch, truth = pairs_of(subject, simulated, 1, 2)
    assert isinstance(subject, FitsAgain)
    drawn = torch.rand(2, 8, truth.shape[1], generator=torch.Generator().manual_seed(3))
    anchor = subject.anchors(batch).get(1, torch.arange(2))
    fits = subject.fits_again(1, drawn, batch, anchor)
    torch.testing.assert_close(fits.log_share.exp().sum(1).double(), torch.ones(2, dtype=torch.float64))
    y = fits.location.double()
    theta, _ = unit_box(y.shape[2], y.device).inverse(y, y)
    assert bool(((theta >= 0) & (theta <= 1)).all())


POINTS = 200
SCALE, OFFSET = 40.0, 3.0


@pytest.fixture(scope="module")
def wiggles() -> tuple[torch.Tensor, torch.Tensor]:
    """A shape, and one that is wrong by a half of its fringes; root mean square 1."""
    x = torch.linspace(0, 12, POINTS, dtype=torch.float64)
    shapes = [(-0.3 * x).exp() * (1 + 0.8 * torch.cos(3 * x + phase)) for phase in (0.0, 1.2)]
    right, wrong = (s / s.square().mean().sqrt() for s in shapes)
    return right, wrong


def measured_from(shape: torch.Tensor, relative: float) -> Measured:
    """What a shape scatters, with a relative error."""
    generator = torch.Generator().manual_seed(0)
    expected = SCALE * shape + OFFSET
    noise = torch.randn(POINTS, dtype=torch.float64, generator=generator)
    sigma = relative * expected
    usable = torch.ones(1, POINTS, dtype=torch.bool)
    return Measured((expected + sigma * noise)[None], sigma[None], usable)


def test_a_draw_that_explains_keeps_its_scale(wiggles):
    right, _ = wiggles
    given, offset = torch.tensor([SCALE * 1.001]), torch.tensor([OFFSET])
    kept = loosened(right[None], given, offset, measured_from(right, 0.05), torch.zeros(1))
    torch.testing.assert_close(kept, given)


def test_a_wrong_shape_gets_the_scale_of_what_was_measured(wiggles):
    right, wrong = wiggles
    measured = measured_from(right, 0.02)
    weight = measured.sigma.square().reciprocal()
    crossed = (weight * wrong * (measured.intensity - OFFSET)).sum(1) / (weight * wrong.square()).sum(1)
    assert float(crossed) < 0.8 * SCALE
    offset = torch.tensor([OFFSET])
    middle = loosened(wrong[None], crossed, offset, measured, None)
    assert float(middle) == pytest.approx(SCALE, rel=0.03)
    many = 400
    noise = torch.randn(many, generator=torch.Generator().manual_seed(1))
    same = Measured(*(part.expand(many, -1) for part in measured))
    drawn = loosened(wrong.expand(many, -1), crossed.expand(many), offset.expand(many), same, noise)
    # a relative error that knows that the shape is off
    spread = float(drawn.log().std())
    assert 0.02 < spread < 0.5


def test_nothing_but_background_keeps_a_finite_scale(wiggles):
    right, _ = wiggles
    dark = Measured(
        torch.full((1, POINTS), OFFSET), torch.full((1, POINTS), 0.1), torch.ones(1, POINTS, dtype=torch.bool)
    )
    found = loosened(right[None], torch.tensor([5.0]), torch.tensor([OFFSET]), dark, torch.zeros(1))
    assert bool(torch.isfinite(found).all())
