"""Whole frames in grazing incidence: bins that keep counts, the model, fits without weights, bad input."""

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
    GrazingGeometry,
    Origin,
    Prediction,
)
from nfphasing_bluesky.modalities import Draws, FitsAgain, SeesFrames, modality
from nfphasing_bluesky.modalities.grazing.frame_bins import FrameSimulation, measure, random_places
from nfphasing_bluesky.modalities.grazing.frame_fit import FITTED, fit_again
from nfphasing_bluesky.modalities.grazing.frame_model import SHAPE as BINS
from nfphasing_bluesky.modalities.grazing.frame_model import moved_patterns, patterns
from nfphasing_bluesky.modalities.grazing.island_prior import CLASSES, NAMES, profile, sample_of
from nfphasing_bluesky.modalities.unit_box import unit_box
from nfphasing_bluesky.physics.gisaxs import GrazingSample
from nfphasing_bluesky.physics.grazing.dwba_particles import Particles
from nfphasing_bluesky.physics.grazing.gisaxs_detector import Exposure, detector_pixels, expected_counts
from nfphasing_bluesky.physics.grazing.grazing_bins import binned
from nfphasing_bluesky.physics.grazing.grazing_frames import detector_of, lit_pixels

SHAPE = (240, 300)
GEOMETRY = GrazingGeometry(1.3e-10, 2.0, (0.3e-3, 0.3e-3), (200.0, 150.0), math.radians(0.4))
KIND = NAMES.index("truncated_spheres")
PLACE = torch.tensor([[0.6, 0.5, 0.25, 0.4, 0.3, 0.5, 0.3, 0.5, 0.5, 0.2, 0.5]], dtype=torch.float64)


@pytest.fixture(scope="module")
def subject():
    return modality("gisaxs2d")


@pytest.fixture(scope="module")
def frame() -> Frame:
    """Counts of truncated spheres, as the code for whole frames has their means; row 0 on top."""
    one = torch.ones(1, dtype=torch.float64)
    sample = sample_of(PLACE, KIND, 16)
    own = sample.particles
    particles = Particles(own.bodies, own.share, 4 * one, 0.4 * one, 1e-5 * one, 0, 0 * one, sample.order)
    pixels = detector_pixels(detector_of(GEOMETRY, SHAPE), GEOMETRY.incidence_rad)
    exposure = Exposure(1e11 * one, 0.3 * one)
    mean = expected_counts(GrazingSample(sample.stack, particles=(particles,)), pixels, exposure)[0]
    counts = torch.poisson(mean, generator=torch.Generator().manual_seed(0)).numpy()[::-1]
    counts = counts.astype(np.float64)
    counts[60:67], counts[:, 90:94] = -1, -2
    return Frame(counts, GEOMETRY, origin=Origin("islands"))


def draws(theta: torch.Tensor, kind: int, width: int) -> Draws:
    rows = torch.arange(len(theta))
    padded = torch.nn.functional.pad(theta, (0, width - theta.shape[1]))
    return Draws(torch.full((len(theta),), kind), padded, rows)


def test_it_sees_frames_and_fits_again(subject):
    assert isinstance(subject, SeesFrames) and isinstance(subject, FitsAgain)
    assert not isinstance(modality("gisaxs1d"), SeesFrames)


def test_bins_keep_counts_and_leave_gaps_out(frame):
    seen, found = lit_pixels(frame), binned(frame, BINS)
    used = found.pixels > 0
    assert found.counts.sum() <= seen.counts[seen.lit].sum()
    # only bins that a gap or the edge nearly empties are dropped
    assert found.counts.sum() > 0.99 * seen.counts[seen.lit].sum()
    assert np.all(found.counts[~used] == 0) and np.all(found.counts == np.round(found.counts))
    assert (
        found.variance is None and np.all(np.diff(found.exit_mean) > 0) and np.all(np.diff(found.q_mean) > 0)
    )
    upside = replace(GEOMETRY, beam_px=(SHAPE[0] - 200.0, 150.0), rows_up=True)
    other = binned(replace(frame, intensity=frame.intensity[::-1], geometry=upside), BINS)
    assert np.array_equal(other.counts, found.counts)


def test_the_scale_of_a_known_pattern_is_not_pulled_at_any_dose():
    generator, simulation = torch.Generator().manual_seed(2), FrameSimulation(floor=(0.02, 0.1))
    places = random_places(simulation, 200, generator)
    bins = places.bins
    down = (-3 * bins.q_mean / bins.q_mean[:, -1:]).exp()[:, None]
    expected = (down * (1.5 + (200 * bins.exit_mean).sin())[:, :, None]).flatten(1)
    batch, scale = measure(places, expected, simulation, generator)
    weight = batch.weight.double()
    precision = (weight * expected.square()).sum(1)
    pull = ((weight * expected * batch.intensity).sum(1) / precision - scale) * precision.sqrt()
    assert abs(float(pull.mean())) < 0.25


