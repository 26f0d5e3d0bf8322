"""Settings refuse unknown words and values out of range, and have one digest everywhere."""

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from nfphasing_bluesky.core import Policy, ReconstructionSettings, StreamSettings, Summary, settings_sha256


@pytest.mark.parametrize(
    "values", [{"n_sample": 3}, {"n_samples": 1}, {"seed": -1}, {"sigma_floor": 2.0}, {"polish_steps": -1}]
)
def test_unknown_words_and_ranges(values):
    with pytest.raises(ValidationError):
        ReconstructionSettings(**values)


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        ReconstructionSettings().seed = 4  # type: ignore[misc]


def test_policy_is_one_of_three():
    assert StreamSettings(policy="latest").policy is Policy.LATEST
    with pytest.raises(ValidationError):
        StreamSettings(policy="newest")


def test_digest_depends_on_values_and_not_on_the_process():
    first = settings_sha256(ReconstructionSettings(seed=3), StreamSettings())
    assert first != settings_sha256(ReconstructionSettings(seed=4), StreamSettings())
    code = (
        "from nfphasing_bluesky.core import *;"
        "print(settings_sha256(ReconstructionSettings(seed=3), StreamSettings()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == first


def test_summary_of_normal_draws_and_of_none():
    draws = np.random.default_rng(0).normal(10, 2, 100_000)
    summary = Summary.of(np.append(draws, np.nan), "angstrom")
    assert summary.median == pytest.approx(10, abs=0.05)
    assert summary.std == pytest.approx(2, rel=0.02)
    assert summary.q975 - summary.q025 == pytest.approx(2 * 1.96 * 2, rel=0.02)
    assert np.isnan(Summary.of(np.full(3, np.nan), "angstrom").median)
    alone = Summary.of(np.array([np.nan, 33.0]), "angstrom")
    assert np.isnan([alone.median, alone.std, alone.q16, alone.q84, alone.q025, alone.q975]).all()


def test_intervals_hold_as_often_as_they_say_however_few_draws_there_are():
    rng = np.random.default_rng(1)
    for count, expected in ((256, 0.95), (39, 0.95), (16, 15 / 17)):
        draws, truth = rng.normal(size=(20_000, count)), rng.normal(size=20_000)
        found = [Summary.of(row, "") for row in draws]
        inside = np.mean([s.q025 <= t <= s.q975 for s, t in zip(found, truth, strict=True)])
        assert inside == pytest.approx(expected, abs=0.005)  # three standard deviations
        half = np.mean([s.q16 <= t <= s.q84 for s, t in zip(found, truth, strict=True)])
        assert half == pytest.approx(0.68, abs=0.01)
    few = np.quantile(draws[0], [0.025, 0.16, 0.5, 0.84, 0.975], method="weibull")
    assert [found[0].q025, found[0].q16, found[0].median, found[0].q84, found[0].q975] == pytest.approx(few)
