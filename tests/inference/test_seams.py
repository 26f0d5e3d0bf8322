"""Frames of many tiles: nothing shows where tiles begin, end or hand over, in mean, draws and error bars."""

import numpy as np
import pytest

from nfphasing_bluesky.core import Frame, Posterior, ReconstructionSettings, Verdict
from nfphasing_bluesky.inference import Reconstructor
from tests.seams import TILE, contrasts, lines, measured

MOST = 1.15


def reconstructed(frame: Frame, draws: int) -> Posterior:
    (found,) = Reconstructor.load("holography", settings=ReconstructionSettings(n_samples=draws))([frame])
    assert isinstance(found, Posterior), found.reason
    return found


def test_tiles_of_a_frame_leave_no_seams():
    truth, frame = measured((330, 453))
    posterior = reconstructed(frame, draws=3)
    assert posterior.trust.reduced_chi2 < 1.2 and posterior.trust.verdict is not Verdict.ALARM
    found = contrasts(posterior, truth)
    assert max(found.values()) < MOST, found


@pytest.mark.slow
def test_a_long_frame_has_no_seams_either_and_knows_as_much_there():
    truth, frame = measured((2048, 512))
    posterior = reconstructed(frame, draws=2)
    found = contrasts(posterior, truth)
    assert max(found.values()) < MOST, found
    for axis in (0, 1):
        borders = lines(truth.shape, axis)["borders"][1:-1]
        far = np.abs(np.arange(truth.shape[axis])[:, None] + 0.5 - borders).min(1)
        error = ((posterior.mean - truth) ** 2).mean(1 - axis)
        assert error[far < 2].mean() < 1.4 * error[(far > 8) & (far < TILE // 4)].mean()


@pytest.mark.parametrize("shape", [(64, 64), (130, 128), (67, 201)])
def test_frames_of_any_size_from_one_tile_on(shape):
    truth, frame = measured(shape)
    posterior = reconstructed(frame, draws=2)
    assert posterior.mean.shape == posterior.std.shape == posterior.prediction.mean.shape == shape
    assert np.corrcoef(posterior.mean.ravel(), truth.ravel())[0, 1] > 0.9
