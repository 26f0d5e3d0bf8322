"""One suite over every modality: what training, inference and documents rely on."""

import math
from dataclasses import replace

import pytest
import torch

from nfphasing_bluesky.core import ModelError
from nfphasing_bluesky.modalities import REGISTRY, Anchors, Draws, modality
from nfphasing_bluesky.models import load, shipped

CURVES, IMAGES = 48, 16
"""Frames of a modality: an image, whose prior density is not known, tells as much as many curves."""
FITTED = 6
"""Frames that are drawn from: their fits take longer than all the rest."""


SMALL = {"saxs2d-cdi": {"starts": 2, "steps": 8, "slots": 2}}
"""Searches where the default's takes long for a test."""


def made(name):
    """A modality with the prior of its shipped model, if there is one."""
    if name not in shipped():
        return modality(name, SMALL.get(name))
    stored = load(name)
    return modality(name, {**stored.card.network, **SMALL.get(name, {})}, stored.part("prior"))


@pytest.fixture(params=sorted(REGISTRY), scope="module")
def subject(request):
    """Each modality."""
    return made(request.param)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture(params=sorted(n for n, kind in REGISTRY.items() if kind.has_log_prior), scope="module")
def known(request):
    """Each modality whose prior density is known."""
    return made(request.param)


def inside(subject, draws) -> torch.Tensor:
    """(N,) bool: within the bounds."""
    table = torch.zeros(2, len(subject.classes), subject.width)
    for k, spec in enumerate(subject.classes):
        # images have one pair of bounds for all pixels of a channel
        pixels = 1 if subject.has_log_prior else subject.width // len(spec.lower)
        bounds = torch.tensor([spec.lower, spec.upper]).repeat_interleave(pixels, 1)
        table[:, k, : bounds.shape[1]] = bounds
    # answers are no classes: all draws are of the one
    label = draws.label if subject.symmetry is None else torch.zeros_like(draws.label)
    low, high = table[:, label]
    return ((draws.theta >= low) & (draws.theta <= high)).all(1)


def simulated(subject, generator, count):
    draws = subject.sample_prior(count, generator)
    batch, truth = subject.simulate(draws, generator)
    return draws, batch, truth


KEPT = {}


def at_truth(subject, generator):
    """Frames of the first use of the `generator` fixture: simulated once for all tests of a subject."""
    if KEPT.get("subject") is not subject:
        KEPT.clear()
        made = simulated(subject, generator, CURVES if subject.has_log_prior else IMAGES)
        KEPT.update(subject=subject, made=made, state=generator.get_state())
    generator.set_state(KEPT["state"])
    return KEPT["made"]


@torch.no_grad()
def untrained(subject, batch):
    """What an untrained network says of the first of those frames, their fits included."""
    if "distribution" not in KEPT:
        torch.manual_seed(0)
        batch = batch.at(torch.arange(FITTED))
        KEPT["distribution"] = subject.network()(*subject.context(batch), subject.anchors(batch))
    return KEPT["distribution"]


def test_prior_draws_are_inside(subject, generator):
    draws = subject.sample_prior(200, generator)
    assert inside(subject, draws).all()
    assert torch.isfinite(subject.log_prior(draws)).all() == subject.has_log_prior


def test_outside_of_the_prior_there_is_no_density(known, generator):
    subject = known
    draws = subject.sample_prior(200, generator)
    outside = Draws(draws.label, draws.theta.clone(), draws.frame)
    outside.theta[:, 0] = 1e3
    assert (subject.log_prior(outside) == -torch.inf).all()
    assert set(draws.label.tolist()) == set(range(len(subject.classes)))


def test_prior_draws_reach_every_bound(known, generator):
    subject = known
    draws = subject.sample_prior(6000, generator)
    for k, spec in enumerate(subject.classes):
        theta = draws.theta[draws.label == k]
        for i, (low, high) in enumerate(zip(spec.lower, spec.upper, strict=True)):
            if math.isfinite(low):
                assert float(theta[:, i].min()) < low + 0.01 * (high - low)
                assert float(theta[:, i].max()) > high - 0.01 * (high - low)


