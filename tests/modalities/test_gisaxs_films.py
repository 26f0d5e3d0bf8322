"""The published prior of twelve layers and the patterns of its films."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Frame, GeometryError, GrazingGeometry, Origin
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.grazing.gisaxs_films import (
    BACKGROUND,
    DETECTOR,
    INCIDENCE_RAD,
    MATERIALS,
    PHOTONS,
    RESOLUTION_M,
    Films,
    bounds,
    films_at,
    grazing_sample,
    log_prior,
    sample_films,
)
from nfphasing_bluesky.physics.gisaxs import scattered
from nfphasing_bluesky.physics.grazing.gisaxs_detector import (
    Exposure,
    blurred,
    detector_pixels,
    expected_counts,
)


def draws(n: int, seed: int = 0) -> Films:
    return sample_films(n, torch.Generator().manual_seed(seed))


def test_draws_are_within_the_published_bounds():
    films = draws(2000)
    for name, (low, high) in bounds(films).items():
        value = getattr(films, name)
        assert (value >= low).all() and (value <= high).all()
    assert (films.beta <= films.delta).all() and (films.roughness <= films.thickness).all()
    assert films.delta.shape == (2000, 12) and len(MATERIALS) == 12
    copper = films.thickness[:, [m == "Cu3N" for m in MATERIALS]]
    assert copper.max() > 115 and films.thickness[:, :2].max() < 47
    assert torch.isfinite(log_prior(films)).all()


def test_the_density_of_the_prior_is_the_inverse_slope_of_its_draws():
    """Places are uniform from 0 to 1: log p is minus the log determinant of places to parameters."""
    place = torch.full((1, 12, 6), 0.4, dtype=torch.float64)

    def flat(place: torch.Tensor) -> torch.Tensor:
        films = films_at(place)
        return torch.stack([getattr(films, f.name) for f in fields(Films)], -1).flatten()

    slopes = torch.autograd.functional.jacobian(flat, place).view(72, 72)
    assert log_prior(films_at(place)).item() == pytest.approx(-slopes.slogdet().logabsdet.item())


def test_outside_of_the_bounds_the_prior_has_no_density():
    one = draws(1)
    outside = replace(one, hurst=one.hurst + 1)
    assert log_prior(outside).item() == -math.inf
    rough = replace(one, roughness=one.thickness * 1.01)
    assert log_prior(rough).item() == -math.inf


def test_whole_frames_of_the_published_geometry():
    pixels = detector_pixels(DETECTOR, INCIDENCE_RAD)
    assert pixels.shape == (1024, 512)
    films = draws(1, seed=3)
    with torch.no_grad():
        sample = grazing_sample(films)
        bare = expected_counts(sample, pixels, Exposure(torch.tensor([PHOTONS]), torch.tensor([BACKGROUND])))
    pattern = blurred(bare, tuple(RESOLUTION_M / size for size in DETECTOR.pixel_size_m))
    horizon = DETECTOR.row_of(0.0, INCIDENCE_RAD)
    assert horizon == pytest.approx(413 - 1277 * math.tan(INCIDENCE_RAD) / 0.05, rel=1e-3)
    below = pattern[0, : int(horizon) - 2]
    torch.testing.assert_close(below, torch.full_like(below, BACKGROUND), rtol=1e-5, atol=0.0)
    assert torch.isfinite(pattern).all() and pattern.max() > 1e4
    brightest_row = int(pattern[0].sum(1).argmax())
    assert int(horizon) < brightest_row < 560
    left, right = pattern[0, 450, 215 - 100 : 215].flip(0), pattern[0, 450, 215 : 215 + 100]
    torch.testing.assert_close(left, right, rtol=1e-3, atol=0.0)


def test_differentiable_in_all_72_parameters():
    small = replace(DETECTOR.cropped(slice(200, 700), slice(215, 415)).binned(100, 40))
    pixels = detector_pixels(small, INCIDENCE_RAD, torch.float64)
    generator = torch.Generator().manual_seed(1)
    place = torch.rand(1, 12, 6, generator=generator, dtype=torch.float64).mul(0.8).add(0.1)

    def pattern(place: torch.Tensor) -> torch.Tensor:
        return scattered(grazing_sample(films_at(place)), pixels).log()

    assert torch.autograd.gradcheck(
        pattern, (place.requires_grad_(),), eps=1e-6, atol=1e-4, rtol=1e-3, fast_mode=True
    )
    (slope,) = torch.autograd.grad(pattern(place).sum(), place)
    assert (slope != 0).all()


@pytest.fixture(scope="module")
def subject():
    return modality("gisaxs2d-films")


@pytest.fixture(scope="module")
def place() -> torch.Tensor:
    return torch.rand(1, 72, generator=torch.Generator().manual_seed(8))


@pytest.fixture(scope="module")
def frame(place) -> Frame:
    """Counts of the published detector, as the code for whole frames has their means; row 0 on top."""
    sample = grazing_sample(films_at(place.double().view(1, 12, 6)))
    pixels = detector_pixels(DETECTOR, INCIDENCE_RAD)
    exposure = Exposure(torch.tensor([PHOTONS]), torch.tensor([BACKGROUND]))
    with torch.no_grad():
        mean = expected_counts(sample, pixels, exposure)[0]
    counts = torch.poisson(mean, generator=torch.Generator().manual_seed(0)).numpy()
    row, column = DETECTOR.normal_px
    geometry = GrazingGeometry(
        DETECTOR.wavelength_m,
        DETECTOR.distance_m,
        DETECTOR.pixel_size_m,
        (DETECTOR.shape[0] - row, column),
        INCIDENCE_RAD,
        normal_rad=DETECTOR.normal_rad,
    )
    return Frame(counts[::-1].astype(np.float64), geometry, origin=Origin("films"))


def test_the_truth_explains_a_frame_of_the_published_detector(subject, frame, place):
    batch = subject.collate([frame], 0.01)
    own = Draws(torch.zeros(1, dtype=torch.long), place, torch.zeros(1, dtype=torch.long))
    found = subject.evaluate(own, batch)
    assert 0.4 < float(subject.reduced_chi2(batch, found.predicted)) < 1.3
    assert float(found.nuisance["scale"] * found.nuisance["beta"]) == pytest.approx(BACKGROUND, rel=0.05)
    for name, value in subject.features(batch).items():
        low, high = subject.ranges[name]
        assert low <= float(value) <= high, name


def test_another_sample_does_not_explain_it(subject, frame, place):
    batch = subject.collate([frame], 0.01)
    own = Draws(torch.zeros(1, dtype=torch.long), 1 - place, torch.zeros(1, dtype=torch.long))
    assert float(subject.reduced_chi2(batch, subject.evaluate(own, batch).predicted)) > 10


def test_parameters_are_those_of_the_layers_from_the_surface_down(subject, place):
    films = films_at(place.view(1, 12, 6))
    values = subject.values(place, 0)
    assert len(values) == 72
    for layer in (1, 5, 12):
        assert float(values[f"thickness_{layer}_angstrom"]) == float(films.thickness[0, layer - 1])
        assert float(values[f"delta_{layer}"]) == float(films.delta[0, layer - 1])
        assert float(values[f"hurst_{layer}"]) == float(films.hurst[0, layer - 1])


def test_the_profile_is_that_of_the_films_on_silica_on_silicon(subject, place):
    own = Draws(torch.zeros(1, dtype=torch.long), place, torch.zeros(1, dtype=torch.long))
    density = subject.density(own, {})[0]
    z = subject.axis
    stack = grazing_sample(films_at(place.view(1, 12, 6))).stack
    assert float(density[z < -140].abs().max()) < 1e-4
    assert float(density[-1]) == pytest.approx(float(stack.density[0, -1]), rel=1e-3)
    silica = float(
        density[int((z - float(films_at(place.view(1, 12, 6)).thickness.sum()) - 500).abs().argmin())]
    )
    assert silica == pytest.approx(float(stack.density[0, -2]), rel=1e-3)


def test_frames_of_another_angle_are_refused_though_fringes_may_cut_them_off(subject, frame):
    turned = replace(frame.geometry, incidence_rad=math.radians(0.3))
    with pytest.raises(GeometryError, match="horizon"):
        subject.collate([replace(frame, geometry=turned)], 0.0)
