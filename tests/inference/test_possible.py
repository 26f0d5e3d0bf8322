"""Draws that explain nothing are replaced by draws of the same frame that do."""

import torch

from nfphasing_bluesky.inference import possible
from nfphasing_bluesky.inference.possible import keep_possible
from nfphasing_bluesky.modalities import Draws
from nfphasing_bluesky.modalities.draws import Evaluated

LEVELS = torch.tensor([[0.0, -39.0, -41.0, -5.0, -1e9], [-3e3, -3e3 - 50, -1e5, -3e3 - 1, -torch.inf]])


def made() -> tuple[Draws, Evaluated]:
    n = LEVELS.numel()
    draws = Draws(torch.zeros(n, dtype=torch.long), torch.arange(n)[:, None], torch.arange(n) // 5)
    return draws, Evaluated(LEVELS.flatten(), {"scale": 10.0 * torch.arange(n)}, torch.arange(n)[:, None])


def test_each_frame_keeps_its_own_and_repeats_them_in_turn(monkeypatch):
    draws, evaluated = made()
    monkeypatch.setattr(possible, "FEWEST", 2)
    kept, after, doubts = keep_possible(draws, evaluated, 2, 40.0)
    assert doubts == ["", ""]
    expected = [0, 1, 3, 3, 1, 5, 8, 5, 8, 5]
    assert kept.theta[:, 0].tolist() == expected
    assert kept.frame.tolist() == [0] * 5 + [1] * 5
    assert after.nuisance["scale"].tolist() == [10.0 * i for i in expected]
    assert after.predicted[:, 0].tolist() == expected
    assert after.log_likelihood.tolist() == LEVELS.flatten()[expected].tolist()


def test_without_any_there_is_nothing_to_do():
    draws, evaluated = made()
    fine = Evaluated(torch.zeros(LEVELS.numel()), evaluated.nuisance, evaluated.predicted)
    kept, after, doubts = keep_possible(draws, fine, 2, 40.0)
    assert kept is draws and after is fine and not any(doubts)


def test_one_draw_never_stands_for_all(monkeypatch):
    """Where next to none stays, the best do, and the frame says so."""
    monkeypatch.setattr(possible, "FEWEST", 3)
    draws, evaluated = made()
    kept, _, doubts = keep_possible(draws, evaluated, 2, 4.0)
    # only draw 0 of the first frame is within 4 nats, 3 and 1 come next; two of the second frame are
    assert kept.theta[:5, 0].tolist() == [0, 1, 3, 3, 1]
    assert kept.theta[5:, 0].unique().tolist() == [5, 6, 8]
    assert [bool(d) for d in doubts] == [True, True]
