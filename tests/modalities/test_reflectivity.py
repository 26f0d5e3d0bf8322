"""Reflectivity as a modality: bounds, resolution, and fits, also of a curve that it did not simulate."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import (
    CurveGeometry,
    Frame,
    FrameError,
    GeometryError,
    Origin,
    ReconstructionSettings,
    Verdict,
)
from nfphasing_bluesky.flows import Anchor, Box
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.fits import fit
from nfphasing_bluesky.modalities.layers.layer_prior import CLASSES, NAMES, columns
from nfphasing_bluesky.modalities.layers.reflectivity_curves import ReflectivityBatch
from nfphasing_bluesky.modalities.layers.reflectivity_fit import (
    FITTED_NODES,
    Given,
    log_misfit,
    slopes,
    worth_a_search,
)
from nfphasing_bluesky.physics.reflectivity import Stack, reflectivity
from tests.untrained_layers import untrained_layers

FILM = {
    "thickness_1_angstrom": (60.0, 160.0),
    "density_1_e_per_cubic_angstrom": (1.0, 2.0),
    "substrate_density_e_per_cubic_angstrom": (0.68, 0.74),
    "layers": (1, 1),
}
TRUE = {"thickness_1_angstrom": 103.0, "density_1_e_per_cubic_angstrom": 1.43, "roughness_1_angstrom": 4.0}


@pytest.fixture(scope="module")
def subject():
    return modality("reflectivity")


def film_frame(**changes) -> Frame:
    """A film of 103 angstrom on silicon, 3 % errors."""
    q = np.linspace(0.01, 0.4, 160)
    numbers = ([0.0, 1.43, 0.71], [0.0, 0.02, 0.01], [103.0], [4.0, 3.0])
    film = Stack(*(torch.tensor([v], dtype=torch.float64) for v in numbers))
    curve = reflectivity(film, torch.tensor(q)[None])[0].numpy() + 1e-8
    noisy = curve * (1 + 0.03 * np.random.default_rng(0).standard_normal(q.size))
    frame = Frame(noisy, CurveGeometry(q), 0.03 * curve, origin=Origin("film"), bounds=FILM)
    return replace(frame, **changes)


def test_the_fit_finds_a_film_within_its_bounds(subject):
    batch = subject.collate([film_frame()], 0.0)
    anchor = subject.anchors(batch).get(1, torch.tensor([0]))
    width = len(CLASSES[1].free)
    box = Box(torch.zeros(width), torch.ones(width))
    theta = box.inverse(anchor.location, anchor.location)[0]
    found = subject.report(
        Draws(
            torch.tensor([1]), torch.nn.functional.pad(theta, (0, subject.width - width)), torch.tensor([0])
        ),
        {"scale": torch.ones(1), "beta": torch.ones(1), "lower": batch.lower, "upper": batch.upper},
    )
    for name, value in TRUE.items():
        assert float(found[name]) == pytest.approx(value, rel=0.03), name


def test_fits_that_begin_at_draws_leave_a_wrong_minimum(subject):
    batch = subject.collate([film_frame()], 0.0)
    width = len(CLASSES[1].free)
    drawn = torch.rand(1, 64, width, generator=torch.Generator().manual_seed(2))
    # thickness at its upper bound, as surely as can be
    wrong = torch.zeros(1, width)
    wrong[0, 0] = 2.0
    anchor = Anchor(wrong, 1e-3 * torch.eye(width)[None], torch.zeros(1, 2 * width + 3))
    fits = subject.fits_again(1, drawn, batch, anchor)
    assert float(fits.log_share.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(fits.log_share[0, -1].exp()) < 1e-6
    best = fits.location[:, int(fits.log_share[0].argmax())]
    box = Box(torch.zeros(width), torch.ones(width))
    theta = torch.nn.functional.pad(box.inverse(best, best)[0], (0, subject.width - width))
    draws = Draws(torch.tensor([1]), theta, torch.tensor([0]))
    evaluated = subject.evaluate(draws, batch)
    assert float(subject.reduced_chi2(batch, evaluated.predicted)) < 1.3
    found = subject.report(draws, evaluated.nuisance)
    assert float(found["thickness_1_angstrom"]) == pytest.approx(TRUE["thickness_1_angstrom"], rel=0.03)


def simulated(subject, layers: int, n: int) -> tuple[ReflectivityBatch, torch.Tensor]:
    """Curves of that many layers, and the places (n, D) in 0..1 of what they are of."""
    generator = torch.Generator().manual_seed(layers)
    theta = torch.zeros(n, subject.width)
    theta[:, : len(CLASSES[layers].free)] = torch.rand(n, len(CLASSES[layers].free), generator=generator)
    draws = Draws(torch.full((n,), layers), theta, torch.arange(n))
    return subject.simulate(draws, generator)[0], theta[:, : len(CLASSES[layers].free)]


def log_posterior(subject, batch, layers: int, y: torch.Tensor) -> torch.Tensor:
    """Log of likelihood and prior, to be highest in box coordinates y (n, D)."""
    width = y.shape[1]
    theta = Box(torch.zeros(width), torch.ones(width)).inverse(y.double(), y)[0]
    padded = torch.nn.functional.pad(theta, (0, subject.width - width))
    draws = Draws(torch.full((len(y),), layers), padded, torch.arange(len(y)))
    return subject.log_likelihood(draws, batch) - 0.5 * y.double().square().sum(1)


def of_truth(theta: torch.Tensor) -> torch.Tensor:
    width = theta.shape[1]
    return Box(torch.zeros(width), torch.ones(width))(theta.double().clamp(1e-4, 1 - 1e-4), theta)[0]


def test_a_fit_never_ends_worse_than_it_began(subject):
    """Posteriors of four layers are curved ridges: a last step along the tangent leads off them."""
    batch, theta = simulated(subject, 4, 60)
    y = of_truth(theta)
    anchor = fit(subject.fitted_class(4, y.device), Given(y[:, None]), batch)
    before, after = (log_posterior(subject, batch, 4, place) for place in (y, anchor.location))
    assert float((after - before).min()) > -20


def test_a_fit_explains_nothing_by_a_background_that_can_not_be(subject):
    """With less than none the darkest points would be fitted too well."""
    batch, theta = simulated(subject, 2, 60)
    y = of_truth(theta)
    anchor = fit(subject.fitted_class(2, y.device), Given(y[:, None]), batch)
    points = (~batch.mask).sum(1)
    chi2 = points * log_misfit(anchor).exp()
    said = -0.5 * chi2 - 0.5 * anchor.location.square().sum(1)
    # scale and background are integrated out of the one and fitted in the other
    assert float((said - log_posterior(subject, batch, 2, anchor.location)).abs().max()) < 25


def test_what_draws_do_not_find_a_thorough_search_finds(subject):
    batch, theta = simulated(subject, 2, 24)
    width = theta.shape[1]
    hopeless = torch.full((24, 64, width), 0.01)
    anchor = subject.anchors(batch).get(2, torch.arange(24))
    bad = (log_misfit(anchor) > 1.0).nonzero()[:, 0]
    assert len(bad) >= 2
    some = Anchor(anchor.location[bad], anchor.factor[bad], anchor.features[bad])
    fits = subject.fits_again(2, hopeless[bad], batch.at(bad), some)
    best = fits.location[torch.arange(len(bad)), fits.log_share.argmax(1)]
    truth = log_posterior(subject, batch.at(bad), 2, of_truth(theta[bad]))
    explained = log_posterior(subject, batch.at(bad), 2, best) > truth - 20
    assert int(explained.sum()) >= len(bad) // 2


@pytest.fixture(scope="module")
def untrained():
    return untrained_layers(ReconstructionSettings(n_samples=128))


def test_intensities_far_above_one_need_no_scale(untrained):
    """No scale is given with counts: it is fitted, and all else stays as it is."""
    plain = film_frame()
    counts = film_frame(intensity=4e6 * plain.intensity, sigma=4e6 * plain.sigma)
    of_one, of_other = untrained([plain, counts])
    for name in ("thickness_1_angstrom", "density_1_e_per_cubic_angstrom"):
        one, other = (p.summary()[name] for p in (of_one, of_other))
        assert other.median == pytest.approx(one.median, abs=0.3 * one.std)
    one, other = (p.summary()["scale"].median for p in (of_one, of_other))
    assert other / one == pytest.approx(4e6, rel=0.02)
    assert of_other.trust.reduced_chi2 == pytest.approx(of_one.trust.reduced_chi2, rel=0.05)


def test_a_curve_that_no_stack_reflects_says_so(untrained):
    plain = film_frame()
    rising = film_frame(intensity=plain.intensity[::-1].copy(), sigma=plain.sigma[::-1].copy())
    fine, wrong = untrained([plain, rising])
    assert "no draw explains" not in fine.trust.reason
    assert "no draw explains" in wrong.trust.reason
    assert wrong.trust.verdict is Verdict.ALARM
    # draws are those of the network: not one of them over and over
    assert len(np.unique(wrong.parameters["thickness_1_angstrom"])) > 100


def test_bounds_reach_the_network_and_the_possible_classes(subject):
    frames = [film_frame(), film_frame(bounds={})]
    batch = subject.collate(frames, 0.0)
    torch.manual_seed(0)
    channels, extra = subject.context(batch)
    torch.testing.assert_close(channels[0], channels[1])
    assert not torch.equal(extra[0], extra[1])
    with torch.no_grad():
        probabilities = subject.network()(channels, extra, subject.anchors(batch)).class_log_probs.exp()
    assert probabilities[0].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert float(probabilities[1].min()) > 0.0


def test_draws_of_an_untrained_network_stay_within_the_bounds(subject):
    batch = subject.collate([film_frame()], 0.0)
    torch.manual_seed(0)
    with torch.no_grad():
        distribution = subject.network()(*subject.context(batch), subject.anchors(batch))
        noise = torch.randn(1, 200, 1 + subject.width)
        noise[..., 1:] *= 5
        draws, _ = distribution.draw(noise)
    values = subject.report(draws, subject.evaluate(draws, batch).nuisance)
    for name in ("thickness_1_angstrom", "density_1_e_per_cubic_angstrom"):
        low, high = FILM[name]
        assert float(values[name].min()) >= low * (1 - 1e-5)
        assert float(values[name].max()) <= high * (1 + 1e-5)


def test_slopes_agree_with_finite_differences(subject):
    generator = torch.Generator().manual_seed(3)
    batch, _ = subject.simulate(subject.sample_prior(60, generator), generator)
    batch = batch.at(torch.arange(4))
    theta = 0.1 + 0.8 * torch.rand(4, len(columns(2)), generator=generator, dtype=torch.float64)
    packed = batch.q.double()
    curve, slope = slopes(theta, 2, packed, FITTED_NODES)
    step = 1e-7
    for j in range(theta.shape[1]):
        moved = theta.clone()
        moved[:, j] += step
        numeric = (slopes(moved, 2, packed, FITTED_NODES)[0] - curve) / step
        # the footprint has a kink, which single points may straddle
        error = (numeric - slope[:, j]).abs() / (curve + numeric.abs())
        assert float(error.quantile(0.99)) < 1e-3, NAMES[columns(2)[j]]


def test_resolution_smears_the_fringes(subject):
    sharp = film_frame()
    q = sharp.geometry.q_inv_angstrom
    smeared = film_frame(geometry=CurveGeometry(q, np.full(q.size, 0.01)))
    batch = subject.collate([sharp, smeared], 0.0)
    theta = torch.full((2, subject.width), 0.5)
    draws = Draws(torch.tensor([1, 1]), theta, torch.tensor([0, 1]))
    one, other = subject.forward(draws, batch)[:, 40:].log()
    assert float(other.diff().diff().abs().mean()) < 0.7 * float(one.diff().diff().abs().mean())


def test_the_profile_goes_from_nothing_to_the_substrate(subject):
    generator = torch.Generator().manual_seed(1)
    draws = subject.sample_prior(60, generator)
    batch, truth = subject.simulate(draws, generator)
    profile = subject.density(draws, subject.evaluate(draws, batch).nuisance)
    assert float(profile[:, 0].abs().max()) < 0.01
    inside = truth["total_thickness_angstrom"].nan_to_num(0.0) < 1100
    expected = truth["substrate_density_e_per_cubic_angstrom"]
    torch.testing.assert_close(profile[inside, -1], expected[inside], atol=1e-3, rtol=1e-3)
    assert float(profile.min()) >= -1e-6
    assert subject.density_info.units == "e/angstrom^3"


def test_known_values_leave_their_posterior_no_room(subject):
    narrow = {name: (value, value) for name, value in TRUE.items()}
    batch = subject.collate([film_frame(bounds=FILM | narrow)], 0.0)
    theta = torch.rand(50, subject.width, generator=torch.Generator().manual_seed(0))
    draws = Draws(torch.ones(50, dtype=torch.long), theta, torch.zeros(50, dtype=torch.long))
    values = subject.report(draws, subject.evaluate(draws, batch).nuisance)
    for name, value in TRUE.items():
        assert values[name].tolist() == pytest.approx([value] * 50, rel=1e-3)
    assert math.isclose(float(subject.log_prior(draws)[0]), -math.log(len(CLASSES)), rel_tol=1e-6)


def test_two_theta_for_theta_shows_at_the_critical_edge(subject):
    right = film_frame()
    q = right.geometry.q_inv_angstrom
    wrong = film_frame(geometry=CurveGeometry(2 * q))
    unbounded = film_frame(geometry=CurveGeometry(2 * q), bounds={})
    beyond = film_frame(geometry=CurveGeometry(q + 0.1))
    batch = subject.collate([right, wrong, unbounded, beyond], 0.0)
    found = subject.agreement(batch, subject.anchors(batch))
    assert found[:3].tolist() == [1.0, 0.0, 1.0]
    assert found[3].isnan()
    assert "two theta" in subject.disagreement


def test_the_edge_accuses_hardly_any_sample_of_the_prior(subject):
    generator = torch.Generator().manual_seed(5)
    batch, _ = subject.simulate(subject.sample_prior(2000, generator), generator)
    found = subject.agreement(batch, subject.anchors(batch))
    assert float(found.isfinite().double().mean()) > 0.3
    assert float((found == 0).double().mean()) < 3e-3


@pytest.mark.parametrize("bounds", [{"layers": (6, 6)}, {"thickness_1_angstrom": (160, 60)}])
def test_bounds_beyond_the_model_fail_the_frame(subject, bounds):
    with pytest.raises(FrameError, match="film: bounds of"):
        subject.collate([film_frame(bounds=bounds)], 0.0)


def test_negative_q_is_refused_with_the_reason():
    with pytest.raises(GeometryError, match="negative, infinite"):
        CurveGeometry(np.linspace(-0.01, 0.4, 160))


def test_searches_end_where_they_have_nothing_to_find():
    """Logarithms of misfits as they came of measured and simulated curves: before, and of the last try."""
    before = torch.tensor([0.1, 4.7, 8.5, 6.0])
    after = torch.tensor([2.0, 4.7, 8.5, 0.9])
    # of a film fits from guesses and draws that end alike have found the only minimum; of more layers not
    assert worth_a_search(1, 1, before, after).tolist() == [False, False, False, True]
    assert worth_a_search(5, 1, before, after).tolist() == [False, True, True, True]
    # a search that comes nowhere near, or to where fits had been, is the last one
    before = torch.tensor([4.7, 0.9, 4.2, 1.6, 0.9])
    after = torch.tensor([0.5, 0.8, 3.0, 1.6, -torch.inf])
    assert worth_a_search(5, 2, before, after).tolist() == [True, True, False, False, False]
