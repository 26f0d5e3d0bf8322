"""Whole ptychographic scans: one estimate of the object, and each frame's part of it."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from nfphasing_bluesky.core import Frame, PtychographyGeometry
from nfphasing_bluesky.modalities.imaging.scan_context import EFFORT, propagation_of
from nfphasing_bluesky.physics.imaging.overlap import Group
from nfphasing_bluesky.physics.imaging.scan_estimate import PatchEstimate, ScanEstimate, estimate_scans

VALUES_AT_ONCE = 2**24
"""Complex numbers of all waves of frames that are surveyed together: several arrays are as large."""

SEED = 0
"""Of the order in which frames take turns: along a line each would see the last one's mistakes."""


@dataclass(frozen=True, eq=False)
class SurveyedPatch:
    """Where a frame lies in the estimate of its scan: the `rank`-th of its frames."""

    scan: ScanEstimate
    rank: int

    def estimate(self) -> PatchEstimate:
        """What the scan says there, N = 1."""
        return self.scan.patch(0, self.rank)


@torch.no_grad()
def surveyed(frames: Sequence[Frame], kind: Callable[[Frame], Hashable]) -> list[Frame]:
    """Return the frames of a scan, each with a `SurveyedPatch` where it overlaps with others.

    A background that all of them share, where one was found, is in their geometry then. Frames that can't be
    used, and those that lie alone, come back as they are.

    Args:
        frames: of one scan, in any order.
        kind: of a frame: only frames of one kind, with one probe, are estimated together.
    """
    found = list(frames)
    alike: dict[Hashable, list[int]] = {}
    for i, frame in enumerate(frames):
        geometry = frame.geometry
        if isinstance(geometry, PtychographyGeometry) and _usable(frame, geometry):
            probe = geometry.probe
            key = (kind(frame), geometry.fresnel_number, probe.shape, probe.tobytes())
            alike.setdefault(key, []).append(i)
    for rows in alike.values():
        some = [frames[i] for i in rows]
        most = max(1, VALUES_AT_ONCE // _geometry(some[0]).probe.size)
        for own, all_of_them in _blocks(_places(some), some[0].intensity.shape, most):
            scan = _estimate([some[i] for i in all_of_them])
            background = _background(scan, some[0])
            for rank, i in enumerate(all_of_them):
                if i in own:
                    geometry = replace(_geometry(some[i]), background=background)
                    found[rows[i]] = replace(some[i], survey=SurveyedPatch(scan, rank), geometry=geometry)
    return found


def _geometry(frame: Frame) -> PtychographyGeometry:
    assert isinstance(frame.geometry, PtychographyGeometry)  # noqa: S101  looked at before
    return frame.geometry


def _usable(frame: Frame, geometry: PtychographyGeometry) -> bool:
    usable = frame.usable & (frame.intensity >= 0)
    lit = bool(np.any(frame.intensity > 0, where=usable))
    return geometry.probe.shape[1:] == frame.intensity.shape and lit and usable.mean() >= 0.5


def _places(frames: Sequence[Frame]) -> NDArray[np.float64]:
    return np.array([_geometry(frame).position_px for frame in frames], dtype=np.float64).reshape(-1, 2)


def _blocks(
    places: NDArray[np.float64], shape: tuple[int, ...], most: int
) -> Iterator[tuple[set[int], list[int]]]:
    """Frames that overlap, directly or through others, in blocks of about `most` at most.

    Yields:
        Those of a block, and with them those around it that overlap with it: in an order drawn once.
    """
    scaled = places / shape
    tree = KDTree(scaled)
    overlap = tree.sparse_distance_matrix(tree, 1.0, p=np.inf)
    _, part = connected_components(overlap, directed=False)
    rng = np.random.default_rng(SEED)
    for number in range(int(part.max(initial=-1)) + 1):
        members = np.flatnonzero(part == number)
        if len(members) < 2:
            continue
        for own in _halved(members, scaled, most):
            low, high = scaled[own].min(0) - 0.5, scaled[own].max(0) + 0.5
            around = members[((scaled[members] >= low) & (scaled[members] <= high)).all(1)]
            yield set(own.tolist()), rng.permutation(around).tolist()


def _halved(
    rows: NDArray[np.integer], places: NDArray[np.float64], most: int
) -> Iterator[NDArray[np.integer]]:
    """Rows in halves along the longer side, until they are few."""
    if len(rows) <= most:
        yield rows
        return
    axis = int(np.ptp(places[rows], axis=0).argmax())
    order = rows[np.argsort(places[rows, axis], kind="stable")]
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        yield from _halved(half, places, most)


def _estimate(frames: Sequence[Frame]) -> ScanEstimate:
    """Of frames of one kind that overlap."""
    geometry, places = _geometry(frames[0]), _places(frames)
    whole = np.floor(places + 0.5)
    middle = np.floor((whole.min(0) + whole.max(0)) / 2)
    far = geometry.fresnel_number is None
    usable = np.stack([frame.usable & (frame.intensity >= 0) for frame in frames])
    counts = np.where(usable, np.stack([frame.intensity for frame in frames]), 0.0)
    background = np.zeros(counts.shape[1:]) if geometry.background is None else geometry.background
    if far and geometry.centred:
        counts, usable, background = (
            np.fft.ifftshift(v, axes=(-2, -1)) for v in (counts, usable, background)
        )
    group = Group(
        torch.from_numpy(counts).float()[None],
        torch.from_numpy(~usable)[None],
        torch.from_numpy(geometry.probe.astype(np.complex64))[None],
        torch.from_numpy(whole - middle).long()[None],
        torch.from_numpy(places - whole).float()[None],
        torch.ones(1, len(frames), dtype=torch.bool),
        torch.from_numpy(background).float()[None],
    )
    number = torch.tensor([np.nan if far else geometry.fresnel_number], dtype=torch.float64)
    ((_, scan),) = estimate_scans(group, propagation_of(number), replace(EFFORT, background=True))
    return scan


def _background(scan: ScanEstimate, frame: Frame) -> NDArray[np.float64] | None:
    """What the scan's estimate has under all frames, where the detector has it; None for nothing."""
    found = scan.frames.background[0].double().numpy()
    if not found.any():
        return None
    geometry = _geometry(frame)
    return np.fft.fftshift(found) if geometry.fresnel_number is None and geometry.centred else found
