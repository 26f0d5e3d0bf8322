"""Rows and columns of a detector that never count: gaps between its modules that nobody masked."""

import numpy as np
from numpy.typing import NDArray

LEAST_COUNTS = 50.0
"""Counts, over all frames, of the lines on both sides of a gap: chance then leaves no line between dark."""


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
