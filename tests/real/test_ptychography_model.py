"""The shipped ptychography model on scans of others, against what their codes found: some frames of each."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nfphasing_bluesky.core import Posterior, ReconstructionSettings, Stitcher
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.storage.readers import read_frames
from tests.scan_alignment import aligned, correlations, nrmse, registered

pytestmark = pytest.mark.slow

DRAWS, FRAMES = 8, 9
FOLDERS = {
    "siemens": "ptychography/siemens_star_aps",
    "moonflower": "ptychography/sim_ptypy_moonflower",
    "p25": "holography/p25_nearfield_siemens",
}


@dataclass
class Case:
    """Posteriors of the frames around the middle of a scan; object and reference where these lie."""

    posteriors: list[Posterior]
    found: np.ndarray
    std: np.ndarray
    reference: np.ndarray


@pytest.fixture(scope="module")
def model():
    return Reconstructor.load("ptychography", "cpu", ReconstructionSettings(n_samples=DRAWS))


def siemens(folder: Path):
    """Frames, the reference object, and where the frames lie in it."""
    reference = np.load(folder / "reference_ptychi_lsqml.npz")
    frames = read_frames(
        folder / "siemens_star_small.npz",
        renamed={"scan": "positions_px"},
        probe=folder / "reference_ptychi_lsqml.npz",
    )
    corner = reference["positions_px_centred"] + [n // 2 - 64 for n in reference["object"].shape]
    return frames, reference["object"], corner


def moonflower(folder: Path):
    """Frames of ptypy's simulation, the object behind them, and where they lie in it."""
    stored = np.load(folder / "moonflower.npz")
    frames = read_frames(folder / "moonflower.npz", renamed={"pixel_positions": "positions_px"})
    return frames, stored["object"], stored["pixel_positions"]


def p25(folder: Path):
    """Near-field frames, the reference object, and where they lie in it."""
    stored, reference = np.load(folder / "p25_nearfield.npz"), np.load(folder / "reference_cdtools.npz")
    names = {
        "mask_good": "mask_good",
        "fresnel_number_pixel": "fresnel_number",
        "effective_pixel_m": "pixel_size_m",
    }
    names["reference_pixel_positions_yx"] = "positions_px"
    frames = read_frames(
        folder / "p25_nearfield.npz",
        renamed=names,
        probe=folder / "reference_cdtools.npz",
        refine_positions=True,
    )
    return frames, reference["object"], stored["reference_pixel_positions_yx"]


def reconstructed(model: Reconstructor, frames, reference, corner, away=(0.0, 0.0), free=0) -> Case:
    """Stitch the frames nearest to a place off the middle of the scan; compare where their centres lie.

    The object may lie up to `free` pixels elsewhere, where positions are nominal.
    """
    corner = np.asarray(corner, dtype=float)
    middle = np.argsort(np.square(corner - corner.mean(0) - away).sum(1))[:FRAMES]
    complete = model.survey(frames)
    posteriors = model([complete[i] for i in sorted(middle)])
    assert all(isinstance(p, Posterior) for p in posteriors)
    stitcher = Stitcher(model.info.neighbours)
    for posterior in posteriors:
        stitcher.add(posterior)
    whole = stitcher.result()
    # pixels of the reference less those of the positions
    shift = np.floor(corner[middle] + 0.5) - [np.floor(np.array(frames[i].place) + 0.5) for i in middle]
    centres = corner[middle] + np.array(frames[0].intensity.shape) / 2
    first, last = np.ceil(centres.min(0)).astype(int), np.floor(centres.max(0)).astype(int)
    start = first - np.median(shift, axis=0).astype(int) - whole.place
    here = tuple(slice(int(s), int(s + n)) for s, n in zip(start, last - first, strict=True))
    there = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    truth = reference[there]
    if free:
        larger = whole.mean[tuple(slice(part.start - free, part.stop + free) for part in here)]
        return Case(posteriors, registered(larger, truth, free)[0], whole.std[here], truth)
    return Case(posteriors, aligned(whole.mean[here], truth), whole.std[here], truth)


def test_measured_siemens_star(model, shared_data):
    # the star's centre is a disc without contrast
    case = reconstructed(model, *siemens(shared_data / FOLDERS["siemens"]), away=(-70.0, -70.0))
    phase, amplitude = correlations(case.found, case.reference)
    assert phase > 0.95
    assert amplitude > 0.35
    error = np.abs(case.found - case.reference) / np.abs(case.reference)
    assert (error < 2 * case.std).mean() > 0.9
    assert np.median(case.std) < 0.15


def test_moonflower(model, shared_data):
    case = reconstructed(model, *moonflower(shared_data / FOLDERS["moonflower"]))
    assert nrmse(case.found, case.reference) < 0.15
    assert correlations(case.found, case.reference)[0] > 0.95


def test_measured_near_field(model, shared_data):
    frames, reference, corner = p25(shared_data / FOLDERS["p25"])
    # positions are nominal: refined here, and by cdtools in its own way, so the object may lie a pixel away
    case = reconstructed(model, frames, reference, corner, free=2)
    assert correlations(case.found, case.reference)[0] > 0.8
    # its probe explains the counts to some per cent only, and there are ten thousand a pixel
    assert all(p.trust.verdict != "VALID" for p in case.posteriors)
    counted = {frame.origin.seq_num: frame for frame in frames}
    for posterior in case.posteriors:
        frame = counted[posterior.origin.seq_num]
        predicted, good = posterior.prediction.mean, frame.usable
        assert predicted.shape == frame.intensity.shape
        assert np.corrcoef(predicted[good], frame.intensity[good])[0, 1] >= 0.9
