"""Ptychographic frames as tensors: what a batch of them is, how frames become one, and what a network sees.

Letters: B patches, J frames of each (its own first, then neighbours), P probe modes, H, W frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import Frame, FrameError, GeometryError, PtychographyGeometry
from nfphasing_bluesky.modalities.batches import Measured, Rows
from nfphasing_bluesky.modalities.imaging.scan_context import REFERENCE, Context, context, describe
from nfphasing_bluesky.modalities.imaging.survey import SurveyedPatch
from nfphasing_bluesky.physics.imaging.overlap import Group
from nfphasing_bluesky.physics.ptychography import (
    FarField,
    NearField,
    expected_intensity,
    fourier_shift,
    wave_intensity,
)

SMALLEST_SIDE = 32


@dataclass(frozen=True)
class PatternBatch(Measured):
    """B frames, and what a network sees of them and their neighbours.

    Args:
        intensity: (B, H, W) counts, as the detector has them.
        mask: (B, H, W) bool, True = do not use.
        sigma: (B, H, W) of the counts.
        probe: (B, P, H, W) modes, photons^(1/2).
        offset: (B, J, 2) int64 whole rows and columns from the frame to each of its group; 0 for its own.
        fraction: (B, J, 2) of the positions, px, what is left of whole ones.
        present: (B, J) bool, False where a group has fewer frames.
        fresnel_number: (B,) float64, NaN in the far field.
        centred: of far-field frames: the direct beam is at [H // 2, W // 2], else at [0, 0].
        pixel_size_m: (B,) of the object, NaN where not known.
        background: (B, H, W) photons that never saw the object, where the detector has them.
        channels: (B, C, h, w) context.
        extras: (B, E) scalars beside it; the first two are the logarithms of the scales of u's parts.
        light: (B, h, w) photons on the patch.
        surroundings: (B, 2, H, W) phase and absorption around the h x w pixels; None where there are none.
        corner: (B, 2) row and column of the h x w pixels in the frame.
    """

    intensity: Tensor
    mask: Tensor
    sigma: Tensor
    probe: Tensor
    offset: Tensor
    fraction: Tensor
    present: Tensor
    fresnel_number: Tensor
    centred: bool
    pixel_size_m: Tensor
    background: Tensor
    channels: Tensor
    extras: Tensor
    light: Tensor
    surroundings: Tensor | None
    corner: Tensor


@dataclass(frozen=True)
class Conditions(Rows):
    """How N scans are measured.

    Args:
        probe: (N, P, H, W) modes, photons^(1/2).
        offset: (N, J, 2) int64 whole rows and columns from the scan's first frame to each; 0 for its own.
        fraction: (N, J, 2) what is left of the positions, px.
        present: (N, J) bool.
        mask: (N, H, W) bool, the direct beam at [0, 0] in the far field.
        fresnel_number: (N,) float64, NaN in the far field.
    """

    probe: Tensor
    offset: Tensor
    fraction: Tensor
    present: Tensor
    mask: Tensor
    fresnel_number: Tensor


def conditions(batch: PatternBatch) -> Conditions:
    """How the frames of a batch were measured, as far as that is known."""
    far = torch.isnan(batch.fresnel_number)[:, None, None]
    mask = batch.mask
    if batch.centred:
        mask = torch.where(far, torch.fft.ifftshift(mask, dim=(-2, -1)), mask)
    return Conditions(
        batch.probe,
        batch.offset,
        batch.fraction,
        batch.present,
        mask,
        batch.fresnel_number,
    )


def estimate(batch: PatternBatch) -> Tensor:
    """(B, 2, h, w) phase and absorption that explain the frames, as smooth as objects are."""
    return batch.channels[:, list(REFERENCE)] * batch.extras[:, :2].exp()[:, :, None, None]


def transmission(u: Tensor) -> Tensor:
    """(..., H, W) complex exp(i phase - mu) of u (..., 2, H, W)."""
    return torch.polar(torch.exp(-u[..., 1, :, :]), u[..., 0, :, :])


def expected(
    wave: Tensor, probe: Tensor, fraction: Tensor, fresnel_number: Tensor, centred: bool = True
) -> Tensor:
    """(B, H, W) counts of transmissions (B, H, W); rows with a Fresnel number are near field."""
    near = torch.isfinite(fresnel_number)
    out = wave.real.new_zeros(wave.shape)
    for rows, is_near in ((near, True), (~near, False)):
        if not bool(rows.any()):
            continue
        moved = fraction[rows].to(wave.real)
        if is_near:
            number = fresnel_number[rows]
            out[rows] = expected_intensity(fourier_shift(wave[rows], -moved), probe[rows], NearField(number))
        else:
            shifted = fourier_shift(probe[rows], moved)
            out[rows] = expected_intensity(wave[rows], shifted, FarField(centred))
    return out


def collate(frames: Sequence[Frame], neighbours: int) -> PatternBatch:
    """Turn frames of one shape and kind into a batch. Raises FrameError or GeometryError for a bad one."""
    geometries = [geometry_of(frame) for frame in frames]
    pairs = [_group(frame, neighbours) for frame in frames]
    groups, rows = [[f for f, _ in pair] for pair in pairs], [[c for _, c in pair] for pair in pairs]
    own = [row[0] for row in rows]
    fresnel = torch.tensor([g.fresnel_number or np.nan for g in geometries], dtype=torch.float64)
    centred = geometries[0].centred
    probe = torch.from_numpy(np.stack([g.probe.astype(np.complex64) for g in geometries]))
    whole = [[np.floor(np.asarray(geometry_of(f).position_px) + 0.5) for f in group] for group in groups]
    left = [
        [np.asarray(geometry_of(f).position_px) - p for f, p in zip(group, places, strict=True)]
        for group, places in zip(groups, whole, strict=True)
    ]
    size = 1 + neighbours
    shift_detector = centred and bool(torch.isnan(fresnel[0]))
    background = [_background(g) for g in geometries]
    group = Group(
        _stacked([[_corner(c, shift_detector) for c, _ in row] for row in rows], size, torch.float32),
        _stacked([[_corner(m, shift_detector) for _, m in row] for row in rows], size, torch.bool),
        probe,
        _stacked([[p - places[0] for p in places] for places in whole], size, torch.int64),
        _stacked(left, size, torch.float32),
        _stacked([[np.ones((), bool)] * len(row) for row in rows], size, torch.bool),
        _image([_corner(b, shift_detector) for b in background]),
    )
    seen = _context(frames, group, fresnel)
    counts, mask = _image([row[0] for row in own]), torch.from_numpy(np.stack([row[1] for row in own]))
    sigma = [
        np.sqrt(c + 1) if f.sigma is None else np.where(m, 1.0, f.sigma)
        for f, (c, m) in zip(frames, own, strict=True)
    ]
    pixel = [np.nan if g.pixel_size_m is None else g.pixel_size_m for g in geometries]
    return PatternBatch(
        counts,
        mask,
        _image(sigma),
        probe,
        group.offset,
        group.fraction,
        group.present,
        fresnel,
        centred,
        torch.tensor(pixel, dtype=torch.float64),
        _image(background),
        *seen,
        None,
        torch.zeros(len(frames), 2, dtype=torch.long),
    )


def _context(frames: Sequence[Frame], group: Group, fresnel_number: Tensor) -> Context:
    """What whole scans say where frames were surveyed, else what frames and their neighbours say."""
    parts, alone = [], []
    for i, frame in enumerate(frames):
        if isinstance(frame.survey, SurveyedPatch):
            row = slice(i, i + 1)
            everyone = torch.ones(1)
            parts.append(describe(frame.survey.estimate(), group.probe[row], fresnel_number[row], everyone))
        else:
            alone.append(i)
    order = torch.tensor([i for i in range(len(frames)) if i not in set(alone)] + alone)
    if alone:
        rows = torch.tensor(alone)
        few = group.at(rows)
        first = torch.zeros_like(rows)
        parts.append(context(few, fresnel_number[rows], torch.arange(len(rows)), first))
    return Context.joined(parts).at(order.argsort())


def geometry_of(frame: Frame) -> PtychographyGeometry:
    """Its geometry. Raises GeometryError for one of another kind."""
    if not isinstance(frame.geometry, PtychographyGeometry):
        raise GeometryError(
            f"{frame.origin.label}: found a {type(frame.geometry).__name__}, expected a "
            "PtychographyGeometry; pass the probe and the position of the frame"
        )
    return frame.geometry


Pixels = tuple[np.ndarray, np.ndarray]


def _group(frame: Frame, neighbours: int) -> list[tuple[Frame, Pixels]]:
    """A frame and its neighbours with their counts; neighbours that can't be used are left out."""
    geometry = geometry_of(frame)
    group = [(frame, _counts(frame, geometry))]
    for other in frame.neighbours:
        if len(group) > neighbours:
            break
        try:
            group.append((other, _counts(other, geometry)))
        except FrameError:
            continue
    return group


def _counts(frame: Frame, geometry: PtychographyGeometry) -> Pixels:
    """Counts, 0 where masked, and mask of one frame of a group with this geometry."""
    label, shape = frame.origin.label, frame.intensity.shape
    if geometry.probe.shape[1:] != shape or min(shape) < SMALLEST_SIDE:
        raise FrameError(
            f"{label}: a frame of {shape} pixels and a probe of {geometry.probe.shape[1:]}, expected one "
            f"size of at least {SMALLEST_SIDE} a side; crop or pad both alike"
        )
    usable = frame.usable & (frame.intensity >= 0)
    if usable.mean() < 0.5:
        raise FrameError(
            f"{label}: {usable.mean():.0%} of the pixels can be used, expected half of them; check the mask"
        )
    counts = np.where(usable, frame.intensity, 0.0)
    if not counts.any():
        raise FrameError(f"{label}: no photon in the frame, expected some; was the shutter open?")
    return counts, ~usable


def _background(geometry: PtychographyGeometry) -> np.ndarray:
    known = geometry.background
    return np.zeros(geometry.probe.shape[1:]) if known is None else known


def _image(rows: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(rows)).float()


def _corner(image: np.ndarray, centred: bool) -> np.ndarray:
    return np.fft.ifftshift(image) if centred else image


def _stacked(rows: Sequence[Sequence[np.ndarray]], size: int, dtype: torch.dtype) -> Tensor:
    """(B, size, ...) of rows that may be shorter: zeros behind."""
    shape = rows[0][0].shape
    out = torch.zeros(len(rows), size, *shape, dtype=dtype)
    for b, row in enumerate(rows):
        out[b, : len(row)] = torch.from_numpy(np.stack(row)).to(dtype)
    return out


def illuminated(batch: PatternBatch) -> Tensor:
    """(B,) photons of a frame if the object transmitted all."""
    return wave_intensity(batch.probe).sum((1, 2))