def test_the_truth_explains_a_frame_that_another_code_computed(subject, frame):
    batch = subject.collate([frame], 0.0)
    found = subject.evaluate(draws(PLACE, KIND, subject.width), batch)
    assert 0.85 < float(subject.reduced_chi2(batch, found.predicted)) < 1.4
    assert float(found.nuisance["scale"] * found.nuisance["beta"]) == pytest.approx(0.3, rel=0.25)


def test_predictions_are_shown_where_the_frame_was_looked_at(subject, frame):
    batch = subject.collate([frame], 0.0)
    found = subject.evaluate(draws(PLACE, KIND, subject.width), batch)
    mean = found.predicted[0].numpy()
    band = subject.on_frame(
        frame, draws(PLACE, KIND, subject.width), found.nuisance, Prediction(mean, mean, mean)
    )
    seen = lit_pixels(frame)
    lit = seen.lit[::-1]
    assert band.mean.shape == SHAPE and np.array_equal(np.isfinite(band.mean), lit)
    bright = lit & (band.mean > 20)
    assert np.corrcoef(np.log(frame.intensity[bright]), np.log(band.mean[bright]))[0, 1] > 0.95
    assert frame.intensity[bright].sum() == pytest.approx(band.mean[bright].sum(), rel=0.03)


@pytest.mark.parametrize("kind", range(len(CLASSES)))
def test_samples_moved_along_a_coordinate_are_those_computed_anew(subject, frame, kind):
    packed = subject.collate([frame], 0.0).q
    width = len(CLASSES[kind].free)
    theta = 0.1 + 0.8 * torch.rand(1, width, generator=torch.Generator().manual_seed(kind))
    moved = torch.cat([theta[:, None], theta[:, None] + 0.02 * torch.eye(width)], 1)
    found = moved_patterns(moved, kind, packed, FITTED)[0]
    anew = patterns(moved[0], kind, packed.expand(1 + width, -1), FITTED)
    torch.testing.assert_close(found, anew, rtol=2e-3, atol=1e-4)


def test_a_frame_is_explained_without_weights(subject, frame):
    """The fits know nothing but the prior's guesses."""
    batch = subject.collate([frame], 0.01)
    found = fit_again(KIND, torch.zeros(1, 0, PLACE.shape[1]), batch, subject.background)
    theta = unit_box(PLACE.shape[1], batch.q.device).inverse(found.location, found.location)[0]
    rows = torch.zeros(len(theta), dtype=torch.long)
    each = Draws(
        rows + KIND, torch.nn.functional.pad(theta.float(), (0, subject.width - theta.shape[1])), rows
    )
    evaluated = subject.evaluate(each, batch)
    best = int(evaluated.log_likelihood.argmax())
    chi2 = subject.reduced_chi2(batch.at(rows), evaluated.predicted)[best]
    assert float(chi2) < 1.3
    truth = sample_of(PLACE, KIND, 2).values
    for name in ("radius_angstrom", "height_angstrom", "distance_angstrom"):
        assert float(subject.report(each, evaluated.nuisance)[name][best]) == pytest.approx(
            float(truth[name]), rel=0.1
        )


@pytest.mark.parametrize("kind", range(len(CLASSES)))
def test_the_profile_holds_the_electrons_of_its_particles(kind):
    theta = 0.1 + 0.6 * torch.rand(4, len(CLASSES[kind].free), generator=torch.Generator().manual_seed(1))
    theta[:, 3] = 0.9
    sample = sample_of(theta.double(), kind, 16)
    z, density = torch.linspace(-800, 1200, 20001).double(), torch.full((4,), 3.0, dtype=torch.float64)
    matrix = sample.stack.density[:, sample.layer]
    excess = (profile(sample, density, z) - profile(sample, matrix, z)).sum(1) * (z[1] - z[0])
    bodies = sample.particles.bodies
    fraction = torch.linspace(0, 1, 401, dtype=torch.float64)
    volume = math.pi * bodies.disc_radius(fraction).square().mean(2) * bodies.height
    mean = (sample.particles.share * volume).sum(1) * 2 / math.sqrt(3) / sample.order.distance.square()
    torch.testing.assert_close(excess, mean * (3.0 - matrix), rtol=0.03, atol=1e-3)


def test_frames_that_cannot_be_used_say_why(subject, frame):
    q = np.linspace(0.01, 0.1, 30)
    with pytest.raises(FrameError, match="expected a detector's"):
        subject.collate([Frame(q, CurveGeometry(q), q)], 0.0)
    row, column = GEOMETRY.beam_px
    with pytest.raises(GeometryError, match="surface scatters from row"):
        subject.collate([replace(frame, geometry=replace(GEOMETRY, beam_px=(row - 20, column)))], 0.0)
    with pytest.raises(GeometryError, match="lights nothing"):
        replace(GEOMETRY, incidence_rad=0.0)
    few = np.ones(SHAPE, bool)
    few[100:106, 160:166] = False
    with pytest.raises(FrameError, match="bins over exit angle and q have"):
        subject.collate([replace(frame, mask=few)], 0.0)
    dark = np.random.default_rng(0).poisson(2e-4, SHAPE).astype(float)
    with pytest.raises(FrameError, match="signal-to-noise"):
        subject.collate([replace(frame, intensity=dark)], 0.0)
