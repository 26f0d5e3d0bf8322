"""Draws that explain nothing are replaced by draws of the same frame that do."""

import torch

from nfphasing_bluesky.inference.possible import keep_possible
from nfphasing_bluesky.modalities import Draws
from nfphasing_bluesky.modalities.base import Evaluated

LEVELS = torch.tensor([[0.0, -39.0, -41.0, -5.0, -1e9], [-3e3, -3e3 - 50, -1e5, -3e3 - 1, -torch.inf]])


def made() -> tuple[Draws, Evaluated]:
    n = LEVELS.numel()
    draws = Draws(torch.zeros(n, dtype=torch.long), torch.arange(n)[:, None], torch.arange(n) // 5)
    return draws, Evaluated(LEVELS.flatten(), {"scale": 10.0 * torch.arange(n)}, torch.arange(n)[:, None])


def test_each_frame_keeps_its_own_and_repeats_them_in_turn():
    draws, evaluated = made()
    kept, after = keep_possible(draws, evaluated, 2, 40.0)
    expected = [0, 1, 3, 3, 1, 5, 8, 5, 8, 5]
    assert kept.theta[:, 0].tolist() == expected
    assert kept.frame.tolist() == [0] * 5 + [1] * 5
    assert after.nuisance["scale"].tolist() == [10.0 * i for i in expected]
    assert after.predicted[:, 0].tolist() == expected
    assert after.log_likelihood.tolist() == LEVELS.flatten()[expected].tolist()


def test_without_any_there_is_nothing_to_do():
    draws, evaluated = made()
    fine = Evaluated(torch.zeros(LEVELS.numel()), evaluated.nuisance, evaluated.predicted)
    kept, after = keep_possible(draws, fine, 2, 40.0)
    assert kept is draws and after is fine
