"""Alignment: draws that differ trivially become equal, others keep what differs."""

import numpy as np
import pytest

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.core.modes import find_modes
from nfphasing_bluesky.core.symmetry import Symmetry


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def objects(rng, count, size=16, complex_=True):
    """(count, 32, 32) unlike, lopsided objects of size x size pixels."""
    made = np.zeros((count, 32, 32), dtype=complex if complex_ else float)
    values = rng.uniform(size=(count, size, size)) ** 4
    if complex_:
        values = values * np.exp(2j * rng.uniform(size=values.shape))
    made[:, 8 : 8 + size, 8 : 8 + size] = values
    return made


def test_phases_are_taken_away(rng):
    u = objects(rng, 1)[0]
    phases = np.exp(2j * np.pi * rng.uniform(size=50))
    aligned = Symmetry(phase=True)(u * phases[:, None, None])
    assert np.abs(aligned - aligned[0]).max() < 1e-12
    assert abs(np.vdot(aligned[0], u)) == pytest.approx(np.linalg.norm(u) ** 2)


def test_signs_are_taken_away_from_real_draws(rng):
    u = objects(rng, 1, complex_=False)[0]
    aligned = Symmetry(phase=True)(u * rng.choice([-1, 1], size=30)[:, None, None])
    assert np.abs(aligned - aligned[0]).max() == 0 and aligned.dtype == u.dtype


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("shift", ["circular", "bounded"])
def test_shifts_are_taken_away(rng, shift, complex_):
    u = objects(rng, 1, complex_=complex_)[0]
    reach = 31 if shift == "circular" else 7
    lags = rng.integers(-reach, reach + 1, size=(40, 2))
    draws = np.stack([np.roll(u, lag, axis=(0, 1)) for lag in lags])
    aligned = Symmetry(shift=shift)(draws)
    np.testing.assert_array_equal(aligned, np.broadcast_to(aligned[0], aligned.shape))
    assert np.abs(aligned[0]).sum() == pytest.approx(np.abs(u).sum())


def test_a_bounded_shift_loses_nothing_of_unlike_objects(rng):
    draws = objects(rng, 20, complex_=False)
    draws = np.stack([np.roll(d, rng.integers(-7, 8, size=2), axis=(0, 1)) for d in draws])
    aligned = Symmetry(shift="bounded")(draws)
    np.testing.assert_allclose(np.abs(aligned).max(axis=(1, 2)), draws.max(axis=(1, 2)))
    assert (aligned.sum(axis=(1, 2)) > 0.97 * draws.sum(axis=(1, 2))).all()


def test_a_curve_shifts_too(rng):
    u = np.zeros(64)
    u[20:30] = rng.uniform(size=10)
    aligned = Symmetry(shift="circular")(np.stack([np.roll(u, k) for k in range(64)]))
    np.testing.assert_array_equal(aligned, np.broadcast_to(aligned[0], aligned.shape))


@pytest.mark.parametrize("twin", [False, True])
def test_twins_are_two_modes_unless_told_otherwise(rng, twin):
    u = objects(rng, 1)[0]
    both = np.stack([u, np.flip(u).conj()])
    answer = rng.uniform(size=200) < 0.3
    draws = both[answer.astype(int)] * np.exp(2j * np.pi * rng.uniform(size=200))[:, None, None]
    draws = np.stack([np.roll(d, rng.integers(32, size=2), axis=(0, 1)) for d in draws])
    draws = draws + 0.02 * (rng.normal(size=draws.shape) + 1j * rng.normal(size=draws.shape))
    modes = find_modes(draws, Symmetry(phase=True, shift="circular", twin=twin))
    weights = [1.0] if twin else [1 - answer.mean(), answer.mean()]
    np.testing.assert_allclose([m.weight for m in modes], weights)
    for mode, members in zip(modes, (~answer, answer), strict=False):
        assert twin or set(mode.members) == set(np.flatnonzero(members))
        alike = [np.abs(np.fft.ifft2(np.fft.fft2(mode.mean) * np.fft.fft2(t).conj())).max() for t in both]
        assert max(alike) > 0.999 * np.linalg.norm(mode.mean) * np.linalg.norm(u)


def test_modes_of_objects_with_nothing_in_common_stay_apart_whatever_the_phase(rng):
    """A single reference would leave the phase of the others undefined, and their draws on a ring."""
    truth = np.zeros((3, 30), dtype=complex)
    for k in range(3):
        truth[k, 10 * k : 10 * k + 10] = 1
    label = rng.choice(3, p=[0.6, 0.3, 0.1], size=600)
    draws = truth[label] * np.exp(2j * np.pi * rng.uniform(size=600))[:, None]
    draws = draws + 0.05 * (rng.normal(size=(600, 30)) + 1j * rng.normal(size=(600, 30)))
    modes = find_modes(draws, Symmetry(phase=True))
    np.testing.assert_allclose([m.weight for m in modes], np.bincount(label) / 600)
    assert all(m.std.max() < 0.1 for m in modes)


def test_words_it_does_not_know_are_errors():
    with pytest.raises(SettingsError, match="expected one of none, circular, bounded"):
        Symmetry(shift="wrapped")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="expected 1 or more"):
        Symmetry(references=0)
