"""Measured frames, each on its own a rough estimate of its patch, stitched to one object."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Axis, DensityInfo, Posterior, Prediction, Stitcher, Trust, Verdict
from nfphasing_bluesky.physics import ptychography
from nfphasing_bluesky.physics.ptychography import FarField
from nfphasing_bluesky.storage.readers import read_frames

SIDE = 128
AXIS = np.arange(float(SIDE))
DENSITY = DensityInfo(
    "phase and absorption",
    "rad",
    (Axis("part", np.array([0.0, 1.0]), ""), Axis("y", AXIS, "px"), Axis("x", AXIS, "px")),
)


@pytest.fixture(scope="module")
def frames(shared_data):
    folder = shared_data / "ptychography/siemens_star_aps"
    return read_frames(
        folder / "siemens_star_small.npz",
        renamed={"scan": "positions_px"},
        probe=folder / "reference_ptychi_lsqml.npz",
    )


def estimates(frames, updates=5):
    """Patches (B, H, W) from each frame alone, and the share of the probe's light (B, H, W)."""
    positions = torch.tensor([frame.place for frame in frames], dtype=torch.float64)
    _, fraction = ptychography.split_positions(positions)
    modes = torch.from_numpy(frames[0].geometry.probe)
    probe = ptychography.fourier_shift(modes.expand(len(frames), -1, -1, -1), fraction)
    counts = torch.from_numpy(np.stack([frame.intensity for frame in frames]))
    found = ptychography.projection_updates(counts, probe, FarField(centred=False), updates=updates)
    return found.patch.numpy(), found.weight.numpy()


def posterior(frame, patch, weight):
    """An estimate with an error of 0.3 where the beam is brightest, growing as the light fades."""
    std = 0.3 / np.sqrt(np.maximum(weight, 1e-3))
    mean = np.stack([np.angle(patch), -np.log(np.maximum(np.abs(patch), 1e-3))])
    nothing = np.zeros((1, 1))
    return Posterior(
        DENSITY,
        mean,
        np.stack([std, std]),
        mean[None],
        {},
        {},
        Prediction(nothing, nothing, nothing),
        Trust(1.0, None, 0.0, Verdict.VALID),
        origin=frame.origin,
        place=frame.place,
    )


@pytest.mark.slow
def test_the_stitched_phase_is_that_of_the_whole_reconstruction(frames, shared_data):
    reference = np.load(shared_data / "ptychography/siemens_star_aps/reference_ptychi_lsqml.npz")
    chosen = frames[::4]
    parts = [estimates(chosen[first : first + 32]) for first in range(0, len(chosen), 32)]
    patches, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    stitcher = Stitcher()
    for frame, patch, weight in zip(chosen, patches, weights, strict=True):
        # each patch knows its phase up to a constant only
        turn = np.exp(1j * np.random.default_rng(frame.origin.seq_num).uniform(-np.pi, np.pi))
        assert stitcher.add(posterior(frame, patch * turn, weight))
    found = stitcher.result()
    assert found.components == 1 and found.frames == len(chosen)
    centred = reference["positions_px_centred"].mean(0) - np.mean([frame.place for frame in frames], axis=0)
    offset = np.round(centred).astype(int) + [n // 2 - SIDE // 2 for n in reference["object"].shape]
    row, column = offset + found.place
    # the scan is known, not what lies beyond it
    inner = slice(90, -90)
    truth = reference["object"][row:, column:][: found.mean.shape[0], : found.mean.shape[1]][inner, inner]
    mine = found.mean[: truth.shape[0] + 180, : truth.shape[1] + 180][inner, inner]
    assert row >= 0 and column >= 0 and mine.shape == truth.shape and min(truth.shape) > 250
    # a frame alone gives 0.8 in its own beam
    assert np.corrcoef(flattened(mine), flattened(truth))[0, 1] > 0.87


def flattened(image):
    """Phase of an image less its best plane: ptychography knows no ramp."""
    phase = np.angle(image * np.conj(image.mean()) / abs(image.mean()))
    y, x = (axis.ravel() / 100 for axis in np.mgrid[: image.shape[0], : image.shape[1]])
    plane = np.stack([np.ones_like(x), y, x], axis=1)
    return phase.ravel() - plane @ np.linalg.lstsq(plane, phase.ravel(), rcond=None)[0]
