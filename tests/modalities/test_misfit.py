"""Where no draw explains a frame, what to check next is said from what the likeliest draw leaves over."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin, ReconstructionSettings, Verdict
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.grazing.cut_curves import IN_PLANE
from nfphasing_bluesky.modalities.misfit import excusing_error
from tests.untrained_layers import untrained_layers

POINTS, SIGMA = 160, 0.02
FILM = {"layers": (1, 1), "thickness_1_angstrom": (60, 90), "density_1_e_per_cubic_angstrom": (1.5, 2.4)}


@pytest.fixture(scope="module")
def layers():
    return modality("reflectivity")


def film(layers, known, place=0.4, label=1, **wrong):
    """A batch of one curve of a film, the draw that it is of and its curve; some coordinates elsewhere."""
    q = np.linspace(0.012, 0.4, POINTS)
    flat = Frame(np.ones(POINTS), CurveGeometry(q), np.ones(POINTS), origin=Origin("film"), bounds=known)
    batch = layers.collate([flat], 0.0)
    theta = torch.full((1, layers.width), place)
    for name, value in wrong.items():
        theta[0, layers.classes[label].free.index(name)] = value
    draws = Draws(torch.tensor([label]), theta, torch.tensor([0]))
    curve = layers.curve(draws, batch)
    return replace(batch, intensity=curve, sigma=SIGMA * curve), draws, curve


def said(layers, batch, draws, curve, floor=0.0):
    (words,) = layers.next_step(batch, draws, curve, floor)
    assert words and len(words) < 330, words
    return words


def wavy(curve, size, count=9.0):
    place = torch.linspace(0, 1, curve.shape[1])
    return curve * (1 + size * 2**0.5 * torch.sin(2 * torch.pi * count * place))


def test_errors_that_would_excuse_a_misfit_are_named(layers):
    batch, draws, curve = film(layers, FILM)
    batch = replace(batch, intensity=wavy(curve, 0.1))
    assert float(excusing_error(batch, curve)) == pytest.approx(0.1, rel=0.05)
    assert "sigma_floor=0.1 " in said(layers, batch, draws, curve)
    assert "sigma_floor=0.11 " in said(layers, batch, draws, curve, floor=0.05)


def test_a_beginning_that_does_not_fit_is_told_from_the_rest(layers):
    batch, draws, curve = film(layers, FILM)
    first = batch.points < 0.03
    batch = replace(batch, intensity=torch.where(first, 0.4 * curve, curve))
    words = said(layers, batch, draws, curve)
    assert "of the misfit lies below q=0.0" in words and "footprint" in words


def test_an_offset_at_its_end_means_the_zero_of_the_angles(layers):
    batch, draws, curve = film(layers, FILM, q_offset_inv_angstrom=1.0)
    batch = replace(batch, intensity=wavy(curve, 0.6))
    assert "zero of the angles" in said(layers, batch, draws, curve)


def test_bounds_that_the_fit_ends_at_are_named(layers):
    batch, draws, curve = film(layers, FILM, density_1_e_per_cubic_angstrom=0.0)
    words = said(layers, replace(batch, intensity=wavy(curve, 0.6)), draws, curve)
    assert "density_1_e_per_cubic_angstrom at 1.5" in words and "widen" in words


def test_more_layers_are_asked_for_where_the_bounds_allow_few(layers):
    batch, _, measured = film(layers, {})
    bare, draws, curve = film(layers, {"layers": (0, 0)}, label=0)
    words = said(layers, replace(bare, intensity=measured, sigma=batch.sigma), draws, curve)
    assert "allow more" in words


def test_fringes_too_fast_for_the_bounds_are_named(layers):
    thick = {**FILM, "thickness_1_angstrom": (300, 310)}
    _, _, measured = film(layers, thick)
    batch, draws, curve = film(layers, FILM)
    batch = replace(batch, intensity=measured, sigma=SIGMA * measured)
    words = said(layers, batch, draws, curve)
    assert "fringes tell of about 31" in words and "more than the 90 that" in words


def test_the_reason_of_a_curve_that_nothing_explains_says_what_to_check(layers):
    batch, _, curve = film(layers, {})
    q, r = batch.points[0].double().numpy(), curve[0].double().numpy()
    known = {"layers": (0, 0), "substrate_density_e_per_cubic_angstrom": (0.6, 0.8)}
    frame = Frame(r, CurveGeometry(q), SIGMA * r, origin=Origin("film"), bounds=known)
    for steps in (0, 3):
        settings = ReconstructionSettings(n_samples=64, polish_steps=steps)
        (posterior,) = untrained_layers(settings)([frame])
        assert posterior.trust.verdict is Verdict.ALARM
        reason = posterior.trust.reason
        assert "no draw fits; " in reason and "allow more" in reason, reason


@pytest.fixture(scope="module")
def pair():
    """A pair of cuts of the prior, its object and pattern."""
    subject = modality("gisaxs1d")
    generator = torch.Generator().manual_seed(0)
    draws = subject.sample_prior(1, generator)
    batch, _ = subject.simulate(draws, generator)
    theta = draws.theta.clamp(0.05, 0.95)
    draws = replace(draws, theta=theta)
    pattern = subject.evaluate(draws, batch).predicted
    return replace(batch, intensity=pattern, sigma=SIGMA * pattern.abs()), draws, pattern


def test_of_cuts_the_one_that_does_not_fit_is_named(pair):
    subject, (batch, draws, pattern) = modality("gisaxs1d"), pair
    behind = torch.arange(pattern.shape[1]) >= IN_PLANE
    wrong = torch.where(behind, 3 * pattern, pattern)
    (words,) = subject.next_step(replace(batch, intensity=wrong), draws, pattern, 0.0)
    assert "out-of-plane cut" in words and "incidence" in words
    (words,) = subject.next_step(replace(batch, intensity=1.1 * pattern), draws, pattern, 0.03)
    assert "sigma_floor=0.09" in words


def test_an_angle_at_its_end_is_named(pair):
    subject, (batch, draws, pattern) = modality("gisaxs1d"), pair
    free = subject.classes[int(draws.label[0])].free
    theta = draws.theta.clone()
    theta[0, free.index("incidence_offset_degree")] = 1.0
    (words,) = subject.next_step(
        replace(batch, intensity=3 * pattern), replace(draws, theta=theta), pattern, 0.0
    )
    assert words.startswith("the fit wants an incidence angle more than 0.02 degree off")


def test_what_a_model_does_not_hold_is_said_where_nothing_else_is(layers, pair):
    batch, draws, curve = film(layers, {"layers": (0, 5)})
    (words,) = layers.next_step(replace(batch, intensity=wavy(curve, 0.6)), draws, curve, 0.0)
    assert words.startswith("check the unit of q") and "more than 5 layers" in words
    subject, (cuts, drawn, pattern) = modality("gisaxs1d"), pair
    (words,) = subject.next_step(replace(cuts, intensity=3 * pattern), drawn, pattern, 0.0)
    assert "the model holds no other" in words
