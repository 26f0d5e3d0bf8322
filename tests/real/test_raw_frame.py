"""The raw Pilatus frame of the same protein, minus its buffer, through pyFAI and the same model."""

import numpy as np
import pytest

from nfphasing_bluesky.core import DetectorGeometry
from nfphasing_bluesky.documents.integration import integrate, subtract
from nfphasing_bluesky.storage.readers import read_frames

PIXEL_M = 172e-6
COLUMNS = 487
# In the stored image q grows to the left; the beam stop hides the last columns.
BEAM_M = (97.0 * PIXEL_M, (COLUMNS + 0.2) * PIXEL_M)
GEOMETRY = DetectorGeometry(1.245e-10, 1.5027, (PIXEL_M, PIXEL_M), BEAM_M)
BEAM_STOP_COLUMNS = 14
RAW_SCALE = 0.00469475  # of RAW's reduced file: diode and absolute scale


@pytest.fixture(scope="module")
def posterior(pair_distance, shared_data):
    folder = shared_data / "saxs2d/glucose_isomerase_pilatus_chess_g1"
    frame = read_frames(folder / "GI2_A9_19_001_0000.tiff", geometry=GEOMETRY)[0]
    mask = np.zeros(frame.intensity.shape, dtype=bool)
    mask[:, -BEAM_STOP_COLUMNS:] = True
    buffer = read_frames(folder / "buffer_1d_GIbuf2_A9_18_001_0000.dat")[0]
    q = buffer.geometry.q_inv_angstrom
    half = np.median(np.diff(q)) / 2
    curve = integrate(
        frame, len(q), mask, normalisation=1 / RAW_SCALE, q_range_inv_angstrom=(q[0] - half, q[-1] + half)
    )
    return pair_distance([subtract(curve, buffer)])[0]


def test_radius_of_gyration_is_compatible_and_less_certain(posterior, pair_distance, glucose_isomerase):
    rg = posterior.summary()["rg_angstrom"]
    averaged = pair_distance([glucose_isomerase])[0].summary()["rg_angstrom"]
    # this one second alone has a Guinier radius of 32.3 +- 0.8: GNOM's value for the average of all frames
    # lies in the outer part of what it allows
    low, high = np.quantile(posterior.parameters["rg_angstrom"], (0.005, 0.995))
    assert low < 33.36 < high
    assert rg.q025 < averaged.median < rg.q975
    assert rg.q975 - rg.q025 > 1.5 * (averaged.q975 - averaged.q025)


def test_it_fits(posterior):
    assert posterior.trust.reduced_chi2 < 1.35
