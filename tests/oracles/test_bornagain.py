"""Patterns of rough stacks and of particles against BornAgain: 20 random samples of each kind, 2 % RMS.

Found: 0.02 % RMS of the log intensity in the median, and the same absolute scale.
"""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.modalities.grazing.gisaxs_films import (
    WAVELENGTH_ANGSTROM,
    grazing_sample,
    sample_films,
)
from nfphasing_bluesky.physics.grazing.dwba_roughness import roughness_within
from nfphasing_bluesky.physics.grazing.form_factors import Shape
from nfphasing_bluesky.physics.reflectivity import refractive_index
from tests.oracles.bornagain_samples import (
    ORDERS,
    Angles,
    Media,
    RoughStack,
    bornagain_pattern,
    double,
    our_pattern,
    random_islands,
    random_media,
    random_rough_stack,
)

SAMPLES = range(20)
ANGLES = Angles()
SHAPE_RMS, SCALE = 0.02, 0.01


@pytest.fixture
def ba(oracle):
    return oracle("bornagain")


def misfit(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """RMS of the log ratio about its mean, and the ratio, outside the specular pixel."""
    ratio = np.log(ours / theirs)[~ANGLES.specular()]
    return float(ratio.std()), float(np.exp(ratio.mean()))


def assert_alike(ours: np.ndarray, theirs: np.ndarray) -> None:
    rms, scale = misfit(ours, theirs)
    assert rms < SHAPE_RMS
    assert scale == pytest.approx(1, abs=SCALE)


@pytest.mark.parametrize("seed", SAMPLES)
def test_rough_interfaces(ba, seed):
    sample = random_rough_stack(seed)
    assert_alike(our_pattern(sample.ours(), ANGLES), bornagain_pattern(ba, sample.layers(ba), ANGLES))


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("seed", SAMPLES)
def test_particles(ba, seed, shape):
    sample = random_islands(shape, seed)
    assert_alike(our_pattern(sample.ours(), ANGLES), bornagain_pattern(ba, sample.layers(ba), ANGLES))


def test_every_order_is_among_the_samples():
    seen = [random_islands(Shape.SPHERE, seed) for seed in SAMPLES]
    assert {(s.order, s.layer) for s in seen} == {(order, layer) for order in ORDERS for layer in (0, 1)}


def published_films(seed: int) -> RoughStack:
    """Twelve layers of arXiv:2210.01543, rough up to their thickness, on silica and silicon."""
    films = grazing_sample(sample_films(1, torch.Generator().manual_seed(seed)))
    stack, shape = films.stack, films.roughness
    delta, beta = refractive_index(stack.density, stack.absorption, WAVELENGTH_ANGSTROM)
    return RoughStack(
        media=Media(torch.cat([delta, beta]).T.numpy(), stack.thickness[0].numpy() / 10),
        sigma_nm=stack.roughness[0].numpy() / 10,
        hurst=shape.hurst[0].numpy(),
        lateral_nm=shape.lateral[0].numpy() / 10,
        vertical_nm=float(shape.vertical) / 10,
    )


@pytest.mark.parametrize("seed", range(5))
def test_films_of_the_published_prior(ba, seed):
    sample = published_films(seed)
    assert_alike(our_pattern(sample.ours(), ANGLES), bornagain_pattern(ba, sample.layers(ba), ANGLES))


@pytest.mark.parametrize("seed", [1, 4])
def test_single_precision_is_enough(ba, seed):
    """Patterns in float32, as batches for training are made."""
    for sample in (random_rough_stack(seed), *(random_islands(shape, seed) for shape in Shape)):
        ours = our_pattern(sample.ours(), ANGLES, torch.float32)
        assert_alike(ours, bornagain_pattern(ba, sample.layers(ba), ANGLES))


def test_the_cutoff_of_bornagain_is_a_smaller_roughness(ba):
    """Its Nevot-Croce factors take sigma from waves up to the cutoff, its spectrum keeps all of sigma."""
    media = random_media(np.random.default_rng(5), 0)
    shape = np.array([1.2]), np.array([0.25]), np.array([8.0])
    theirs = bornagain_pattern(ba, RoughStack(media, *shape, 0.0).layers(ba, cutoff=0.5), ANGLES)
    within = roughness_within(*map(double, shape), 2 * np.pi * 0.5).numpy()
    plain, _ = misfit(our_pattern(RoughStack(media, *shape, 0.0).ours(), ANGLES), theirs)
    rms, scale = misfit(our_pattern(RoughStack(media, within, *shape[1:], 0.0).ours(), ANGLES), theirs)
    assert rms < 1e-3 < SHAPE_RMS < plain
    assert scale == pytest.approx(float((within / shape[0])[0]) ** 2, abs=1e-3)
