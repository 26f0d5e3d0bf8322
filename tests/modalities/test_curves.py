"""Which curves carry enough signal: the same answer for measured and for simulated ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame, FrameError, Origin
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.modalities.curves import MIN_SIGNAL_TO_NOISE, collate, usable
from nfphasing_bluesky.training.rounds import simulate_usable

Q = np.linspace(0.01, 0.5, 300)


def frame(signal: float, seed: int = 0) -> Frame:
    """Guinier curve under noise of one, over background-subtracted zeros at high q."""
    intensity = signal * np.exp(-((Q * 30) ** 2) / 3)
    noise = np.random.default_rng(seed).normal(size=Q.size)
    return Frame(intensity + noise, CurveGeometry(Q), np.ones(Q.size), origin=Origin())


def test_a_curve_whose_signal_is_all_at_low_q_is_taken():
    batch = collate([frame(2.0)], 0.0)
    assert bool(usable(batch).all())
    whole = float((batch.weight * batch.intensity).sum() / batch.weight.sum().sqrt())
    assert whole < MIN_SIGNAL_TO_NOISE  # over all of q it is lost in the noise of the zeros


def test_noise_alone_is_refused_and_the_message_says_what_was_found():
    refused = 0
    for seed in range(40):
        try:
            collate([frame(0.0, seed)], 0.01)
        except FrameError as error:
            refused += 1
            assert "signal-to-noise" in str(error) and "expected more than 4" in str(error)
    assert refused >= 38


@pytest.mark.parametrize("name", ["saxs1d-pr", "saxs1d-particles"])
def test_simulated_frames_that_would_be_refused_are_left_out(name):
    from nfphasing_bluesky.models import load

    subject = modality(name, None, load(name).part("prior"))
    batch, draws, truth = simulate_usable(subject, 300, torch.Generator().manual_seed(1))
    assert bool(subject.usable(batch).all())
    assert 100 < len(draws) < 300 and len(batch) == len(draws)
    assert torch.equal(draws.frame, torch.arange(len(draws)))
    assert all(len(values) == len(draws) for values in truth.values())
    again, _, _ = simulate_usable(subject, 300, torch.Generator().manual_seed(1))
    assert torch.equal(batch.intensity, again.intensity)


def test_what_was_made_once_of_a_batch_is_not_that_of_other_rows_or_another_mask():
    batch = collate([frame(40.0, seed) for seed in range(3)], 0.0)
    made = []

    def total(rows):
        made.append(len(rows))
        return torch.where(rows.mask, 0.0, rows.intensity).sum(1)

    first = batch.once("total", total)
    assert batch.once("total", total) is first and made == [3]
    some = batch.at(torch.tensor([2, 0]))
    torch.testing.assert_close(some.once("total", total), first[[2, 0]])
    hidden = replace(batch, mask=torch.ones_like(batch.mask))
    assert hidden.once("total", total).tolist() == [0.0, 0.0, 0.0]
    assert made == [3, 2, 3]
