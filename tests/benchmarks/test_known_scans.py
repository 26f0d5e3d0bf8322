"""Frames as large as detectors give them: the shipped model is of tiles, and frames are of any size."""

import pytest

from nfphasing_bluesky.core import ReconstructionSettings
from nfphasing_bluesky.inference import Reconstructor
from tests.benchmarks.known_scans import compared, known_scan


@pytest.mark.slow
@pytest.mark.parametrize("side", [128, 256])
def test_a_known_object_is_found_in_frames_of_any_size(side):
    model = Reconstructor.load("ptychography", "cpu", ReconstructionSettings(n_samples=4))
    found = compared(known_scan(side, 3, seed=2), model)
    assert found.nrmse < 0.08 and found.phase > 0.98
    assert found.within[0] > 0.7 and found.within[1] > 0.9
