"""Oriented particles: fits find the truth whichever way it points, posteriors are exact, errors say why."""

import math

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import (
    CurveGeometry,
    DetectorGeometry,
    Frame,
    FrameError,
    GeometryError,
    PlaneGeometry,
    Prediction,
    plane_of,
)
from nfphasing_bluesky.inference.polish import polish
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.oriented.oriented_network import PHI, around
from tests.modalities.test_polar import CUT, LENGTH, RADIUS, SPREAD, axes, frame, pixels, truth

SIDE = 96


def counted(phi: float, scale: float = 300.0, seed: int = 0) -> Frame:
    """Photons of cylinders and a flat background."""
    made = frame(pixels(SIDE, phi=phi), 1.0)
    expected = scale * made.intensity + 0.05
    return Frame(np.random.default_rng(seed).poisson(expected), made.geometry)


@pytest.fixture(scope="module")
def subject():
    return modality("saxs2d-oriented")


def fitted(subject, batch, k: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Free coordinates (B, D) of the fits of class k with the true azimuth, and their widths."""
    anchor = subject.anchors(batch).get(k, torch.arange(len(batch)))
    theta, _ = subject.box(k).inverse(anchor.location.double(), anchor.location)
    theta[:, PHI] += batch.axis
    edge, _ = subject.box(k).inverse(anchor.location.double() + 1e-3, anchor.location)
    edge[:, PHI] += batch.axis
    spread = (anchor.factor @ anchor.factor.mT).diagonal(dim1=1, dim2=2).sqrt()
    return theta, spread * (edge - theta) / 1e-3


def test_fits_find_the_truth_at_all_angles(subject):
    angles = [-89.0, -60.0, -45.0, -20.0, 0.0, 30.0, 45.0, 77.0, 90.0, 120.0]
    batch = subject.collate([counted(phi) for phi in angles], 0.01)
    theta, width = fitted(subject, batch)
    expected = torch.cat([truth(phi=phi).theta for phi in angles])[:, : theta.shape[1]]
    off = theta - expected
    off[:, PHI] = around(theta[:, PHI], expected[:, PHI])
    for column in (0, PHI, 3, 5):
        assert float((off[:, column] / width[:, column]).abs().median()) < 1.5
        assert float((off[:, column] / width[:, column]).abs().max()) < 5.0
    assert float(off[:, PHI].abs().max()) < math.radians(1.5)
    assert float(off[:, 5].abs().max()) < 0.06


def test_the_likelihood_turns_with_the_pattern(subject):
    first, second = (subject.collate([counted(phi)], 0.01) for phi in (20.0, 20.0 + 90.0))
    theta = truth(phi=20.0).theta.repeat(5, 1)
    theta[:, PHI] += torch.linspace(-0.05, 0.05, 5)
    theta[:, 0] += torch.linspace(0.02, -0.02, 5)
    zero = torch.zeros(5, dtype=torch.long)
    both = []
    for batch, turn in ((first, 0.0), (second, math.pi / 2)):
        turned = theta.clone()
        turned[:, PHI] += turn
        value = subject.log_likelihood(Draws(zero, turned, zero), batch)
        turned[:, PHI] -= math.pi
        again = subject.log_likelihood(Draws(zero, turned, zero), batch)
        torch.testing.assert_close(value, again, atol=1e-6, rtol=0)
        both.append((value - value.max()) / 100)
    torch.testing.assert_close(both[0], both[1], atol=0.35, rtol=0.3)


def test_the_network_sees_azimuths_from_the_axis(subject):
    """The same density for phi half a turn on; draws within a quarter turn of the axis."""
    generator = torch.Generator().manual_seed(2)
    draws = subject.sample_prior(24, generator).at(torch.arange(24))
    cylinders = (draws.label == 0).nonzero()[:, 0]
    draws = Draws(draws.label[cylinders], draws.theta[cylinders], torch.arange(6))
    batch, _ = subject.simulate(draws, generator)
    torch.manual_seed(0)
    network = subject.network()
    with torch.no_grad():
        distribution = network(*subject.context(batch), subject.anchors(batch)).with_classes(
            torch.tensor([[0.0, -50, -50, -50]]).expand(6, -1)
        )
        half = draws.theta.clone()
        half[:, PHI] += math.pi
        turned = Draws(draws.label, half, draws.frame)
        first, second = distribution.log_prob(draws), distribution.log_prob(turned)
        assert torch.isfinite(first).all()
        assert float(((first - second).abs() / (1 + first.abs())).max()) < 1e-2
        made, _ = distribution.draw(torch.randn(6, 40, 1 + subject.width, generator=generator))
    relative = made.theta[:, PHI] - batch.axis.float()[made.frame]
    assert float(relative.abs().max()) <= math.pi / 2 + 1e-5
    assert relative.min() < 0 < relative.max()


def test_the_fit_is_the_exact_posterior_where_counts_are_many(subject):
    """Sequential Monte Carlo with the pixels' likelihood against the Gaussian of the fit."""
    batch = subject.collate([counted(35.0, scale=2000.0)], 0.01)
    anchor = subject.anchors(batch).get(0, torch.tensor([0]))
    d, generator = anchor.location.shape[1], torch.Generator().manual_seed(3)
    gaussian = torch.distributions.MultivariateNormal(
        anchor.location[0].double(), scale_tril=1.3 * anchor.factor[0].double()
    )
    box = subject.box(0)

    def log_q(draws: Draws) -> torch.Tensor:
        theta = draws.theta[:, :d].clone()
        theta[:, PHI] = around(theta[:, PHI], batch.axis)
        y, log_det = box(theta, theta)
        return gaussian.log_prob(y) + log_det

    def log_target(draws: Draws) -> torch.Tensor:
        return subject.log_likelihood(draws, batch) + subject.log_prior(draws)

    y = gaussian.mean + torch.randn(96, d, generator=generator, dtype=torch.float64) @ gaussian.scale_tril.T
    theta, _ = box.inverse(y, y)
    theta[:, PHI] += batch.axis
    zero = torch.zeros(96, dtype=torch.long)
    start = Draws(zero, torch.nn.functional.pad(theta, (0, subject.width - d)), zero)
    exact = polish(start, log_q, log_target, 12, generator)
    assert exact.acceptance > 0.1
    expected, width = fitted(subject, batch)
    for column in (0, PHI, 3, 5):
        found = exact.draws.theta[:, column]
        assert float((found.mean() - expected[0, column]).abs() / width[0, column]) < 0.9
        assert 0.5 < float(found.std() / width[0, column]) < 1.8


def test_reported_values_are_those_that_were_put_in(subject):
    batch = subject.collate([counted(30.0)], 0.01)
    draws = truth(phi=30.0 + 180.0)
    report = subject.report(draws, subject.evaluate(draws, batch).nuisance)
    assert float(report["radius_angstrom"]) == pytest.approx(RADIUS)
    assert float(report["length_angstrom"]) == pytest.approx(LENGTH)
    assert float(report["orientation_spread_deg"]) == pytest.approx(SPREAD)
    assert float(report["orientation_cut"]) == pytest.approx(CUT)
    assert float(report["theta_deg"]) == pytest.approx(90)
    assert float(report["phi_deg"]) == pytest.approx(30)
    assert float(report["background"]) == pytest.approx(0.05, rel=0.3)
    assert float(report["i0"]) == pytest.approx(300, rel=0.02)
    assert math.isnan(float(report["side_a_angstrom"]))


def test_density_is_the_particle_in_projection(subject):
    batch = subject.collate([counted(30.0)], 0.01)
    draws = truth(phi=30.0)
    nuisance = subject.evaluate(draws, batch).nuisance
    chord = subject.density(draws, nuisance)[0]
    step = float(subject.axis[1] - subject.axis[0])
    assert float(chord.sum()) * step**2 == pytest.approx(math.pi * RADIUS**2 * LENGTH, rel=0.03)
    assert float(chord.max()) == pytest.approx(2 * RADIUS, rel=0.02)
    contrast = PlaneGeometry(
        axes(SIDE, 0.3), axes(SIDE, -0.3), absolute=True, contrast_inv_cm2=1e16 * 2.8179403e-5 * 0.2
    )
    known = subject.collate([Frame(counted(30.0).intensity, contrast)], 0.01)
    assert subject.density_of(known, 0).units == "e/angstrom^2"
    assert subject.density_of(batch, 0).units == "angstrom"
    electrons = subject.density(draws, subject.evaluate(draws, known).nuisance)[0]
    torch.testing.assert_close(electrons, 0.2 * chord)


def test_a_detector_gives_the_same_bins_as_its_q(subject):
    pattern = counted(30.0)
    pixel, distance, wavelength = 1e-3, 10.0, 1e-10
    detector = DetectorGeometry(wavelength, distance, (pixel, pixel), (48.3e-3, 47.8e-3))
    plane = plane_of(detector, (SIDE, SIDE))
    assert float(plane.maps()[0][0, 60]) == pytest.approx(
        2 * math.pi / 1.0 * (60.5 - 47.8) * pixel / distance, rel=1e-4
    )
    first, second = (subject.collate([Frame(pattern.intensity, g)], 0.01) for g in (detector, plane))
    for name, value in vars(first).items():
        torch.testing.assert_close(value, getattr(second, name), equal_nan=True)


def test_gaps_and_a_beam_beside_the_detector(subject):
    """Marks of a detector are left out; of a beam that is off the frame the reason names the q it leaves."""
    pattern = counted(30.0)
    marked, mask = pattern.intensity.copy(), np.zeros((SIDE, SIDE), dtype=bool)
    marked[40:44], mask[40:44] = -1, True
    first, second = (
        subject.collate([Frame(values, pattern.geometry, mask=m)], 0.01)
        for values, m in ((marked, None), (pattern.intensity, mask))
    )
    assert torch.equal(first.intensity, second.intensity)
    outside = DetectorGeometry(1e-10, 1.0, (1e-3, 1e-3), (5.0, 0.05))
    with pytest.raises(FrameError, match="no usable pixel.*q goes from.*beam centre"):
        subject.collate([Frame(pattern.intensity, outside)], 0.01)


def test_predictions_are_shown_at_the_pixels_of_the_frame(subject):
    """Between bins too: the pattern of the truth at every pixel, in the frame's own rows and columns."""
    pattern = counted(30.0)
    batch = subject.collate([pattern], 0.01)
    draws = truth(phi=30.0)
    evaluated = subject.evaluate(draws, batch)
    bins = evaluated.predicted[0].numpy()
    shown = subject.on_frame(pattern, draws, evaluated.nuisance, Prediction(bins, 0.9 * bins, 1.2 * bins))
    expected = float(evaluated.nuisance["scale"]) * pixels(SIDE, phi=30.0)
    expected += float(evaluated.nuisance["scale"] * evaluated.nuisance["beta"])
    assert shown.mean.shape == (SIDE, SIDE)
    off = np.abs(shown.mean / expected - 1)
    assert np.median(off) < 2e-4 and np.quantile(off, 0.98) < 5e-3
    np.testing.assert_allclose(shown.lower / shown.mean, 0.9, rtol=1e-5)
    np.testing.assert_allclose(shown.upper / shown.mean, 1.2, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mask": np.ones((SIDE, SIDE), dtype=bool)}, "no usable pixel"),
        ({"intensity": np.full((SIDE, SIDE), np.nan)}, "no usable pixel"),
        ({"intensity": np.full((SIDE, SIDE), -1.0)}, "0 % of its pixels are finite, not"),
        ({"intensity": np.full((SIDE, SIDE), -0.3)}, "smallest intensity is -0.3, expected counts"),
        ({"intensity": np.zeros((SIDE, SIDE))}, "signal-to-noise"),
        ({"intensity": np.ones((SIDE, SIDE)), "sigma": np.full((SIDE, SIDE), 50.0)}, "signal-to-noise"),
    ],
)
def test_frames_that_can_not_be_used(subject, change, said):
    geometry = PlaneGeometry(axes(SIDE), axes(SIDE))
    with pytest.raises(FrameError, match=said):
        subject.collate([Frame(**{"intensity": np.ones((SIDE, SIDE)), "geometry": geometry} | change)], 0.01)


def test_too_few_bins_and_other_geometries(subject):
    small = PlaneGeometry(np.linspace(-0.1, 0.1, 9), np.linspace(-0.1, 0.1, 9))
    with pytest.raises(FrameError, match="polar bins"):
        subject.collate([Frame(np.ones((9, 9)), small)], 0.01)
    curve = Frame(np.ones(20), CurveGeometry(np.linspace(0.01, 0.1, 20)), np.ones(20))
    with pytest.raises(GeometryError, match="expected a PlaneGeometry"):
        subject.collate([curve], 0.01)


def test_reduced_frames_bring_their_sigma(subject):
    pattern = counted(30.0)
    sigma = np.sqrt(pattern.intensity + 1)
    counts = subject.collate([pattern], 0.01)
    reduced = subject.collate([Frame(pattern.intensity / 7 - 0.001, pattern.geometry, sigma / 7)], 0.01)
    filled = ~counts.mask & (counts.intensity > 5)
    ratio = (reduced.sigma * 7 / counts.sigma)[filled]
    assert float(ratio.median()) == pytest.approx(1, abs=0.1)
