"""Modes: one blob is one mode, and well-separated modes are found with their weights and means."""

import time

import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Axis,
    DensityInfo,
    Posterior,
    Prediction,
    SettingsError,
    Symmetry,
    Trust,
    Verdict,
    find_modes,
)

SEEDS = range(3)


def mixture(rng, weights, centres, draws=1000):
    """Draws of unit Gaussians about the centres, with exactly these weights, and their labels."""
    label = rng.permutation(
        np.repeat(np.arange(len(weights)), np.round(np.array(weights) * draws).astype(int))
    )
    return centres[label] + rng.normal(size=(label.size, centres.shape[1])), label


def simplex(rng, count, dimensions, distance):
    """Centres the same distance from one another, in random directions."""
    axes, _ = np.linalg.qr(rng.normal(size=(dimensions, count)))
    return axes.T[:count] * distance / np.sqrt(2)


@pytest.mark.parametrize("dimensions", [1, 2, 5, 20, 100, 1000])
@pytest.mark.parametrize("draws", [60, 400])
def test_a_gaussian_is_one_mode(dimensions, draws):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        (mode,) = find_modes(rng.normal(size=(draws, dimensions)))
        assert mode.weight == 1 and mode.members.size == draws


@pytest.mark.parametrize("dimensions", [2, 64, 1000])
def test_a_gaussian_of_a_thousand_draws_is_one_mode(dimensions):
    for seed in range(5):
        assert len(find_modes(np.random.default_rng(seed).normal(size=(1000, dimensions)))) == 1


def ring(rng, n):
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.column_stack([np.cos(angle), np.sin(angle)]) + 0.1 * rng.normal(size=(n, 2))


def banana(rng, n):
    x = rng.normal(size=n)
    return np.column_stack([x, x**2 + 0.2 * rng.normal(size=n)])


ONE_PIECE = {
    "smooth images": lambda rng, n: rng.normal(size=(n, 300)) / np.arange(1, 301),
    "heavy tails": lambda rng, n: rng.standard_t(3, size=(n, 5)),
    "skewed": lambda rng, n: rng.exponential(size=(n, 5)),
    "a box": lambda rng, n: rng.uniform(size=(n, 3)),
    "a ring": ring,
    "a banana": banana,
}


@pytest.mark.parametrize("name", ONE_PIECE)
def test_what_hangs_together_is_one_mode(name):
    counts = [len(find_modes(ONE_PIECE[name](np.random.default_rng(s), 1000))) for s in SEEDS]
    assert counts == [1] * len(counts)


@pytest.mark.parametrize(
    ("weights", "dimensions", "distance"),
    [
        ((0.5, 0.5), 2, 10),
        ((0.98, 0.02), 2, 16),
        ((0.98, 0.02), 20, 16),
        ((0.98, 0.02), 1000, 25),
        ((0.5, 0.3, 0.15, 0.03, 0.02), 10, 16),
        ((0.5, 0.3, 0.15, 0.03, 0.02), 1000, 30),
        ((0.1,) * 10, 30, 15),
        ((0.7, 0.3), 1000, 12),
    ],
)
def test_separate_modes_are_found_with_weights_and_means(weights, dimensions, distance):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        centres = simplex(rng, len(weights), dimensions, distance)
        draws, label = mixture(rng, weights, centres)
        modes = find_modes(draws)
        assert len(modes) == len(weights)
        np.testing.assert_allclose([m.weight for m in modes], weights, atol=0.02)
        for mode in modes:
            own = np.bincount(label[mode.members]).argmax()
            error = np.linalg.norm(mode.mean - centres[own])
            assert error < 1.5 * np.sqrt(dimensions / mode.members.size) + 0.5
            assert np.mean(mode.std) == pytest.approx(1, abs=0.25)


def test_a_gap_across_a_long_thin_posterior_is_found():
    rng = np.random.default_rng(0)
    draws, _ = mixture(rng, (0.6, 0.4), np.array([[0.0, 0], [0, 10]]))
    draws[:, 0] *= 100
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    np.testing.assert_allclose([m.weight for m in find_modes(draws @ turn)], (0.6, 0.4), atol=0.005)


def test_every_draw_has_one_mode_and_the_order_of_draws_is_no_matter():
    rng = np.random.default_rng(3)
    draws, _ = mixture(rng, (0.6, 0.3, 0.1), simplex(rng, 3, 8, 20))
    modes = find_modes(draws)
    np.testing.assert_array_equal(np.sort(np.concatenate([m.members for m in modes])), np.arange(1000))
    order = rng.permutation(1000)
    again = find_modes(draws[order])
    for mode, other in zip(modes, again, strict=True):
        assert set(order[other.members]) == set(mode.members)


