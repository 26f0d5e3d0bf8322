"""Positions of a scan on disk, refined with all of its frames before any of them is reconstructed."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from nfphasing_bluesky.documents.ptychography import Optics
from nfphasing_bluesky.documents.scan_start import Shots, exposures_of, propagation_of
from nfphasing_bluesky.physics.imaging.whole_scan import Sweeps, WholeScan, sweep_scan

log = logging.getLogger(__name__)

SWEEPS = Sweeps(16, batch=2, positions_from=3, background=True)
LEAST_GAIN = 0.02
"""Share by which the misfit must fall, or the positions stay as they were given."""


def refined_positions(
    shots: Shots, probe: NDArray[np.complexfloating], optics: Optics, where: str, seed: int = 0
) -> NDArray[np.float64]:
    """Positions (N, 2) at which frames that overlap agree best; their mean, which no frame tells, stays.

    The whole scan is reconstructed twice with the known probe and an even background, with the positions as
    they are and with each frame free to move (`physics.imaging.whole_scan`).

    Args:
        shots: all frames of the scan that have light.
        probe: (P, H, W), photons^(1/2).
        optics: of the scan, `centred` known.
        where: what to call the scan in the log.
        seed: of the order in which frames take turns.
    """
    fixed = Sweeps(SWEEPS.number, batch=SWEEPS.batch, background=True)
    before, after = (_misfit_and_scan(shots, probe, optics, sweeps, seed) for sweeps in (fixed, SWEEPS))
    moved = after[1].position.numpy() - shots.places
    moved -= moved.mean(0)
    rms = float(np.sqrt(np.square(moved).sum(1).mean()))
    if after[0] > (1 - LEAST_GAIN) * before[0]:
        log.warning(
            "%s: positions stay as they are: frames that move by %.2f px explain the scan no better (misfit "
            "%.3g, before %.3g)",
            where,
            rms,
            after[0],
            before[0],
        )
        return shots.places
    log.warning(
        "%s: positions moved by %.2f px (rms), the misfit fell from %.3g to %.3g",
        where,
        rms,
        before[0],
        after[0],
    )
    return shots.places + moved


def _misfit_and_scan(
    shots: Shots, probe: NDArray[np.complexfloating], optics: Optics, sweeps: Sweeps, seed: int
) -> tuple[float, WholeScan]:
    modes = torch.from_numpy(probe.astype(np.complex64))
    generator = torch.Generator().manual_seed(seed)
    scan = sweep_scan(exposures_of(shots), modes, propagation_of(optics), sweeps, generator)
    return float(scan.misfit.median()), scan
