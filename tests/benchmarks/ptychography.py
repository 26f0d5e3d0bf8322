"""The measured Siemens star against pty-chi's object: quality and time of the model and of ePIE."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from nfphasing_bluesky.core import Frame, Posterior, ReconstructionSettings, Stitcher
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.physics.ptychography import (
    FarField,
    exit_waves,
    fourier_shift,
    place_patches,
    split_positions,
    wave_intensity,
)
from nfphasing_bluesky.storage.readers import read_frames
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
        inner = [slice(self.margin, n - self.margin) for n in self.reference.shape]
        rows, columns = (slice(s.start - p, s.stop - p) for s, p in zip(inner, place, strict=True))
        truth = self.reference[inner[0], inner[1]]
        part = aligned(found[rows, columns], truth)
        return (*correlations(part, truth), ring_correlation_limit(part, truth))


def siemens_star(quick: bool = False) -> Scan:
    """The measured scan with the probe that pty-chi found; its middle only, if it should be quick."""
    stored = np.load(DATA / "reference_ptychi_lsqml.npz")
    frames = read_frames(
        DATA / "siemens_star_small.npz",
        renamed={"scan": "positions_px"},
        probe=DATA / "reference_ptychi_lsqml.npz",
    )
    corners = stored["positions_px_centred"] + [n // 2 - 64 for n in stored["object"].shape]
    scan = Scan(frames, np.asarray(corners, dtype=float), stored["object"])
    if not quick:
        return scan
    centres = scan.corners + 64
    size = np.array(scan.reference.shape)
    low, high = QUICK_MARGIN - REACH, size - QUICK_MARGIN + REACH
    chosen = np.flatnonzero(((centres > low) & (centres < high)).all(1))
    return Scan([frames[i] for i in chosen], scan.corners[chosen], scan.reference, QUICK_MARGIN)


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


def ours(scan: Scan, model: Reconstructor) -> tuple[Object, tuple[int, int]]:
    """Posterior means of all frames, stitched, ALARMs too: how good they are is what is measured."""
    stitcher = Stitcher(model.info.neighbours)
    frames = model.survey(scan.frames)
    for first in range(0, len(frames), 16):
        for found in model(frames[first : first + 16]):
            if isinstance(found, Posterior):
                stitcher.add(found)
    whole = stitcher.result()
    places = np.array([frame.place for frame in scan.frames])
    shift = np.median(np.floor(scan.corners + 0.5) - np.floor(places + 0.5), axis=0)
    row, column = (int(p + s) for p, s in zip(whole.place, shift, strict=True))
    return np.nan_to_num(whole.mean, nan=1.0), (row, column)


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
        seconds, (found, place) = _timed(lambda scan=scan: ours(scan, model))
        phase, amplitude, limit = scan.compared(found, place)
        target = (0.9, 0.5) if case == "all" else (None, None)
        figures += [
            Figure(f"Siemens star, {case}: phase", phase, "correlation", target[0], "higher", name),
            Figure(f"Siemens star, {case}: amplitude", amplitude, "correlation", target[1], "higher", name),
            Figure(f"Siemens star, {case}: FRC 0.5", limit, "1/px", None, "higher", name),
            Figure(
                f"Siemens star, {case}: time", seconds, "s", None, "lower", f"{name}, {DRAWS} draws a frame"
            ),
        ]
        figures += _of_epie(case, scan, phase)
    return figures


def _of_epie(case: str, scan: Scan, wanted: float) -> list[Figure]:
    """The first number of epochs that reaches a correlation, else the best of them."""
    best: tuple[float, float, int, float] | None = None
    for epochs in EPOCHS:
        seconds, found = _timed(lambda epochs=epochs: epie(scan, epochs))
        phase, amplitude, _ = scan.compared(found, (0, 0))
        if best is None or phase > best[0]:
            best = (phase, amplitude, epochs, seconds)
        if phase >= wanted:
            break
    assert best is not None
    detail = f"ePIE, {best[2]} epochs" + ("" if best[0] >= wanted else f", best of {EPOCHS}")
    return [
        Figure(f"Siemens star, {case}: phase", best[0], "correlation", None, "higher", detail),
        Figure(f"Siemens star, {case}: amplitude", best[1], "correlation", None, "higher", detail),
        Figure(f"Siemens star, {case}: time", best[3], "s", None, "lower", detail),
    ]


Result = TypeVar("Result")


def _timed(call: Callable[[], Result]) -> tuple[float, Result]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result
