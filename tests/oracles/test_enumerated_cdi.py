"""The enumeration against counting and exact intensities, its weights against a search and sampling."""

import numpy as np
import pytest

from nfphasing_bluesky.core import Symmetry, find_modes
from tests.oracles.enumerated_cdi import (
    GaussianPrior,
    UniformPrior,
    enumerate_objects,
    importance_weights,
    intensity,
    laplace,
    log_posterior,
)


def real_object(seed, n, lowest=0.1):
    return np.random.default_rng(seed).uniform(lowest, 1, size=n)


def complex_object(seed, n):
    parts = np.random.default_rng(seed).normal(size=(2, n))
    return parts[0] + 1j * parts[1]


@pytest.mark.parametrize("n", [8, 9, 10])
def test_complex_objects_have_two_to_the_n_minus_one_solutions(n):
    u = complex_object(n, n)
    solutions = enumerate_objects(intensity(u), real=False)
    assert len(solutions) == 2 ** (n - 1)
    check(solutions, u)


@pytest.mark.parametrize("n", [8, 9, 10])
@pytest.mark.parametrize("non_negative", [False, True])
def test_real_objects_exchange_conjugate_zeros_together(n, non_negative):
    for seed in range(5):
        u = real_object(seed, n)
        solutions = enumerate_objects(intensity(u), real=True, non_negative=non_negative)
        zeros = np.roots(u[::-1])
        groups = int(np.sum(np.abs(zeros.imag) < 1e-9)) + int(np.sum(zeros.imag > 1e-9))
        assert len(solutions) <= 2**groups
        assert non_negative or len(solutions) == 2**groups
        assert all((s.u >= 0).all() for s in solutions) or not non_negative
        assert all(s.u.dtype == np.float64 for s in solutions)
        check(solutions, u)


def check(solutions, u):
    """Same intensities, the object and its twin among them, no two the same, twins in pairs."""
    every = np.stack([s.u for s in solutions])
    expected = intensity(u)
    assert np.abs(intensity(every) - expected).max() < 1e-9 * expected.max()
    turned = u * np.conj(u.sum()) / abs(u.sum())
    for target in (turned, turned[::-1].conj()):
        assert np.linalg.norm(every - target, axis=1).min() < 1e-8 * np.linalg.norm(u)
    apart = np.linalg.norm(every[:, None] - every, axis=2) + 9 * np.eye(len(every))
    assert apart.min() > 1e-3
    for k, solution in enumerate(solutions):
        twin = solutions[solution.twin]
        assert twin.twin == k
        np.testing.assert_allclose(twin.u, solution.u[::-1].conj(), atol=1e-8)


def test_two_pixels_by_hand():
    """(1, 2) and (2, 1) have the autocorrelation (5, 2) and nothing else does."""
    solutions = enumerate_objects(intensity(np.array([1.0, 2.0])), real=True)
    np.testing.assert_allclose(sorted(tuple(s.u) for s in solutions), [(1, 2), (2, 1)])


def test_objects_it_cannot_enumerate_are_errors():
    with pytest.raises(ValueError, match="less than 8 pixels"):
        enumerate_objects(intensity(np.append(real_object(0, 7), 0)), real=True)
    with pytest.raises(ValueError, match="unit circle"):
        enumerate_objects(intensity(np.array([1.0, 1.2, 1.0])), real=True)
    solutions = enumerate_objects(intensity(complex_object(0, 4)), real=False)
    with pytest.raises(ValueError, match="mean 0"):
        laplace(solutions, intensity(complex_object(0, 4)), 0.1, GaussianPrior(1, 1))


