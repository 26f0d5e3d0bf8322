"""What an instrument's resolution makes of curves, as matrices: I_seen(q_i) = sum_j R_ij I(q_j), linear in I.

A model is computed at M places: those of the Q points, some between points that lie farther apart than the
resolution is wide, and some beyond both ends. Between them it is interpolated by cubics. Each row of R holds
the weights of a Gaussian that is cut off, as `physics.saxs.smear` has it; they sum to one, and a flat
background stays what it is. Letters: B frames, Q points, M places, N draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfphasing_bluesky.core import CurveGeometry, Frame
from nfphasing_bluesky.modalities.batches import Rows

CUT = 3.0
"""Standard deviations at which the Gaussian ends."""

NODES = 61
FINE = 0.2
"""Resolution over the distance of points below which a model need not be known between them."""
STEP_INV_ANGSTROM = 6e-4
"""Of the places, where the resolution is not finer: a twentieth of a fringe of particles of 500 angstrom."""

MOST_BETWEEN = 3
MOST_VALUES = 2_000_000
"""Of a frame's matrix: beyond, the resolution is left out."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Resolution(Rows):
    """Of the curves of a batch.

    Args:
        q: (B, M) places, 1/angstrom.
        matrix: (B, Q, M).
    """

    q: Tensor
    matrix: Tensor

    @property
    def packed(self) -> Tensor:
        """(B, 1 + Q, M) places and matrix in one tensor; see `unpacked`."""
        return torch.cat([self.q[:, None], self.matrix], 1)

    def seen(self, curves: Tensor, frame: Tensor) -> Tensor:
        """(N, Q) of curves (N, M) at the places of their frames (N,), those of one frame together."""
        frames, counts = frame.unique_consecutive(return_counts=True)
        parts = zip(frames.tolist(), curves.split(counts.tolist()), strict=True)
        return torch.cat([part @ self.matrix[b].to(part).mT for b, part in parts])


def unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Places (N, M) and matrices (N, Q, M) of `Resolution.packed`."""
    return packed[:, 0], packed[:, 1:]


def has_resolution(frame: Frame) -> bool:
    """Return whether a frame is a curve whose resolution is known and can be put into a model."""
    geometry = frame.geometry
    if not isinstance(geometry, CurveGeometry) or geometry.dq_inv_angstrom is None:
        return False
    q, dq = _both(geometry)
    return bool((dq > 0).any()) and q.size * places(q, dq).size <= MOST_VALUES


def resolution_of(frames: Sequence[Frame], points: int) -> Resolution | None:
    """Resolution of the frames of a batch, padded to Q points; None where none has one."""
    if not any(map(has_resolution, frames)):
        return None
    made = [_of(frame) for frame in frames]
    most = max(q.size for q, _ in made)
    q = np.stack([np.pad(own, (0, most - own.size), mode="edge") for own, _ in made])
    matrix = np.zeros((len(made), points, most))
    for whole, (_, own) in zip(matrix, made, strict=True):
        whole[: own.shape[0], : own.shape[1]] = own
    return Resolution(torch.from_numpy(q).float(), torch.from_numpy(matrix).float())


def _of(frame: Frame) -> tuple[Array, Array]:
    geometry = frame.geometry
    assert isinstance(geometry, CurveGeometry)  # noqa: S101  `curves.collate` has looked
    q, dq = _both(geometry)
    if not has_resolution(frame):
        return q, np.eye(q.size)
    return _made(q.tobytes(), dq.tobytes())


@lru_cache(maxsize=4)
def _made(q: bytes, dq: bytes) -> tuple[Array, Array]:
    """Places and matrix, made once for the frames of a scan."""
    at, width = np.frombuffer(q), np.frombuffer(dq)
    grid = places(at, width)
    return grid, matrix_of(at, width, grid)


def _both(geometry: CurveGeometry) -> tuple[Array, Array]:
    q = np.asarray(geometry.q_inv_angstrom, dtype=np.float64)
    dq = np.zeros_like(q) if geometry.dq_inv_angstrom is None else geometry.dq_inv_angstrom
    return q, np.clip(np.nan_to_num(np.asarray(dq, dtype=np.float64)), 0.0, None)


def places(q: Array, dq: Array) -> Array:
    """(M,) where a model must be known to be seen at (Q,) q with a resolution dq, 1/angstrom."""
    step, width = np.diff(q), np.minimum(dq[1:], dq[:-1])
    wanted = np.ceil(step / np.clip(width, 1e-12, STEP_INV_ANGSTROM)) - 1
    between = np.where(width > FINE * step, np.clip(wanted, 0, MOST_BETWEEN), 0).astype(int)
    inner = [np.linspace(a, b, n + 2)[:-1] for a, b, n in zip(q[:-1], q[1:], between, strict=True)]
    low, high = max(q[0] - CUT * dq[0], 1e-3 * q[0]), q[-1] + CUT * dq[-1]
    before = np.linspace(low, q[0], 2 + int((q[0] - low) / (step[0] / (between[0] + 1))))[:-1]
    after = np.linspace(q[-1], high, 2 + int((high - q[-1]) / (step[-1] / (between[-1] + 1))))
    ends = before if dq[0] > 0 else before[:0], after if dq[-1] > 0 else after[:1]
    return np.concatenate([ends[0], *inner, ends[1]])


def matrix_of(q: Array, dq: Array, grid: Array) -> Array:
    """(Q, M) what is seen at q of a model at the places of a grid; reflected at q = 0."""
    x, weight = np.polynomial.legendre.leggauss(NODES)
    weight = weight * np.exp(-0.5 * (CUT * x) ** 2)
    at = np.abs(q[:, None] + dq[:, None] * CUT * x)
    first = np.clip(np.searchsorted(grid, at) - 2, 0, grid.size - 4)
    out = np.zeros((q.size, grid.size))
    rows = np.broadcast_to(np.arange(q.size)[:, None], at.shape)
    for own in range(4):
        cubic = np.ones_like(at)
        for other in range(4):
            if other != own:
                cubic *= (at - grid[first + other]) / (grid[first + own] - grid[first + other])
        np.add.at(out, (rows, first + own), cubic * weight / weight.sum())
    return out
