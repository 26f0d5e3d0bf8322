"""Reconstructor: repeatable, independent of the batch, and never stopped by one bad frame."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import (
    CurveGeometry,
    DetectorGeometry,
    Failure,
    Frame,
    Posterior,
    ReconstructionSettings,
    SettingsError,
    Verdict,
)
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.inference.trust import doubted


def test_a_posterior_has_everything_it_declares(pair_distance, make_frames):
    frame = make_frames(pair_distance, 1)[0]
    (posterior,) = pair_distance([frame], n_samples=64)
    assert posterior.mean.shape == posterior.std.shape == pair_distance.info.density.shape
    assert posterior.samples.shape == (64, *posterior.mean.shape)
    assert set(posterior.parameters) == {p.name for p in pair_distance.info.parameters}
    assert posterior.prediction.mean.shape == frame.intensity.shape
    assert (posterior.prediction.lower <= posterior.prediction.upper).all()
    assert posterior.origin == frame.origin
    assert posterior.latency_s > 0
    summary = posterior.summary()["rg_angstrom"]
    assert summary.q025 < summary.q16 < summary.median < summary.q84 < summary.q975


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(pair_distance, make_frames):
    frames = make_frames(pair_distance, 2)
    first, second = pair_distance(frames, seed=4), pair_distance(frames, seed=4)
    other = pair_distance(frames, seed=5)
    assert np.array_equal(first[0].samples, second[0].samples)
    assert not np.array_equal(first[0].samples, other[0].samples)


@pytest.mark.parametrize("name", ["saxs1d-particles", "saxs1d-pr"])
def test_what_a_model_kept_when_it_reconstructed_can_be_differentiated(name, make_frames):
    # of another instance, for whatever is kept to be made when it is first wanted
    frames, fresh = make_frames(Reconstructor.load(name, "cpu"), 2), Reconstructor.load(name, "cpu")
    fresh(frames, n_samples=32)
    generator = torch.Generator().manual_seed(1)
    draws = fresh.modality.sample_prior(8, generator)
    batch, _ = fresh.modality.simulate(draws, generator)
    theta = draws.theta.clone().requires_grad_()
    moved = replace(draws, theta=theta)
    (fresh.modality.log_likelihood(moved, batch) + fresh.modality.log_prior(moved)).sum().backward()
    fresh.modality.forward(moved, batch).sum().backward()
    assert theta.grad is not None
    assert torch.isfinite(theta.grad).all()
    assert (theta.grad != 0).any()


@pytest.mark.parametrize("name", ["particles", "pair_distance"])
def test_draws_do_not_depend_on_the_batch(name, request, make_frames, monkeypatch):
    reconstructor = request.getfixturevalue(name)
    # draws that are resampled change places where a weight moves in its last digits
    as_drawn = reconstructor.settings.model_copy(update={"resample_ess": 1.0})
    monkeypatch.setattr(reconstructor, "settings", as_drawn)
    frames = make_frames(reconstructor, 6, seed=3)
    together = reconstructor(frames, n_samples=32)
    for frame, posterior in zip(frames, together, strict=True):
        (alone,) = reconstructor([frame], n_samples=32)
        for key, draws in posterior.parameters.items():
            atol = 2e-3 * np.nanstd(draws) if np.isfinite(draws).any() else 0.0
            np.testing.assert_allclose(alone.parameters[key], draws, rtol=2e-3, atol=atol, err_msg=key)


def test_curves_of_different_length_share_a_batch(pair_distance, guinier_frame):
    long, short = guinier_frame(points=300), guinier_frame(points=80)
    both = pair_distance([long, short], n_samples=32)
    assert [p.prediction.mean.size for p in both] == [300, 80]


BAD = {
    "zero counts": lambda f: f(intensity=np.zeros(120)),
    "all masked": lambda f: f(mask=np.ones(120, dtype=bool)),
    "all NaN": lambda f: f(intensity=np.full(120, np.nan)),
    "all negative": lambda f: f(intensity=-np.ones(120)),
    "no sigma": lambda f: f(sigma=None),
    "zero sigma": lambda f: f(sigma=np.zeros(120)),
    "two-dimensional": lambda f: Frame(
        np.ones((4, 4)), DetectorGeometry(1e-10, 1.0, (1e-4, 1e-4), (0.0, 0.0))
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_frame_fails_alone_with_its_reason(kind, pair_distance, guinier_frame):
    results = pair_distance([guinier_frame("before"), BAD[kind](guinier_frame), guinier_frame("after")], 16)
    assert [type(r) for r in results] == [Posterior, Failure, Posterior]
    assert "expected" in results[1].reason
    assert results[0].origin.label == "before"
    assert results[2].origin.label == "after"


def test_a_few_bad_points_are_left_out(pair_distance, guinier_frame):
    clean = guinier_frame()
    intensity = clean.intensity.copy()
    intensity[[5, 40]] = np.nan, np.inf
    mask = np.zeros(120, dtype=bool)
    mask[[5, 40]] = True
    (dirty,) = pair_distance([guinier_frame(intensity=intensity)], 32)
    (masked,) = pair_distance([guinier_frame(mask=mask)], 32)
    np.testing.assert_allclose(dirty.samples, masked.samples, rtol=1e-4, atol=1e-7)


def test_negative_points_of_a_subtracted_curve_are_used(pair_distance, guinier_frame):
    frame = guinier_frame()
    intensity = frame.intensity.copy()
    intensity[-30:] -= 2e-3
    (posterior,) = pair_distance([guinier_frame(intensity=intensity)], 32)
    assert np.isfinite(posterior.mean).all()


def test_q_outside_the_models_range_is_never_valid(pair_distance, guinier_frame):
    (posterior,) = pair_distance([guinier_frame(q=np.linspace(0.0005, 0.05, 120), rg=200.0)], 32)
    assert posterior.trust.verdict is not Verdict.VALID
    assert "outside the model's range" in posterior.trust.reason or posterior.trust.verdict is Verdict.ALARM


def test_a_curve_that_no_draw_fits_is_an_alarm(pair_distance, guinier_frame):
    frame = guinier_frame()
    wiggly = frame.intensity * (1.5 + np.sin(np.arange(120)))
    (posterior,) = pair_distance([guinier_frame(intensity=wiggly)], 32)
    assert posterior.trust.verdict is Verdict.ALARM
    assert "chi-squared" in posterior.trust.reason


def test_the_scale_of_the_intensity_only_scales_i0(pair_distance, guinier_frame):
    frame = guinier_frame()
    (small,) = pair_distance([frame], 32)
    (large,) = pair_distance([guinier_frame(intensity=frame.intensity * 1024, sigma=frame.sigma * 1024)], 32)
    np.testing.assert_allclose(large.parameters["rg_angstrom"], small.parameters["rg_angstrom"], rtol=1e-3)
    np.testing.assert_allclose(large.parameters["i0"], 1024 * small.parameters["i0"], rtol=1e-3)


def test_a_known_geometry_error_widens_every_length(pair_distance, guinier_frame):
    q = np.linspace(0.01, 0.3, 120)
    (exact,) = pair_distance([guinier_frame()], 512)
    (vague,) = pair_distance([guinier_frame(geometry=CurveGeometry(q, q_relative_error=0.2))], 512)
    ratio = vague.parameters["rg_angstrom"] / exact.parameters["rg_angstrom"]
    assert float(np.log(ratio).std()) == pytest.approx(0.2, rel=0.1)


def test_polish_moves_draws_to_the_data(particles, make_frames):
    frame = make_frames(particles, 4, seed=11)[0]
    settings = ReconstructionSettings(n_samples=128, polish_steps=12)
    polished = Reconstructor.load("saxs1d-particles", "cpu", settings)
    (before,), (after,) = particles([frame], 128), polished([frame])
    assert after.trust.reduced_chi2 <= before.trust.reduced_chi2 * 1.05
    assert after.trust.acceptance > 0.02
    assert after.trust.reduced_chi2 < 1.6
    assert sum(after.classes.values()) == pytest.approx(1.0)


def test_an_unavailable_device_is_a_clear_error():
    with pytest.raises(SettingsError, match="try 'auto'"):
        Reconstructor.load("saxs1d-pr", "cuda:7")


def test_nothing_that_can_not_be_rebuilt_is_held(pair_distance):
    assert not [v for v in vars(pair_distance).values() if hasattr(v, "fileno")]
    again = pickle.loads(pickle.dumps(pair_distance.info))
    assert again.sha256 == pair_distance.info.sha256


def test_a_frame_of_a_doubtful_measurement_is_never_valid(pair_distance, make_frames):
    frame = make_frames(pair_distance, 1)[0]
    (sure,), (doubtful,) = (
        pair_distance([one], n_samples=64) for one in (frame, replace(frame, doubt="the stage was not homed"))
    )
    assert sure.trust.verdict is Verdict.VALID and not sure.trust.reason
    assert doubtful.trust.verdict is Verdict.WARNING
    assert doubtful.trust.reason == "the stage was not homed"
    bad = replace(sure.trust, verdict=Verdict.ALARM, reason="no draw fits")
    assert doubted(bad, "not homed") == replace(bad, reason="not homed; no draw fits")


def test_bounds_that_a_model_cannot_take_are_not_lost(pair_distance, guinier_frame):
    known = replace(guinier_frame("film"), bounds={"thickness_1_angstrom": (90.0, 110.0)})
    failure, posterior = pair_distance([known, guinier_frame()], n_samples=16)
    assert isinstance(failure, Failure)
    assert "thickness_1_angstrom, expected none for saxs1d-pr" in failure.reason
    assert isinstance(posterior, Posterior)
