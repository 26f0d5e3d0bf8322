"""Population Monte Carlo: a mixture of Gaussians moved to a density that can be evaluated.

Cappe, Douc, Guillin, Marin and Robert, Statistics and Computing 18, 447 (2008).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = 8192
LEAST_A_COMPONENT = 400
MOVES = 6
LARGEST_WEIGHT = 0.05
"""Share that one draw may have of the weights of all, so that none decides alone."""
WORTH = 3
"""Draws per dimension that the covariance before is worth; with fewer, a component stays as it was."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """K Gaussians: (K,) normalised log weights, (K, D) locations, (K, D, D) Cholesky factors."""

    log_weight: Tensor
    location: Tensor
    factor: Tensor

    def log_parts(self, z: Tensor) -> Tensor:
        """(N, K) log density of each component, without weight, at (N, D)."""
        white = torch.linalg.solve_triangular(self.factor, (z - self.location[:, None]).mT, upper=False)
        volume = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * z.shape[1] * math.log(2 * math.pi)
        return -0.5 * white.square().sum(1).mT - volume - constant


def adapted(
    mixture: Mixture,
    log_target: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Mixture:
    """Weights, locations and covariances that draws of the mixture have under the target.

    Args:
        mixture: to start from.
        log_target: unnormalised log density (N,) of (N, D).
        generator: of the draws, on the processor.
    """
    for _ in range(MOVES):
        mixture = _moved(mixture, _weighed(mixture, log_target, generator))
    # draws that made a mixture would flatter it
    return Mixture(_log_weight(_weighed(mixture, log_target, generator)), mixture.location, mixture.factor)


@dataclass(frozen=True, eq=False)
class _Weighed:
    """Draws (N, D) of a mixture, and what of their weights (N, K) belongs to each component; sums to 1."""

    z: Tensor
    share: Tensor

    def inside(self) -> Tensor:
        """(N, K) weights within each component."""
        return self.share / self.share.sum(0).clamp_min(1e-300)

    def effective(self) -> Tensor:
        """(K,) effective number of draws of each component."""
        number = self.inside().square().sum(0).clamp_min(1e-300).reciprocal()
        return torch.where(self.share.sum(0) > 0, number, 0.0)


def _weighed(
    mixture: Mixture, log_target: Callable[[Tensor], Tensor], generator: torch.Generator
) -> _Weighed:
    count, dimension = mixture.location.shape
    each = max(LEAST_A_COMPONENT, DRAWS // count)
    noise = torch.randn(count, each, dimension, generator=generator, dtype=torch.float64)
    # tails a little heavier than the mixture's own
    wide = 1 + 0.3 * torch.rand(count, each, 1, generator=generator, dtype=torch.float64)
    z = mixture.location[:, None] + (noise * wide).to(mixture.location) @ mixture.factor.mT
    z = z.flatten(0, 1)
    parts = mixture.log_parts(z)
    log_w = log_target(z) - torch.logsumexp(_widened(mixture, z), 1)
    weight = torch.softmax(torch.where(log_w.isfinite(), log_w, -torch.inf), 0).clamp_max(LARGEST_WEIGHT)
    return _Weighed(z, torch.softmax(parts + mixture.log_weight, 1) * (weight / weight.sum())[:, None])


def _log_weight(found: _Weighed) -> Tensor:
    return torch.log_softmax(found.share.sum(0).clamp_min(1e-12).log(), 0)


def _moved(mixture: Mixture, found: _Weighed) -> Mixture:
    """Moments of the draws; a covariance from few of them leans on the one before."""
    dimension = mixture.location.shape[1]
    effective, inside = found.effective(), found.inside()
    enough = effective > WORTH * dimension
    location = torch.where(enough[:, None], inside.mT @ found.z, mixture.location)
    off = found.z - location[:, None]
    covariance = (off * inside.mT[..., None]).mT @ off
    kept = torch.where(enough, WORTH * dimension / (effective + WORTH * dimension), 1.0)[:, None, None]
    covariance = (1 - kept) * covariance + kept * mixture.factor @ mixture.factor.mT
    return Mixture(_log_weight(found), location, torch.linalg.cholesky(covariance))


def _widened(mixture: Mixture, z: Tensor) -> Tensor:
    """(N, K) log density, up to a constant, of the components that draws are made of, by quadrature."""
    nodes = (1.05, 1.15, 1.25)
    rows = []
    for node in nodes:
        wider = Mixture(mixture.log_weight, mixture.location, node * mixture.factor)
        rows.append(wider.log_parts(z))
    return torch.logsumexp(torch.stack(rows), 0)
