"""Simulated scans of random objects that are known exactly, in frames as detectors have them.

The probe is known too, and the counts are Poisson's: what is left is the model's own error, and whether its
error bars say where it is large.
"""

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr

from nfphasing_bluesky.core import (
    Frame,
    Origin,
    Posterior,
    PtychographyGeometry,
    ReconstructionSettings,
    Stitcher,
    Verdict,
)
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities.imaging.patterns import expected, transmission
from nfphasing_bluesky.physics.imaging.patches import cut
from nfphasing_bluesky.physics.imaging.probes import light_radius, random_probes
from nfphasing_bluesky.physics.noise import poisson_counts
from tests.benchmarks.figures import Figure
from tests.scan_alignment import Object, aligned, correlations, nrmse
from tests.simulated_scan import sample

FAR = torch.tensor([torch.nan], dtype=torch.float64)
PHOTONS, RADIUS_PX = 1e6, 15.0
STEP = 0.7
"""Of the beam's radius."""

EDGE, MARGIN = 4, 8
AT_ONCE = 4
DRAWS = 8
PHASE_RAD = 0.4
"""Root mean square of the object's."""


@dataclass(frozen=True, eq=False)
class KnownScan:
    """Frames of a raster scan, and the object whose pixel [0, 0] positions count from."""

    frames: list[Frame]
    truth: Object

    def middle(self) -> tuple[slice, slice]:
        """Rows and columns that lie between the outermost places of the beam."""
        side = self.frames[0].intensity.shape[0]
        places = np.array([frame.geometry.position_px for frame in self.frames]) + side / 2
        rows, columns = (
            slice(round(low), round(high)) for low, high in zip(places.min(0), places.max(0), strict=True)
        )
        return rows, columns


def known_scan(side: int, rows: int, seed: int) -> KnownScan:
    """Simulate rows x rows frames of side x side pixels of a random object under a random beam."""
    generator = torch.Generator().manual_seed(seed)
    probes = random_probes(64, side, generator)
    chosen = int((light_radius(probes) - RADIUS_PX).abs().argmin())
    probe, radius = PHOTONS**0.5 * probes[[chosen]], float(light_radius(probes)[chosen])
    grid = torch.cartesian_prod(*(torch.arange(rows, dtype=torch.float64),) * 2)
    jitter = 0.4 * (torch.rand(grid.shape, generator=generator, dtype=torch.float64) - 0.5)
    places = EDGE + STEP * radius * (grid + jitter).clamp_min(0)
    pixels = int(places.max()) + side + MARGIN
    truth = sample(PHASE_RAD, seed, pixels)
    u = torch.stack([truth.angle(), -truth.abs().log()])[None]
    frames = []
    for number, place in enumerate(places, 1):
        corner = torch.floor(place + 0.5)
        wave = transmission(cut(u, corner.long()[None], (side, side)))
        mean = expected(wave, probe, (place - corner)[None], FAR, centred=True)
        position = (float(place[0]), float(place[1]))
        geometry = PtychographyGeometry(position_px=position, probe=probe[0].numpy(), centred=True)
        counts = poisson_counts(mean.clamp_min(0), generator)[0].double().numpy()
        frames.append(Frame(counts, geometry, None, origin=Origin(seq_num=number)))
    return KnownScan(frames, truth.numpy())


class Compared(NamedTuple):
    """The stitched object against the truth, in the scan's middle."""

    nrmse: float
    phase: float
    rank: float
    within: tuple[float, float]
    valid: float
    seconds: float


def compared(scan: KnownScan, model: Reconstructor) -> Compared:
    """Reconstruct and stitch a scan; `seconds` is of the processor for each frame."""
    stitcher, valid, began = Stitcher(model.info.neighbours), 0, time.process_time()
    frames = model.survey(scan.frames)
    for first in range(0, len(frames), AT_ONCE):
        for found in model(frames[first : first + AT_ONCE]):
            if not isinstance(found, Posterior):
                raise ValueError(found.reason)
            stitcher.add(found)
            valid += found.trust.verdict is Verdict.VALID
    seconds = time.process_time() - began
    whole = stitcher.result()
    if whole is None:
        raise ValueError("no frame could be used")
    here = scan.middle()
    there = tuple(slice(s.start - p, s.stop - p) for s, p in zip(here, whole.place, strict=True))
    truth, std = scan.truth[here], whole.std[there]
    found = aligned(whole.mean[there], truth)
    error = np.abs(found - truth) / np.abs(truth)
    return Compared(
        nrmse(found, truth),
        correlations(found, truth)[0],
        float(spearmanr(error.ravel(), std.ravel()).statistic),
        (float((error < std).mean()), float((error < 2 * std).mean())),
        valid / len(frames),
        seconds / len(frames),
    )


def against_truth(name: str, sides: dict[int, int]) -> list[Figure]:
    """Medians over random objects, as many for each side as `sides` says."""
    model = Reconstructor.load(name, "cpu", ReconstructionSettings(n_samples=DRAWS))
    figures = []
    for side, count in sides.items():
        found = [compared(known_scan(side, 4, seed), model) for seed in range(count)]
        what = f"known scans, {side} x {side}"
        detail = f"{name}, median of {count} random objects, 16 frames of {PHOTONS:.0e} photons"

        def middle(of: str, found: list[Compared] = found) -> float:
            return float(np.median([getattr(one, of) for one in found]))

        within = np.median([one.within for one in found], 0)
        of_time = f"of a core for a frame; {DRAWS} draws"
        figures += [
            Figure(f"{what}: complex NRMSE", middle("nrmse"), "1", None, "lower", detail),
            Figure(f"{what}: phase", middle("phase"), "correlation", None, "higher", detail),
            Figure(f"{what}: error and std", middle("rank"), "Spearman", 0.4, "higher", detail),
            Figure(f"{what}: within 1 std", float(within[0]), "1", detail=detail),
            Figure(f"{what}: within 2 std", float(within[1]), "1", detail=detail),
            Figure(f"{what}: VALID frames", float(np.mean([one.valid for one in found])), "1", detail=detail),
            Figure(f"{what}: time", middle("seconds"), "s", None, "lower", of_time),
        ]
    return figures
