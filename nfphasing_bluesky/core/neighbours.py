"""Which other frames of a scan go with a frame: the nearest that saw parts of the same object."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.errors import SettingsError
from nfphasing_bluesky.core.frame import Frame, Origin
from nfphasing_bluesky.core.geometry import Geometry

LIMIT = 4096
"""Frames that are kept of a run; 4096 frames of 128 x 128 pixels take 270 MB."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """A frame in single precision."""

    intensity: NDArray[np.float32]
    sigma: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None
    geometry: Geometry
    origin: Origin

    @classmethod
    def of(cls, frame: Frame) -> "_Kept":
        sigma = None if frame.sigma is None else frame.sigma.astype(np.float32)
        return cls(frame.intensity.astype(np.float32), sigma, frame.mask, frame.geometry, frame.origin)

    def frame(self) -> Frame:
        return Frame(self.intensity, self.geometry, self.sigma, self.mask, self.origin)


class Neighbours:
    """Keeps the frames of a run and gives each new one its nearest earlier ones.

    Only frames that overlap are neighbours, and only frames with light in them. Of equally near ones the
    earlier goes first, so that the same frames in the same order have the same neighbours.

    Args:
        count: how many neighbours a frame has at most.
        limit: how many frames are kept; beyond it the oldest is forgotten.
    """

    def __init__(self, count: int, limit: int = LIMIT) -> None:
        if count < 0 or limit < 1:
            raise SettingsError(f"count={count}, limit={limit}, expected count >= 0 and limit >= 1")
        self._count = count
        self._kept: deque[_Kept] = deque(maxlen=limit)
        self._places: deque[tuple[float, float]] = deque(maxlen=limit)

    def attach(self, frame: Frame) -> Frame:
        """Return the frame with its neighbours, and keep it for those to come.

        A frame without a place is returned as it is.
        """
        place = frame.place
        if place is None or self._count == 0:
            return frame
        shape = frame.intensity.shape
        alike = np.array([kept.intensity.shape == shape for kept in self._kept], dtype=bool)
        chosen = nearest(place, np.array(self._places).reshape(-1, 2), shape, self._count, alike)
        neighbours = tuple(self._kept[i].frame() for i in chosen)
        if _lit(frame):
            self._kept.append(_Kept.of(frame))
            self._places.append(place)
        return replace(frame, neighbours=neighbours)


def with_neighbours(frames: Sequence[Frame], count: int) -> list[Frame]:
    """Return the frames of a whole scan, each with the nearest `count` of all others that overlap with it.

    Frames without a place or without light are nobody's neighbours. Arrays are shared, not copied.
    """
    bare = [replace(frame, neighbours=()) if frame.neighbours else frame for frame in frames]
    lit = [i for i, frame in enumerate(bare) if frame.place is not None and _lit(frame)]
    places = np.array([bare[i].place for i in lit], dtype=np.float64).reshape(-1, 2)
    shapes = np.array([bare[i].intensity.shape for i in lit]).reshape(-1, 2)
    numbers = np.array(lit, dtype=np.int64)
    result = []
    for i, frame in enumerate(bare):
        if frame.place is None:
            result.append(frame)
            continue
        shape = frame.intensity.shape
        others = (numbers != i) & (shapes == shape).all(1)
        chosen = nearest(frame.place, places, shape, count, others)
        result.append(replace(frame, neighbours=tuple(bare[lit[j]] for j in chosen)))
    return result


def nearest(
    place: tuple[float, float],
    places: NDArray[np.float64],
    shape: tuple[int, ...],
    count: int,
    eligible: NDArray[np.bool_],
) -> list[int]:
    """Indices of the nearest `count` of (N, 2) places whose frames of `shape` overlap with one at `place`.

    Nearest first; of equally near ones the one of smaller index.
    """
    if not len(places):
        return []
    offset = places - np.asarray(place)
    overlap = eligible & (np.abs(offset) < shape).all(1)
    distance = np.where(overlap, np.square(offset).sum(1), np.inf)
    order = np.argsort(distance, kind="stable")[: min(count, int(overlap.sum()))]
    return [int(i) for i in order]


def _lit(frame: Frame) -> bool:
    return bool(np.any(frame.intensity > 0, where=frame.usable))
