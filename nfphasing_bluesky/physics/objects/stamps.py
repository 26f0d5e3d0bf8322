"""Painting many small shapes into a batch of frames, each evaluated only on the pixels around it.

A shape's row and column distances enter as (m, b, 1) and (m, 1, c), so that what depends on one of them alone
costs nothing. Signed distances are negative inside.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Profile = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(which shapes (m,), row distance (m, b, 1), column distance (m, 1, c)) -> values (m, b, c)."""

_CHUNK_ELEMENTS = 2**17


def paint(
    frames: Tensor, owner: Tensor, centre: Tensor, reach: Tensor, profile: Profile, reduce: str
) -> Tensor:
    """Combine shapes into the frames they belong to, in place.

    Args:
        frames: (F, H, W) contiguous, changed and returned.
        owner: (M,) the frame of each shape.
        centre: (M, 2) row and column, px.
        reach: (M,) farther from the centre than this, in rows or columns, a shape has no effect, px.
        profile: the values of shapes; nothing is changed by 0 with "amax" and "sum".
        reduce: "amax", "amin" or "sum".
    """
    _, H, W = frames.shape
    device, flat = frames.device, frames.view(-1)
    last = torch.tensor([H - 1, W - 1], device=device)
    seen = ((centre + reach[:, None] >= 0) & (centre - reach[:, None] <= last)).all(1)
    # classes of box sizes grow by sqrt(2): little is evaluated in vain, and few classes are left
    size_class = (2 * (2 * reach + 2).log2()).ceil().long()
    for k in size_class[seen].unique().tolist():
        side = int(2 ** (k / 2)) + 1
        b, c = min(side, H), min(side, W)
        down, right = torch.arange(b, device=device), torch.arange(c, device=device)
        window = down[:, None] * W + right
        for rows in (seen & (size_class == k)).nonzero()[:, 0].split(max(1, _CHUNK_ELEMENTS // (b * c))):
            corner = (centre[rows] - reach[rows, None]).ceil()
            top = corner[:, 0].clamp(0, H - b)
            left = corner[:, 1].clamp(0, W - c)
            dy = (top[:, None] + down - centre[rows, :1])[:, :, None]
            dx = (left[:, None] + right - centre[rows, 1:])[:, None]
            at = ((owner[rows] * H + top.long()) * W + left.long())[:, None, None] + window
            flat.scatter_reduce_(0, at.view(-1), profile(rows, dy, dx).reshape(-1), reduce)
    return frames


def coverage(distance: Tensor) -> Tensor:
    """The share of a pixel inside a straight edge at this signed distance, px: an edge of one pixel."""
    return (0.5 - distance).clamp(0, 1)


def disc_coverage(dy: Tensor, dx: Tensor, radius: Tensor) -> Tensor:
    """Anti-aliased disc of radius (m, 1, 1), px, of area pi radius^2."""
    # a ramp of one pixel adds pi/12 to the area of a disc
    return coverage((dy.square() + dx.square()).sqrt() - (radius.square() - 1 / 12).clamp(min=0).sqrt())


def ball_chord(dy: Tensor, dx: Tensor, radius: Tensor) -> Tensor:
    """Projected thickness of a ball, 2 sqrt(R^2 - r^2), averaged over a pixel's width along r; px."""
    r = (dy.square() + dx.square()).sqrt()
    return _half_disc(r + 0.5, radius) - _half_disc(r - 0.5, radius)


def _half_disc(r: Tensor, radius: Tensor) -> Tensor:
    """The integral of 2 sqrt(R^2 - r^2) from 0 to r."""
    u = (r / radius).clamp(-1, 1)
    return radius.square() * (u * (1 - u.square()).sqrt() + u.asin())


def rod_chord(distance: Tensor, radius: Tensor) -> Tensor:
    """Projected thickness of a round rod at a distance from its axis, over a pixel's width; px."""
    gauss = 0.5 / 3**0.5
    near = (radius.square() - (distance - gauss).square()).clamp(min=0).sqrt()
    return near + (radius.square() - (distance + gauss).square()).clamp(min=0).sqrt()


def segment_distance(dy: Tensor, dx: Tensor, along: Tensor, half_length: Tensor) -> Tensor:
    """Distance to a straight segment centred at the origin.

    Args:
        dy: (m, b, 1) px.
        dx: (m, 1, c) px.
        along: (m, 2) unit direction (row, column).
        half_length: (m,) px.
    """
    uy, ux = along[:, 0, None, None], along[:, 1, None, None]
    half = half_length[:, None, None]
    s = (dy * uy + dx * ux).clamp(-half, half)
    return ((dy - s * uy).square() + (dx - s * ux).square()).sqrt()


def polygon_distance(dy: Tensor, dx: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
    """Signed distance to a convex polygon, exact but beyond its corners.

    Args:
        dy: (m, b, 1) px.
        dx: (m, 1, c) px.
        normals: (m, K, 2) outward unit normals (row, column).
        offsets: (m, K) distances of the sides from the origin, px.
    """
    across = [
        (dy * normals[:, j, 0, None, None] - offsets[:, j, None, None]) + dx * normals[:, j, 1, None, None]
        for j in range(normals.shape[1])
    ]
    distance = across[0]
    for other in across[1:]:
        distance = torch.maximum(distance, other)
    return distance
