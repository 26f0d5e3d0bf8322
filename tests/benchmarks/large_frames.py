"""A hologram of 2048 x 2048 pixels: what it takes, whether tiles show, what its intervals hold."""

import resource
import time

import numpy as np
from scipy.stats import t as student

from nfphasing_bluesky.core import Failure, ReconstructionSettings
from nfphasing_bluesky.inference import Reconstructor
from tests.benchmarks.figures import Figure
from tests.seams import contrasts, measured

SIDE, DRAWS = 2048, 4


def large_hologram(side: int = SIDE) -> list[Figure]:
    """Processor time and peak memory of one hologram, its seams, its error and its intervals.

    Args:
        side: of the frame, px.
    """
    truth, frame = measured((side, side))
    reconstructor = Reconstructor.load("holography", "cpu", settings=ReconstructionSettings(n_samples=DRAWS))
    began = time.process_time()
    (found,) = reconstructor([frame])
    seconds = time.process_time() - began
    if isinstance(found, Failure):
        raise RuntimeError(found.reason)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seams = contrasts(found, truth)
    worst = max(seams, key=lambda where: seams[where])
    # where a draw more of as many as these would lie
    reach = student.ppf(0.975, DRAWS - 1) * (1 + 1 / DRAWS) ** 0.5
    held = float((np.abs(truth - found.mean) < reach * found.std).mean())
    error = float(np.linalg.norm(found.mean - truth) / np.linalg.norm(truth))
    what = f"hologram of {side} x {side}"
    return [
        Figure(f"{what}: processor time", seconds, "s", detail=f"{DRAWS} draws, {found.trust.verdict}"),
        Figure(f"{what}: peak memory", peak, "GiB", 4.0, detail="of the process so far"),
        Figure(
            f"{what}: steps across seams over others",
            seams[worst],
            "",
            1.15,
            detail=" ".join(map(str, worst)),
        ),
        Figure(f"{what}: NRMSE of the mean", error, ""),
        Figure(f"{what}: 95 % intervals", 100 * held, "%", 93.0, "higher"),
    ]
