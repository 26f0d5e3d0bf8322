"""What frames of a scan say of their detector: gaps between modules, and hot pixels, that nobody masked."""

import numpy as np
from numpy.typing import NDArray

LEAST_COUNTS = 50.0
"""Counts, over all frames, of the lines on both sides of a gap: chance then leaves no line between dark."""

HOT = 20.0
"""Times its neighbours that a hot pixel counts, in every frame: no speckle is as sharp as that."""

LEAST_FRAMES_HOT = 3
_BEAM_PX = 2


def bad_of_scan(frames: NDArray, mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.bool_], str]:
    """Find lines that never count and pixels that are hot, (H, W) True there, and say so in words.

    Args:
        frames: (N, H, W) counts.
        mask: (H, W) True = not used.
    """
    dead, lines = dead_lines(frames, mask)
    hot, pixels = hot_pixels(frames, dead if mask is None else mask | dead)
    words = []
    if lines:
        words.append(f"{lines} never count, between lines that do: a gap")
    if pixels:
        words.append(f"{pixels}: {HOT:g} times what its neighbours count in every frame: hot")
    return dead | hot, "; ".join(words)


def hot_pixels(frames: NDArray, mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.bool_], str]:
    """Find pixels that count `HOT` times what at least half of their neighbours do, and more, in all frames.

    A direct beam may be as sharp: the middle and the corners of a frame are left alone. So are fewer than
    three frames with light.

    Args:
        frames: (N, H, W) counts.
        mask: (H, W) True = not used.

    Returns:
        (H, W) True in hot pixels, and which these are in words; empty for none.
    """
    hot = ~(_near_the_beam(frames.shape[1])[:, None] & _near_the_beam(frames.shape[2]))
    if mask is not None:
        hot &= ~mask
    lit = [counts for counts in frames if np.any(counts > 0)]
    if len(lit) < LEAST_FRAMES_HOT:
        return np.zeros_like(hot), ""
    for counts in lit:
        if hot.any():
            hot &= _stands_out(counts, mask)
    return hot, ", ".join(f"row {row}, column {column}" for row, column in np.argwhere(hot))


def _near_the_beam(pixels: int) -> NDArray[np.bool_]:
    """(n,) True along one axis where a direct beam may be, in the middle or at an end."""
    place = np.arange(pixels)
    to_the_end = np.minimum(place, pixels - 1 - place)
    return np.minimum(np.abs(place - pixels // 2), to_the_end) <= _BEAM_PX


def _stands_out(counts: NDArray, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """(H, W) True where a pixel counts `HOT` times what two neighbours and half of the known ones do."""
    known = np.isfinite(counts) & (counts >= 0)
    known = known if mask is None else known & ~mask
    values = np.where(known, counts, 0.0)
    around, there = np.pad(values, 1), np.pad(known, 1)
    less, seen = np.zeros(counts.shape, np.int8), np.zeros(counts.shape, np.int8)
    height, width = counts.shape
    for row, column in np.ndindex(3, 3):
        if (row, column) != (1, 1):
            part = slice(row, row + height), slice(column, column + width)
            less += there[part] & (values > HOT * around[part] + LEAST_COUNTS)
            seen += there[part]
    found: NDArray[np.bool_] = known & (less >= 2) & (2 * less >= seen)
    return found


def dead_lines(
    frames: NDArray, mask: NDArray[np.bool_] | None, thinnest: int = 1
) -> tuple[NDArray[np.bool_], str]:
    """Find rows and columns without any count between others that have some.

    Lines at the edges are left alone, and so are those that the mask has already.

    Args:
        frames: (N, H, W) counts.
        mask: (H, W) True = not used.
        thinnest: lines side by side that are taken for a gap.

    Returns:
        (H, W) True in dead lines, and which these are in words; empty for none.
    """
    total = np.clip(frames, 0, None).sum(0, dtype=np.float64)
    used = np.ones(total.shape, bool) if mask is None else ~mask
    total = np.where(used, total, 0.0)
    dead, words = np.zeros(total.shape, bool), []
    for axis, name in ((0, "row"), (1, "column")):
        lines, seen = total.sum(1 - axis), used.any(1 - axis)
        for first, last in _runs((lines == 0) & seen):
            sides = lines[first - 1] if first > 0 else 0.0, lines[last + 1] if last + 1 < len(lines) else 0.0
            if min(sides) < LEAST_COUNTS or last + 1 - first < thinnest:
                continue
            dead[
                (slice(first, last + 1), slice(None)) if axis == 0 else (slice(None), slice(first, last + 1))
            ] = True
            words.append(f"{name} {first}" if first == last else f"{name}s {first} to {last}")
    return dead, ", ".join(words)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
