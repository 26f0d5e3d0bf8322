"""What a fit of a class takes: its curves and slopes, and a library of prior objects to start from.

The starts are those that explain a curve best, scale and background solved for (variable projection). All of
it happens in the coordinates y of the flow's box, in which uniform priors are standard normal. The fits
themselves are in `fits`.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Box, CurveBins, LogGrid, bin_centres, bin_curve
from nfphasing_bluesky.modalities.curves import CurveBatch

LIBRARY = 4096
LIBRARY_ERROR = 0.02
CHUNK = 128
STARTS = 2
STEPS = 8


def anchor_features(dimension: int, rivals: int = 0) -> int:
    """Number of features of an anchor of a class with `dimension` free parameters, and of its rivals."""
    return 2 * dimension + 3 + (rivals * (dimension + 2) - 1 if rivals else 0)


class Measured(Protocol):
    """B measurements of Q points each, as a fit sees them; a `CurveBatch` is one.

    `q` (B, ...) is what a target's curve takes beside theta: where the points are.
    """

    def __len__(self) -> int: ...

    def at(self, index: Tensor) -> Self:
        """Return the measurements that an index picks."""
        ...

    @property
    def q(self) -> Tensor:
        """(B, ...) where the points are."""
        ...

    @property
    def intensity(self) -> Tensor:
        """(B, Q)."""
        ...

    @property
    def mask(self) -> Tensor:
        """(B, Q) bool, True = do not use."""
        ...

    @property
    def root_weight(self) -> Tensor:
        """(B, Q) 1/sigma, float64, zero where masked."""
        ...


M_contra = TypeVar("M_contra", bound=Measured, contravariant=True)


class Starts(Protocol[M_contra]):
    """Where fits begin."""

    def best(self, batch: M_contra, count: int) -> Tensor:
        """(B, count, D) objects in box coordinates."""
        ...


@dataclass(frozen=True)
class Target:
    """One class as a fit sees it.

    Args:
        box: of its free parameters.
        curve: (N, D) theta and (N, ...) q to (N, Q) P(q).
        slopes: the same to P(q) and (N, D, Q) its derivatives by theta.
        background: mean and standard deviation of the background over scale.
        starts: objects of the library that a fit starts from.
        steps: of a fit, at most.
        rivals: whether the features tell where the fits of all starts had come to when the best was chosen:
            where there are many minima, the truth may be in another.
        least_and_most: bounds of the background over scale.
        ridges: whether the last step of a fit is taken only where it makes the fit better. Networks that
            learnt from fits without that look stay with what they know.
    """

    box: Box
    curve: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    background: tuple[float, float]
    starts: int = STARTS
    steps: int = STEPS
    rivals: bool = False
    least_and_most: tuple[float, float] = (-math.inf, math.inf)
    ridges: bool = False


class Library:
    """Curves of M prior objects of one class on a common grid of Q points.

    Args:
        y: (M, D) objects.
        shape: (M, Q) their curves, of unit scale and without background.
        background: mean and standard deviation of the background over scale.
    """

    def __init__(self, y: Tensor, shape: Tensor, background: tuple[float, float]) -> None:
        self.y, self.background = y, background
        self.shape = shape.T.contiguous()
        self.square = self.shape.square()
        self._there = {y.device: self}

    def on(self, device: torch.device) -> "Library":
        """Return the same on a device; made once for each, because others may be using this one."""
        if device not in self._there:
            moved = copy.copy(self)
            moved.y, moved.shape, moved.square = (
                value.to(device) for value in (self.y, self.shape, self.square)
            )
            self._there[device] = moved
        return self._there[device]

    def misfit(self, weight: Tensor, intensity: Tensor) -> Tensor:
        """(B, M) chi^2 but for a constant of each curve."""
        pp, p = weight @ self.square, weight @ self.shape
        py, y = (weight * intensity) @ self.shape, (weight * intensity).sum(1, keepdim=True)
        one = weight.sum(1, keepdim=True)
        scale = (py / pp).clamp_min(1e-30)
        mean, spread = self.background
        one = one + (scale * spread).square().reciprocal()
        y = y + mean / (scale * spread**2)
        determinant = (pp * one - p.square()).clamp_min(1e-12 * pp * one)
        s, b = (one * py - p * y) / determinant, (pp * y - p * py) / determinant
        return torch.where(s > 0, -(s * py + b * y), 0.0)


class CurveLibrary(Library):
    """Curves of M prior objects of one class on the encoder's grid.

    Args:
        y: (M, D) objects, in box coordinates.
        target: the class.
        grid: of the curves.
    """

    def __init__(self, y: Tensor, target: Target, grid: LogGrid) -> None:
        self.grid = grid
        q = bin_centres(grid).to(y)
        curves = [
            target.curve(target.box.inverse(part, part)[0].float(), q.expand(len(part), -1))
            for part in y.split(512)
        ]
        super().__init__(y, torch.cat(curves), target.background)

    def best(self, batch: CurveBatch, count: int) -> Tensor:
        """(B, count, D) objects whose curves fit best, scale and background solved for."""
        own = self.on(batch.q.device)

        def binned(b: CurveBatch) -> CurveBins:
            return bin_curve(b.q, b.intensity, b.sigma, b.mask, self.grid)

        bins = batch.once(f"binned {self.grid}", binned)
        variance = bins.variance + (LIBRARY_ERROR * bins.intensity).square()
        weight = torch.where(bins.filled, variance.clamp_min(1e-30).reciprocal(), 0.0)
        parts = zip(weight.split(CHUNK), bins.intensity.split(CHUNK), strict=True)
        chosen = [own.misfit(w, y).topk(count, dim=1, largest=False).indices for w, y in parts]
        return own.y[torch.cat(chosen)]
