"""Positions of a scan on disk that its frames correct."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.storage.readers import read_frames
from tests.simulated_scan import FAR, NEAR, simulate


def rms(one, other) -> float:
    """Root mean square distance of positions (N, 2), their mean taken out."""
    away = np.asarray(one) - np.asarray(other)
    return float(np.sqrt(np.square(away - away.mean(0)).sum(1).mean()))


def stored(folder, made, positions, dark=()):
    counts = made.exposures.counts.numpy().copy()
    counts[list(dark)] = 0
    number = {} if made.near is None else {"fresnel_number": made.near}
    path = folder / "scan.npz"
    np.savez(path, data=counts, positions_px=positions, probe=made.probe.numpy(), **number)
    return path


class Made:
    """A simulated scan and its Fresnel number."""

    def __init__(self, propagation):
        self.exposures, self.probe, _ = simulate(propagation)
        self.near = None if propagation is FAR else propagation.fresnel_number


@pytest.mark.parametrize("propagation", [FAR, NEAR], ids=["far", "near"])
def test_frames_move_back_to_where_they_were_taken(tmp_path, caplog, propagation):
    made = Made(propagation)
    true = made.exposures.position.numpy()
    given = true + 0.6 * torch.randn(true.shape, generator=torch.Generator().manual_seed(5)).numpy()
    path = stored(tmp_path, made, given, dark=[11])
    kept, refined = (
        [frame.place for frame in read_frames(path, refine_positions=refine, on_failure=lambda _: None)]
        for refine in (False, True)
    )
    lit = [i for i in range(len(true)) if i != 11]
    assert rms(kept, given[lit]) < 1e-6
    assert rms(refined, true[lit]) < 0.4 * rms(given[lit], true[lit])
    assert "positions moved by" in caplog.text


def test_right_positions_stay(tmp_path):
    made = Made(FAR)
    true = made.exposures.position.numpy()
    path = stored(tmp_path, made, true)
    refined = [frame.place for frame in read_frames(path, refine_positions=True)]
    assert rms(refined, true) < 0.05