CASES = {
    "gaussian prior": (real_object(2, 8), GaussianPrior(0.4, 0.25), 0.005),
    "uniform prior": (real_object(4, 8), UniformPrior(0, 1.5), 0.005),
    "pixels at the bound": (real_object(7, 8), UniformPrior(0, 1.0), 0.02),
    "narrow prior": (real_object(7, 8), GaussianPrior(0.5, 0.05), 0.02),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_importance_sampling(name):
    u, prior, sigma = CASES[name]
    values = intensity(u) + sigma * np.random.default_rng(5).normal(size=2 * u.size)
    peaks = laplace(enumerate_objects(intensity(u), real=True), values, sigma, prior)
    sampled, ess_fraction = importance_weights(peaks, values, sigma, prior, 100_000)
    assert ess_fraction > 0.1
    np.testing.assert_allclose([p.weight for p in peaks], sampled, atol=0.02)


def test_weights_of_complex_objects_are_those_of_importance_sampling(sigma=0.002, spread=0.003):
    """All phases are as probable: a window about each peak's phase takes the same share of each solution."""
    u = complex_object(3, 5)
    values, prior = intensity(u), GaussianPrior(0, 0.7)
    solutions = enumerate_objects(values, real=False)
    peaks = laplace(solutions, values, sigma, prior)
    rng = np.random.default_rng(2)
    masses = []
    for peak in peaks:
        x = np.concatenate([peak.u.real, peak.u.imag])
        along = np.concatenate([-peak.u.imag, peak.u.real])  # of a turn by one radian
        factor = np.linalg.cholesky(peak.covariance + spread**2 * np.outer(along, along))
        scale = np.sqrt(8 / rng.chisquare(8, size=40_000))[:, None]
        noise = rng.normal(size=(40_000, x.size))
        drawn = x + (noise * scale) @ factor.T
        drawn = drawn[:, :5] + 1j * drawn[:, 5:]
        log_q = -0.5 * (8 + x.size) * np.log1p(np.sum((noise * scale) ** 2, axis=1) / 8)
        log_q -= np.log(np.diag(factor)).sum()
        phase = np.angle(drawn @ peak.u.conj())
        log_p = log_posterior(drawn, values, sigma, prior) - 0.5 * (phase / spread) ** 2
        masses.append(np.exp(log_p - log_q).mean())
    weights = [peak.weight for peak in peaks]
    assert max(weights) > 1.2 * min(weights)
    # twins weigh exactly the same: their mean has less of the sampling's noise
    sampled = (np.array(masses) + np.array(masses)[[s.twin for s in solutions]]) / (2 * sum(masses))
    np.testing.assert_allclose(weights, sampled, rtol=0.05)


@pytest.mark.parametrize("seed", [1, 8])
def test_weights_are_those_of_a_search_that_knows_no_solution(seed):
    sigma, prior = 0.02, UniformPrior(0, 1.2)
    u = real_object(seed, 4)
    values = intensity(u) + sigma * np.random.default_rng(6).normal(size=8)
    peaks = laplace(enumerate_objects(intensity(u), real=True), values, sigma, prior)
    points, p = every_probable_cell(values, sigma, prior, 4, sigma / 16)
    distances = [np.linalg.norm(points - peak.u, axis=1) for peak in peaks]
    shares = np.bincount(np.argmin(distances, axis=0), weights=p, minlength=len(peaks))
    assert len(peaks) > 1
    np.testing.assert_allclose([peak.weight for peak in peaks], shares, atol=0.02)


def every_probable_cell(values, sigma, prior, n, half):
    """Centres of all cells of half-width `half` or less within 5 sigma of every intensity, and their share.

    The whole box is halved again and again. With every pixel within h, an amplitude A is within n h, and its
    square within 2 |A| n h + (n h)^2: cells that cannot come near all intensities are dropped.
    """
    size = (prior.upper - prior.lower) / 2
    centres = np.full((1, n), (prior.upper + prior.lower) / 2)
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * n)).reshape(n, -1).T
    while size > half:
        size /= 2
        centres = (centres[:, None] + size * corners).reshape(-1, n)
        kept = []
        for part in np.array_split(centres, len(centres) // 100_000 + 1):
            found = intensity(part)
            reach = 2 * np.sqrt(found) * n * size + (n * size) ** 2
            kept.append(part[(np.abs(found - values) <= 5 * sigma + reach).all(axis=1)])
        centres = np.concatenate(kept)
    log_p = log_posterior(centres, values, sigma, prior)
    p = np.exp(log_p - log_p.max())
    return centres, p / p.sum()


@pytest.mark.parametrize("seed", [1, 7])
def test_the_solutions_of_a_real_object_are_found_as_modes(seed):
    u = real_object(seed, 8)
    sigma = 0.004
    values = intensity(u)
    solutions = enumerate_objects(values, real=True, non_negative=True)
    peaks = laplace(solutions, values, sigma, GaussianPrior(0.5, 0.3))
    draws, label = scattered(peaks, 2000, seed)
    expected = [k for k in range(len(peaks)) if np.sum(label == k) > 25]
    modes = find_modes(draws)
    found = {int(np.bincount(label[m.members]).argmax()): m for m in modes}
    assert len(expected) > 8 and set(expected) <= set(found)
    for k in expected:
        assert found[k].weight == pytest.approx(np.mean(label == k), abs=0.005)
        np.testing.assert_allclose(found[k].mean, peaks[k].u, atol=0.01)


def test_the_solutions_of_a_complex_object_are_found_as_modes_whatever_their_phases():
    u = complex_object(3, 5)
    values = intensity(u)
    peaks = laplace(enumerate_objects(values, real=False), values, 0.02, GaussianPrior(0, 2))
    draws, label = scattered(peaks, 1000, 3)
    phases = np.random.default_rng(4).uniform(0, 2 * np.pi, size=1000)
    modes = find_modes(draws * np.exp(1j * phases)[:, None], Symmetry(phase=True, references=16))
    expected = np.bincount(label, minlength=16) / 1000
    assert len(modes) == 16 and expected.min() > 0.012
    for mode in modes:
        k = int(np.bincount(label[mode.members]).argmax())
        assert mode.weight == pytest.approx(expected[k], abs=0.005)
        overlap = abs(np.vdot(mode.mean, peaks[k].u))
        assert overlap > 0.999 * np.linalg.norm(mode.mean) * np.linalg.norm(peaks[k].u)


def scattered(peaks, count, seed):
    """Draws about the peaks by their weights and covariances, and their labels."""
    rng = np.random.default_rng(seed)
    label = rng.choice(len(peaks), p=[p.weight for p in peaks], size=count)
    n = peaks[0].u.size
    noise = np.empty((count, peaks[0].covariance.shape[0]))
    for k, peak in enumerate(peaks):
        own = label == k
        noise[own] = rng.multivariate_normal(np.zeros(noise.shape[1]), peak.covariance, size=own.sum())
    if np.iscomplexobj(peaks[0].u):
        noise = noise[:, :n] + 1j * noise[:, n:]
    return np.stack([p.u for p in peaks])[label] + noise, label
