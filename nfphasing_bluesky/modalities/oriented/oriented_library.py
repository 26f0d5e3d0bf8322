"""Where fits of patterns begin: objects in units of 1/q_top, so that one library serves all q."""

import copy
from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Box
from nfphasing_bluesky.modalities.anchors import CHUNK, Library
from nfphasing_bluesky.modalities.oriented import oriented_patterns, polar
from nfphasing_bluesky.modalities.oriented.oriented_network import PHI
from nfphasing_bluesky.modalities.oriented.oriented_patterns import CONTEXT, PatternBatch
from nfphasing_bluesky.modalities.oriented.oriented_shapes import LENGTH_COLUMNS, harmonics, pattern_rings

SIZE = 4096
ERROR = 0.15
"""Relative, of a library that is coarse in six dimensions."""
AXIS_ERROR_RAD = 0.12


@dataclass(frozen=True)
class FittedPatterns:
    """Patterns as fits see them: bins in a row, `q` the pattern's place in the source.

    Args:
        source: all patterns of the fit.
        waves: of their bins.
        q: (B,) int64, rows of the source.
    """

    source: PatternBatch
    waves: Tensor
    q: Tensor

    @classmethod
    def of(cls, batch: PatternBatch, count: int) -> "FittedPatterns":
        """Prepare a batch for K harmonics."""
        rows = torch.arange(len(batch), device=batch.intensity.device)
        return cls(batch, batch.waves(count, torch.float32), rows)

    def __len__(self) -> int:
        return len(self.q)

    def at(self, index: Tensor) -> "FittedPatterns":
        """Return the patterns that an index picks."""
        return FittedPatterns(self.source, self.waves, self.q[index])

    @property
    def intensity(self) -> Tensor:
        """(B, Q)."""
        return self.source.intensity[self.q].flatten(1)

    @property
    def mask(self) -> Tensor:
        """(B, Q)."""
        return self.source.mask[self.q].flatten(1)

    @property
    def root_weight(self) -> Tensor:
        """(B, Q)."""
        return self.source.root_weight[self.q].flatten(1)

    def patterns(self, harmonics: Tensor, phi: Tensor, q: Tensor) -> Tensor:
        """(N, Q) at the bins of the patterns q (N,), those of one pattern together and equally many."""
        rows, counts = q.unique_consecutive(return_counts=True)
        if not bool((counts == counts[0]).all()):
            rows = q
        waves, radial = self.waves, self.source.radial
        if len(rows) != len(waves) or not torch.equal(rows, torch.arange(len(waves), device=rows.device)):
            waves, radial = waves[rows], radial[rows]
        return polar.synthesised(harmonics.float(), phi, waves, radial.float()).flatten(1)


class PatternLibrary:
    """Objects of class k and their patterns on a map of half the bins.

    Args:
        k: the class.
        box: of its parameters, phi from the pattern's axis.
        background: mean and standard deviation of the background over scale.
    """

    def __init__(self, k: int, box: Box, background: tuple[float, float]) -> None:
        self.box, self.lengths = box, LENGTH_COLUMNS[k]
        theta = self._objects(torch.Generator().manual_seed(k))
        centre, spread = _full_bins()
        waves = polar.waves(centre, spread, pattern_rings(centre.device).legendre.shape[1])
        radial = torch.tensor([2 / 9, 5 / 9, 2 / 9], dtype=torch.float64)
        radial = radial.expand(1, polar.RINGS, polar.SECTORS, 3)
        parts = []
        for part in theta.split(64):
            coefficients = harmonics(k, part, torch.ones(len(part)), torch.float32)
            found = polar.synthesised(coefficients, part[:, PHI], waves.float(), radial.float())
            parts.append(_joined(found) / CONTEXT**2)
        self.library = Library(theta, torch.cat(parts), background)

    def _objects(self, generator: torch.Generator) -> Tensor:
        """(M, D) uniform in the box, lengths over 1/q_top, phi where patterns' axes put it."""
        u = torch.rand(SIZE, len(self.box.lower), generator=generator, dtype=torch.float64)
        lower, upper = self.box.lower.clone(), self.box.upper.clone()
        for column in self.lengths:
            lower[column] += log(oriented_patterns.Q_TOP[0])
            upper[column] += log(oriented_patterns.Q_TOP[1])
        theta = lower + u * (upper - lower)
        off = torch.randn(SIZE, generator=generator, dtype=torch.float64) * AXIS_ERROR_RAD
        theta[:, PHI] = torch.where(u[:, PHI] < 0.5, -pi / 4, pi / 4) + off
        return theta

    def best(self, batch: FittedPatterns, count: int) -> Tensor:
        """(B, count, D) objects inside of the box whose patterns fit best, in the box's coordinates."""
        library = self.library.on(batch.q.device)
        weight = batch.root_weight.square().view(-1, polar.RINGS, polar.SECTORS)
        total = _joined(weight)
        safe = torch.where(total > 0, total, 1.0)
        intensity = _joined(weight * batch.intensity.view_as(weight)) / safe
        variance = safe.reciprocal() + (ERROR * intensity).square()
        known = torch.where(total > 0, variance.reciprocal(), 0.0).float()
        box = copy.deepcopy(self.box).to(batch.q.device)
        found = []
        parts = (v.split(CHUNK) for v in (known, intensity.float(), batch.source.q_top[batch.q].log()))
        for w, y, log_top in zip(*parts, strict=True):
            misfit = library.misfit(w, y)
            for column in self.lengths:
                size = library.y[:, column] - log_top[:, None]
                inside = (size >= box.lower[column]) & (size <= box.upper[column])
                misfit = torch.where(inside, misfit, torch.inf)
            chosen = library.y[misfit.topk(count, dim=1, largest=False).indices]
            for column in self.lengths:
                chosen[..., column] -= log_top[:, None]
            found.append(box(chosen, chosen)[0].clamp(-3, 3))
        return torch.cat(found)


def _joined(values: Tensor) -> Tensor:
    """(N, Q') sums over groups of bins."""
    parts = values.unflatten(2, (-1, CONTEXT)).unflatten(1, (-1, CONTEXT))
    return parts.sum((2, 4)).flatten(1)


def _full_bins() -> tuple[Tensor, Tensor]:
    """Mean azimuth and variance (1, R, A) of bins full of pixels."""
    step = pi / polar.SECTORS
    centre = (torch.arange(polar.SECTORS, dtype=torch.float64) + 0.5) * step
    centre = centre.expand(1, polar.RINGS, polar.SECTORS)
    return centre, torch.full_like(centre, step**2 / 12)