def test_a_thousand_images_take_no_minutes():
    rng = np.random.default_rng(0)
    draws, _ = mixture(rng, (0.7, 0.28, 0.02), simplex(rng, 3, 4096, 40))
    draws = draws.reshape(1000, 64, 64).astype(np.float32)
    find_modes(draws[:100])
    taken = []
    for _ in range(2):
        began = time.process_time()
        modes = find_modes(draws)
        taken.append(time.process_time() - began)
    np.testing.assert_allclose([m.weight for m in modes], (0.7, 0.28, 0.02), atol=1e-9)
    assert modes[0].mean.shape == (64, 64)
    # CPU time: 0.6 s where this was written
    assert min(taken) < 6


def test_the_same_draw_many_times_is_one_mode_and_two_draws_are_two():
    for dtype in (np.float64, np.float32, np.complex128, np.int64):
        assert len(find_modes(np.full((100, 7), 3.1, dtype=dtype))) == 1
    twice = np.repeat([[0.0, 1.0], [5.0, 2.0]], [70, 30], axis=0)
    assert [m.weight for m in find_modes(twice)] == [0.7, 0.3]


def test_few_draws_are_one_mode():
    assert len(find_modes(np.random.default_rng(0).normal(size=(10, 4)))) == 1
    assert find_modes(np.zeros((1, 3)))[0].weight == 1


def test_a_posterior_tells_its_modes():
    axis = Axis("r", np.linspace(0, 1, 40), "angstrom")
    rng = np.random.default_rng(1)
    curves = np.stack([np.sin(3 * axis.values), np.cos(3 * axis.values)])
    label = np.repeat([0, 1], [180, 76])
    samples = curves[label] + 0.05 * rng.normal(size=(256, 40))
    flat = np.zeros(3)
    posterior = Posterior(
        DensityInfo("p(r)", "1/angstrom", (axis,)),
        samples.mean(axis=0),
        samples.std(axis=0),
        samples,
        {},
        {},
        Prediction(flat, flat, flat),
        Trust(1.0, None, 0.1, Verdict.VALID),
    )
    first, second = posterior.modes()
    assert (first.weight, second.weight) == (180 / 256, 76 / 256)
    np.testing.assert_allclose(first.mean, curves[0], atol=0.02)
    np.testing.assert_allclose(second.mean, curves[1], atol=0.03)


def test_answers_that_are_known_are_told_apart_where_the_draws_alone_do_not():
    rng = np.random.default_rng(2)
    draws, label = mixture(rng, (0.7, 0.27, 0.03), simplex(rng, 3, 8, 6.0), draws=200)
    assert len(find_modes(draws)) == 1
    # two components of the heaviest answer are one mode
    answers = np.where((label == 0) & (rng.random(200) < 0.3), 7, label)
    modes = find_modes(draws, answers=answers)
    assert [round(m.weight, 3) for m in modes] == [0.7, 0.27, 0.03]
    for mode in modes:
        assert len(set(label[mode.members])) == 1


@pytest.mark.parametrize("dimensions", [2, 10, 64, 1000])
@pytest.mark.parametrize("draws", [40, 256])
def test_components_of_one_gaussian_are_joined(dimensions, draws):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(draws, dimensions))
        assert len(find_modes(values, answers=rng.integers(4, size=draws))) == 1


def test_a_chain_of_components_is_one_mode():
    rng = np.random.default_rng(0)
    answers = np.repeat(np.arange(5), 40)
    draws = rng.normal(size=(200, 3)) + np.outer(answers, [2.0, 0, 0])
    assert len(find_modes(draws, answers=answers)) == 1


def test_answers_that_differ_by_a_shift_are_one_mode_where_the_heavier_is():
    rng = np.random.default_rng(0)
    pattern = np.zeros((8, 8))
    pattern[1:4, 2:6] = rng.uniform(0.5, 1, (3, 4))
    answers = np.repeat([0, 1, 2], [60, 30, 30])
    places = np.stack([pattern, np.roll(pattern, 2, 0), pattern[::-1, ::-1]])
    draws = places[answers] + 0.02 * rng.normal(size=(120, 8, 8))
    heavy, light = find_modes(draws, Symmetry(shift="bounded"), answers)
    assert (heavy.weight, light.weight) == (0.75, 0.25)
    np.testing.assert_allclose(heavy.mean, pattern, atol=0.03)
    np.testing.assert_allclose(light.mean, places[2], atol=0.03)


def test_answers_for_other_draws_are_an_error():
    with pytest.raises(SettingsError, match="3 answers for 20 draws"):
        find_modes(np.zeros((20, 2)), answers=np.arange(3))


def test_draws_that_cannot_be_compared_are_errors():
    with pytest.raises(SettingsError, match="hold none"):
        find_modes(np.empty((0, 4)))
    with pytest.raises(SettingsError, match="NaN"):
        find_modes(np.array([[1.0], [np.nan]]))
    with pytest.raises(SettingsError, match="align returned 1 draws for 20"):
        find_modes(np.zeros((20, 2)), align=lambda draws: draws[:1])
