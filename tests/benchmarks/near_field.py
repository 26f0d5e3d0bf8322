"""The measured near-field scan against cdtools' object: as it is, and with the frames free to move first."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from nfphasing_bluesky.core import Frame, Posterior, ReconstructionSettings, Stitcher
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.storage.readers import read_frames
from tests.benchmarks.figures import Figure
from tests.scan_alignment import aligned, correlations, registered

DATA = Path(__file__).parents[3] / "shared/data/holography/p25_nearfield_siemens"
NAMES = {
    "mask_good": "mask_good",
    "fresnel_number_pixel": "fresnel_number",
    "effective_pixel_m": "pixel_size_m",
    "reference_pixel_positions_yx": "positions_px",
}
DRAWS, QUICK_FRAMES = 8, 24
FREE = 3
"""Pixels by which the object may lie elsewhere: positions are nominal, and cdtools refined them."""


def against_cdtools(name: str, quick: bool) -> list[Figure]:
    """Correlations between the frames' centres: the object where its positions put it, and registered."""
    model = Reconstructor.load(name, "cpu", ReconstructionSettings(n_samples=DRAWS))
    figures: list[Figure] = []
    for refine in (False, True):
        began = time.perf_counter()
        frames = read_frames(
            DATA / "p25_nearfield.npz",
            renamed=NAMES,
            probe=DATA / "reference_cdtools.npz",
            refine_positions=refine,
        )
        case = "positions refined" if refine else "positions as given"
        figures += _compared(model, frames, case, quick)
        seconds = time.perf_counter() - began
        figures.append(Figure(f"P25, {case}: time", seconds, "s", None, "lower", f"{name}, {DRAWS} draws"))
    return figures


def _compared(model: Reconstructor, frames: Sequence[Frame], case: str, quick: bool) -> list[Figure]:
    corners = np.asarray(np.load(DATA / "p25_nearfield.npz")["reference_pixel_positions_yx"], dtype=float)
    reference = np.load(DATA / "reference_cdtools.npz")["object"]
    complete = model.survey(frames)
    order = np.argsort(np.square(corners - corners.mean(0)).sum(1))
    chosen = sorted(order[:QUICK_FRAMES]) if quick else range(len(frames))
    stitcher, chi2 = Stitcher(model.info.neighbours), []
    for first in range(0, len(chosen), 8):
        for found in model([complete[i] for i in chosen[first : first + 8]]):
            if isinstance(found, Posterior):
                stitcher.add(found)
                chi2.append(found.trust.reduced_chi2)
    whole = stitcher.result()
    assert whole is not None
    shift = np.median(np.floor(corners + 0.5) - np.floor([np.add(f.place, 0.5) for f in frames]), axis=0)
    centres = corners[list(chosen)] + np.array(frames[0].intensity.shape) / 2
    low, high = np.ceil(centres.min(0)).astype(int), np.floor(centres.max(0)).astype(int)
    truth = reference[low[0] : high[0], low[1] : high[1]]
    start = low - shift.astype(int) - whole.place
    mean, std = (_cut(image, start, truth.shape) for image in (whole.mean, whole.std))
    plain = aligned(mean[FREE:-FREE, FREE:-FREE], truth)
    part, moved = registered(mean, truth, FREE)
    error = np.abs(part - truth) / np.abs(truth)
    rank = spearmanr(error.ravel(), std[FREE:-FREE, FREE:-FREE].ravel()).statistic
    detail = f"moved by {moved[0]:.2f}, {moved[1]:.2f} px; frames: {len(chosen)}"
    return [
        Figure(
            f"P25, {case}: phase", correlations(plain, truth)[0], "correlation", 0.8, "higher", "in place"
        ),
        Figure(f"P25, {case}: phase", correlations(part, truth)[0], "correlation", 0.8, "higher", detail),
        Figure(
            f"P25, {case}: amplitude", correlations(part, truth)[1], "correlation", None, "higher", detail
        ),
        Figure(f"P25, {case}: error and std", float(rank), "Spearman", 0.4, "higher", detail),
        Figure(f"P25, {case}: reduced chi2", float(np.median(chi2)), "1", None, "lower", "median of frames"),
    ]


def _cut(image: np.ndarray, start: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = (slice(int(s) - FREE, int(s) + n + FREE) for s, n in zip(start, shape, strict=True))
    return image[rows, columns]
