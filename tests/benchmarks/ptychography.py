"""The measured Siemens star against pty-chi's object: the model, pty-chi and ePIE, how good and how fast.

The object that is compared with is pty-chi's own, of all frames at full dose: it has pty-chi's noise in it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy.stats import spearmanr

from nfphasing_bluesky.core import Frame, Posterior, ReconstructionSettings, Stitcher, Verdict
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities.ptychography import LEAST_COUNTS
from nfphasing_bluesky.physics import counting
from nfphasing_bluesky.physics.ptychography import (
    FarField,
    exit_waves,
    expected_intensity,
    fourier_shift,
    place_patches,
    split_positions,
    wave_intensity,
)
from nfphasing_bluesky.storage.readers import read_frames
from tests.benchmarks import pty_chi
from tests.benchmarks.figures import Figure
from tests.scan_alignment import Object, aligned, correlations, ring_correlation_limit

DATA = Path(__file__).parents[3] / "shared/data/ptychography/siemens_star_aps"
DRAWS = 8
MARGIN, QUICK_MARGIN = 100, 190
"""Pixels off each edge of the reference that are not compared: its outermost are unreliable."""

REACH = 32
"""Frames whose centres lie so many pixels beyond what is compared still count."""

EPOCHS = (1, 2, 5, 10, 20, 45)


@dataclass(frozen=True, eq=False)
class Scan:
    """Frames, and the places of their corners in the reference object (n, 2)."""

    frames: Sequence[Frame]
    corners: np.ndarray
    reference: Object
    margin: int = MARGIN

    def compared(self, found: Object, place: tuple[int, int]) -> tuple[float, float, float]:
        """Correlations of phase and amplitude, limit of the ring correlation, in the scan's middle."""
        inner, here = self._middle(place)
        truth = self.reference[inner]
        part = aligned(found[here], truth)
        return (*correlations(part, truth), ring_correlation_limit(part, truth))

    def errors(self, found: Object, std: np.ndarray, place: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Errors over the modulus, and the standard deviations that were said, in the scan's middle."""
        inner, here = self._middle(place)
        truth = self.reference[inner]
        return np.abs(aligned(found[here], truth) - truth) / np.abs(truth), std[here]

    def _middle(self, place: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Of the reference, and of an object whose pixel [0, 0] lies at a place in it."""
        rows, columns = (slice(self.margin, n - self.margin) for n in self.reference.shape)
        row, column = place
        there = slice(rows.start - row, rows.stop - row), slice(columns.start - column, columns.stop - column)
        return (rows, columns), there


def siemens_star(quick: bool = False) -> Scan:
    """The measured scan with the probe that pty-chi found; its middle only, if it should be quick.

    Its frames lie where pty-chi had them: a scan does not tell where its object begins, and two origins a
    third of a pixel apart are an error that nobody made.
    """
    stored = np.load(DATA / "reference_ptychi_lsqml.npz")
    frames = read_frames(
        DATA / "siemens_star_small.npz",
        renamed={"scan": "positions_px"},
        probe=DATA / "reference_ptychi_lsqml.npz",
    )
    corners = stored["positions_px_centred"] + [n // 2 - 64 for n in stored["object"].shape]
    scan = Scan(_placed(frames, corners), np.asarray(corners, dtype=float), stored["object"])
    if not quick:
        return scan
    centres = scan.corners + 64
    size = np.array(scan.reference.shape)
    low, high = QUICK_MARGIN - REACH, size - QUICK_MARGIN + REACH
    chosen = np.flatnonzero(((centres > low) & (centres < high)).all(1))
    return Scan([scan.frames[i] for i in chosen], scan.corners[chosen], scan.reference, QUICK_MARGIN)


def _placed(frames: Sequence[Frame], corners: np.ndarray) -> list[Frame]:
    return [
        replace(frame, geometry=replace(frame.geometry, position_px=(float(row), float(column))))
        for frame, (row, column) in zip(frames, corners, strict=True)
    ]


def thinned(scan: Scan, share: float, seed: int = 0) -> Scan:
    """The scan at a share of its dose: each photon is kept with that probability; the probe is darker."""
    rng = np.random.default_rng(seed)
    probe = scan.frames[0].geometry.probe * np.sqrt(share)
    frames = [
        replace(
            frame,
            intensity=rng.binomial(np.round(frame.intensity).astype(int), share).astype(float),
            geometry=replace(frame.geometry, probe=probe),
        )
        for frame in scan.frames
    ]
    return replace(scan, frames=frames)


def sparser(scan: Scan) -> Scan:
    """Every second frame."""
    return replace(scan, frames=scan.frames[::2], corners=scan.corners[::2])


@dataclass(frozen=True, eq=False)
class Found:
    """An object, its standard deviation, its pixel [0, 0] in the reference, and what its frames said."""

    mean: Object
    std: np.ndarray
    place: tuple[int, int]
    reduced_chi2: float
    alarms: int


def ours(scan: Scan, model: Reconstructor) -> Found:
    """Posterior means of all frames, stitched."""
    stitcher = Stitcher(model.info.neighbours)
    frames, chi2, alarms = model.survey(scan.frames), [], 0
    for first in range(0, len(frames), 16):
        for found in model(frames[first : first + 16]):
            if isinstance(found, Posterior):
                stitcher.add(found)
                chi2.append(found.trust.reduced_chi2)
                alarms += found.trust.verdict is Verdict.ALARM
    whole = stitcher.result()
    assert whole is not None
    mean = np.nan_to_num(whole.mean, nan=1.0)
    return Found(mean, whole.std, whole.place, float(np.median(chi2)), alarms)


def epie(scan: Scan, epochs: int, at_once: int = 1) -> Object:
    """ePIE with the known probe (Maiden and Rodenburg 2009), in an order drawn anew each epoch."""
    corner, fraction = split_positions(torch.from_numpy(scan.corners))
    modes = torch.from_numpy(scan.frames[0].geometry.probe)
    amplitude = torch.from_numpy(np.stack([f.intensity for f in scan.frames])).float().clamp_min(0).sqrt()
    far, image = FarField(centred=False), torch.ones(scan.reference.shape, dtype=modes.dtype)
    generator, side = torch.Generator().manual_seed(0), modes.shape[-1]
    brightest = wave_intensity(modes).amax()
    for _ in range(epochs):
        for rows in torch.randperm(len(corner), generator=generator).split(at_once):
            probe = fourier_shift(modes.expand(len(rows), -1, -1, -1), fraction[rows].float())
            patches = torch.stack([image[y : y + side, x : x + side] for y, x in corner[rows].tolist()])
            wave = far.forward(exit_waves(patches, probe))
            change = amplitude[rows] / wave_intensity(wave).clamp_min(1e-12).sqrt() - 1
            step = (probe.conj() * far.backward(wave * change[:, None])).sum(1) / brightest
            total, count = place_patches(step, corner[rows], tuple(image.shape))
            image = image + total / count.clamp_min(1)
    return image.numpy()


def against_others(name: str, quick: bool) -> list[Figure]:
    """Correlations with the reference and seconds, at full dose, a tenth of it, and half of the frames."""
    model = Reconstructor.load(name, "cpu", ReconstructionSettings(n_samples=DRAWS))
    whole = siemens_star(quick)
    cases = {"all": whole, "a tenth of the dose": thinned(whole, 0.1), "half of the frames": sparser(whole)}
    figures: list[Figure] = []
    for case, scan in cases.items():
        seconds, found = _timed(lambda scan=scan: ours(scan, model))
        phase, amplitude, limit = scan.compared(found.mean, found.place)
        target = (0.9, 0.5) if case == "all" else (None, None)
        figures += [
            Figure(f"Siemens star, {case}: phase", phase, "correlation", target[0], "higher", name),
            Figure(f"Siemens star, {case}: amplitude", amplitude, "correlation", target[1], "higher", name),
            Figure(f"Siemens star, {case}: FRC 0.5", limit, "1/px", None, "higher", name),
            Figure(
                f"Siemens star, {case}: time", seconds, "s", None, "lower", f"{name}, {DRAWS} draws a frame"
            ),
        ]
        figures += _of_errors(case, scan, found)
        figures += _of_pty_chi(case, scan, phase)
        figures += _of_epie(case, scan, phase)
    return figures


def misfit(scan: Scan, image: Object, place: tuple[int, int] = (0, 0)) -> float:
    """Median reduced chi-squared of the frames that an object, its pixel [0, 0] at a place, predicts."""
    corner, fraction = split_positions(torch.from_numpy(scan.corners))
    modes, found = torch.from_numpy(scan.frames[0].geometry.probe), []
    whole, side = torch.from_numpy(image).to(modes.dtype), modes.shape[-1]
    for frame, (row, column), part in zip(scan.frames, corner.tolist(), fraction, strict=True):
        top, left = row - place[0], column - place[1]
        probe = fourier_shift(modes[None], part[None].float())
        patch = whole[None, top : top + side, left : left + side]
        expected = expected_intensity(patch, probe, FarField(centred=False))
        counts = torch.from_numpy(frame.intensity).float()[None].clamp_min(0)
        found.append(float(counting.pearson_chi2(counts, expected, least=LEAST_COUNTS)))
    return float(np.median(found))


def _of_errors(case: str, scan: Scan, found: Found) -> list[Figure]:
    """Whether the object's standard deviation says how large its errors are, and where they are large."""
    error, std = scan.errors(found.mean, found.std, found.place)
    detail = f"rms error {np.sqrt(np.square(error).mean()):.3f}, std {np.sqrt(np.square(std).mean()):.3f}"
    rank = float(spearmanr(error.ravel(), std.ravel()).statistic)
    chi2 = found.reduced_chi2
    return [
        Figure(f"Siemens star, {case}: error and std", rank, "Spearman", 0.4, "higher", detail),
        Figure(f"Siemens star, {case}: within 1 std", float((error < std).mean()), "1", detail=detail),
        Figure(f"Siemens star, {case}: within 2 std", float((error < 2 * std).mean()), "1", detail=detail),
        Figure(f"Siemens star, {case}: reduced chi2", chi2, "1", detail=f"draws; alarms: {found.alarms}"),
        Figure(
            f"Siemens star, {case}: reduced chi2",
            misfit(scan, found.mean, found.place),
            "1",
            detail="the stitched mean",
        ),
    ]


def _of_pty_chi(case: str, scan: Scan, wanted: float) -> list[Figure]:
    """After the epochs that reach a correlation, and after the last; its stored object without pty-chi."""
    if not pty_chi.INSTALLED:
        if case != "all":
            return []
        detail = "pty-chi's stored object; `pip install ptychi` for the rest"
        return [
            Figure(f"Siemens star, {case}: reduced chi2", misfit(scan, scan.reference), "1", detail=detail)
        ]
    figures: list[Figure] = []
    reached = False
    for epochs in pty_chi.lsqml(scan.frames, scan.corners, scan.reference.shape, EPOCHS):
        phase = scan.compared(epochs.image, (0, 0))[0]
        if (phase >= wanted and not reached) or epochs.number == EPOCHS[-1]:
            figures += _of_other(case, scan, epochs.image, epochs.seconds, f"pty-chi, {epochs.number} epochs")
        reached = reached or phase >= wanted
    return figures


def _of_other(case: str, scan: Scan, image: Object, seconds: float, detail: str) -> list[Figure]:
    """What another code's object is worth."""
    phase, amplitude, limit = scan.compared(image, (0, 0))
    return [
        Figure(f"Siemens star, {case}: phase", phase, "correlation", None, "higher", detail),
        Figure(f"Siemens star, {case}: amplitude", amplitude, "correlation", None, "higher", detail),
        Figure(f"Siemens star, {case}: FRC 0.5", limit, "1/px", None, "higher", detail),
        Figure(f"Siemens star, {case}: reduced chi2", misfit(scan, image), "1", detail=detail),
        Figure(f"Siemens star, {case}: time", seconds, "s", None, "lower", detail),
    ]


def _of_epie(case: str, scan: Scan, wanted: float) -> list[Figure]:
    """The first number of epochs that reaches a correlation, else the best of them."""
    best: tuple[float, Object, int, float] | None = None
    for epochs in EPOCHS:
        seconds, found = _timed(lambda epochs=epochs: epie(scan, epochs))
        phase = scan.compared(found, (0, 0))[0]
        if best is None or phase > best[0]:
            best = (phase, found, epochs, seconds)
        if phase >= wanted:
            break
    assert best is not None
    detail = f"ePIE, {best[2]} epochs" + ("" if best[0] >= wanted else f", best of {EPOCHS}")
    return _of_other(case, scan, best[1], best[3], detail)


Result = TypeVar("Result")


def _timed(call: Callable[[], Result]) -> tuple[float, Result]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result