def test_inner_prior_is_narrower(subject, generator):
    count = 2000 if subject.has_log_prior else 200
    whole = subject.sample_prior(count, generator)
    inner = subject.sample_prior(count, generator, inner=0.5)
    columns = slice(1) if subject.has_log_prior else slice(None)
    # the extremes of two hundred images are a matter of chance
    least = 0.55 if subject.has_log_prior else 0.75
    for k in range(len(subject.classes)):
        wide, narrow = (d.theta[d.label == k, columns] for d in (whole, inner))
        assert float(narrow.max() - narrow.min()) < least * float(wide.max() - wide.min())


def test_the_same_seed_simulates_the_same(subject):
    first, second = (simulated(subject, torch.Generator().manual_seed(3), 3) for _ in range(2))
    assert torch.equal(first[1].intensity, second[1].intensity)
    assert torch.equal(first[0].theta, second[0].theta)


def test_the_truth_explains_its_frame(subject, generator):
    draws, batch, _ = at_truth(subject, generator)
    evaluated = subject.evaluate(draws, batch)
    chi2 = subject.reduced_chi2(batch, evaluated.predicted)
    # what a scan does not know of itself, as its probe, is not explained
    share = 0.2 if subject.neighbours else 0.5
    assert float(chi2.quantile(share)) == pytest.approx(1.0, abs=0.06)
    # of few points it is scattered more
    most = (1 + 4 * (2 / (~batch.mask).flatten(1).sum(1)).sqrt()).clamp_min(1.6)
    assert float((chi2 / most)[chi2 <= chi2.quantile(2 * share)].max()) < 1.0


def test_a_draw_outside_of_the_prior_spoils_no_other(subject, generator):
    draws, batch, _ = at_truth(subject, generator)
    many = torch.zeros(100, dtype=torch.long)
    theta = draws.theta[:1] + 1e-3 * torch.randn(100, subject.width, generator=generator)
    expected = subject.log_likelihood(Draws(many + draws.label[0], theta, many), batch.at(many[:1]))
    theta[::10] = -50.0
    found = subject.log_likelihood(Draws(many + draws.label[0], theta, many), batch.at(many[:1]))
    good = torch.arange(100) % 10 > 0
    torch.testing.assert_close(found[good], expected[good], atol=0.05, rtol=1e-4)


def test_likelihood_prefers_the_truth(subject, generator):
    draws, batch, _ = at_truth(subject, generator)
    others = subject.sample_prior(len(batch), generator)
    better = subject.log_likelihood(draws, batch) > subject.log_likelihood(others, batch)
    assert float(better[subject.usable(batch)].double().mean()) > 0.9


def test_context_does_not_depend_on_the_scale(known, generator):
    subject = known
    _, batch, _ = at_truth(subject, generator)
    scaled = replace(batch, intensity=batch.intensity * 512, sigma=batch.sigma * 512)
    channels, _ = subject.context(batch)
    assert torch.isfinite(channels).all()
    assert torch.allclose(channels, subject.context(scaled)[0], atol=2e-5)


def test_likelihood_gradient_agrees_with_finite_differences(subject, generator):
    draws, batch, _ = at_truth(subject, generator)
    theta = draws.theta.double().requires_grad_()
    subject.log_likelihood(Draws(draws.label, theta, draws.frame), batch).sum().backward()
    step = 1e-5
    direction = torch.zeros_like(theta)
    direction[:, 0] = step
    with torch.no_grad():
        up = subject.log_likelihood(Draws(draws.label, theta + direction, draws.frame), batch)
        down = subject.log_likelihood(Draws(draws.label, theta - direction, draws.frame), batch)
    numeric = (up - down) / (2 * step)
    scale = numeric.abs().clamp_min(10.0)
    assert float(((theta.grad[:, 0] - numeric) / scale).abs().quantile(0.8)) < 0.02


def test_read_out_has_the_declared_shape_and_names(subject, generator):
    draws, batch, truth = at_truth(subject, generator)
    noise = torch.randn(len(batch), subject.noise_columns, generator=generator)
    evaluated = subject.evaluate(draws, batch, noise)
    density = subject.density(draws, evaluated.nuisance)
    assert density.shape == (len(batch), *subject.density_info.shape)
    assert torch.isfinite(density).all()
    report = subject.report(draws, evaluated.nuisance)
    assert set(report) == set(truth) == {p.name for p in subject.parameters}
    for k in range(len(subject.classes)):
        assert any(torch.isfinite(v[draws.label == k]).all() for v in report.values())


def test_drawn_densities_are_those_that_log_prob_gives(subject, generator):
    _, batch, _ = at_truth(subject, generator)
    distribution = untrained(subject, batch)
    with torch.no_grad():
        noise = torch.randn(FITTED, 6, 1 + subject.width, generator=generator)
        draws, log_q = distribution.draw(noise)
        again = distribution.log_prob(draws)
    # within rounding of the edge of its box, float32 can't tell where a draw lies
    rounding = 1e-6 * max(subject.width, float(log_q.abs().max()))
    assert float((log_q - again).abs().quantile(0.9)) < max(5e-3, rounding)
    assert torch.equal(draws.frame, torch.arange(FITTED).repeat_interleave(6))


@torch.no_grad()
def test_embeddings_need_no_fits(subject, generator):
    _, batch, _ = at_truth(subject, generator)
    few = batch.at(torch.arange(2))
    embedding = subject.network()(*subject.context(few), Anchors(2)).embedding
    assert embedding.ndim == 2 and len(embedding) == 2 and torch.isfinite(embedding).all()


def test_no_draw_ever_leaves_the_prior(subject, generator):
    _, batch, _ = at_truth(subject, generator)
    noise = 50 * torch.randn(FITTED, 20, 1 + subject.width, generator=generator)
    with torch.no_grad():
        draws, _ = untrained(subject, batch).draw(noise)
    assert inside(subject, draws).all()


def test_state_survives_a_round_trip(subject, generator):
    again = modality(subject.name, subject.settings.model_dump(mode="json"), subject.state())
    first = subject.sample_prior(10, torch.Generator().manual_seed(1)).theta
    assert torch.equal(first, again.sample_prior(10, torch.Generator().manual_seed(1)).theta)


def test_an_unknown_modality_names_those_there_are():
    with pytest.raises(ModelError, match="saxs1d-particles"):
        modality("saxs3d")


def test_pair_distance_read_out_is_consistent(generator):
    subject = modality("saxs1d-pr", None, load("saxs1d-pr").part("prior"))
    draws, batch, _ = at_truth(subject, generator)
    evaluated = subject.evaluate(draws, batch)
    p = subject.density(draws, evaluated.nuisance).double()
    r = subject.axis.double()
    area = torch.trapezoid(p, r, dim=-1)
    rg = (torch.trapezoid(p * r**2, r, dim=-1) / (2 * area)).sqrt()
    report = subject.report(draws, evaluated.nuisance)
    big = report["d_max_angstrom"] > 60
    assert torch.allclose(area[big], torch.ones_like(area[big]), atol=5e-3)
    assert torch.allclose(rg[big], report["rg_angstrom"][big].double(), rtol=5e-3)
    beyond = r[None] > report["d_max_angstrom"][:, None]
    assert float(p[beyond].abs().max()) == 0.0
    assert float((p.amin(1) / p.amax(1)).quantile(0.1)) > -0.05


def test_absolute_density_says_its_unit(generator):
    subject = modality("saxs1d-particles")
    draws, batch, _ = at_truth(subject, generator)
    known = replace(batch, contrast=torch.full((CURVES,), 0.1))
    relative = subject.density(draws, subject.evaluate(draws, batch).nuisance)
    absolute = subject.density(draws, subject.evaluate(draws, known).nuisance)
    assert torch.allclose(absolute, 0.1 * relative)
    assert subject.density_of(known, 0).units == "e/angstrom^3"
    assert subject.density_of(batch, 0).units == "relative to core"
    sphere = draws.label == 0
    radius = draws.theta[sphere, 0].exp()
    inside = subject.axis[None] < 0.98 * radius[:, None]
    assert float(relative[sphere][inside].min()) == 1.0
    assert math.isclose(float(relative[sphere][subject.axis[None] > 1.02 * radius[:, None]].max()), 0.0)
