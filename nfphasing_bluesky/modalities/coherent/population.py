"""A mixture of Gaussians moved to a density that can be evaluated: local ensembles and bridge sampling.

The mixture's own shares r_k(z), which sum to 1, divide the density p into parts p r_k, one a component:
each part has one peak even where components overlap, and the integrals Z_k of the parts add up to that of p.
An ensemble of draws walks in every part by differences of its own members (ter Braak, Statistics and
Computing 16, 239 (2006)), so that it takes the part's shape whatever that of the component was; its moments
make the component of the next round. Z_k comes from the draws of the part and as many of the component by
the optimal bridge of Meng and Wong, Statistica Sinica 6, 831 (1996), whose error no other part adds to.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = 4096
LEAST_A_COMPONENT = 128
ROUNDS = 3
MOVES = 60
STRIDES = (0.3, 1.0)
JITTER = 1e-3
BRIDGES = 30
IMAGE = 0.1
"""Nats below its peak at which a component has its partner's location, mirrored."""
WORTH = 1
"""Draws per dimension that the covariance before is worth."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """K Gaussians: (K,) normalised log weights, (K, D) locations, (K, D, D) Cholesky factors."""

    log_weight: Tensor
    location: Tensor
    factor: Tensor

    def log_parts(self, z: Tensor) -> Tensor:
        """(N, K) log density of each component, with its weight, at (N, D)."""
        unit = torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand_as(self.factor)
        inverse = torch.linalg.solve_triangular(self.factor, unit, upper=False)
        white = (z - self.location[:, None]) @ inverse.mT
        volume = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * z.shape[1] * math.log(2 * math.pi)
        return self.log_weight - 0.5 * white.square().sum(2).mT - volume - constant


Target = Callable[[Tensor], Tensor]


def adapted(mixture: Mixture, log_target: Target, mirror: Target, generator: torch.Generator) -> Mixture:
    """Weights, locations and covariances that a mixture has under the target.

    Args:
        mixture: to start from, with a component for every mode.
        log_target: unnormalised log density (N,) of (N, D).
        mirror: of (..., D), what is as probable.
        generator: of the draws, on the processor.
    """
    each = max(LEAST_A_COMPONENT, DRAWS // len(mixture.location))
    z = _draws(mixture, each, generator)
    partner, found = _partners(mixture, mirror)
    for _ in range(ROUNDS):
        parts = _Parts(mixture, log_target)
        z = parts.walked(z, generator)
        log_z = parts.log_integrals(z, _draws(mixture, each, generator))
        log_weight = torch.log_softmax(torch.logaddexp(log_z, log_z[partner]), 0)
        mirrored = torch.where(found[:, None, None], mirror(z[partner]), z)
        mixture = _moments(mixture, torch.cat([z, mirrored], 1), log_weight)
    return mixture


def _partners(mixture: Mixture, mirror: Target) -> tuple[Tensor, Tensor]:
    """(K,) index of the component that is the mirror image of each, and whether there is one."""
    at_image = mixture.log_parts(mirror(mixture.location)) - mixture.log_weight
    at_peak = mixture.log_parts(mixture.location).diagonal() - mixture.log_weight
    nearest, partner = (at_peak - at_image).min(1)
    own = torch.arange(len(partner), device=partner.device)
    found = (nearest < IMAGE) & (partner[partner] == own)
    return torch.where(found, partner, own), found


def _draws(mixture: Mixture, each: int, generator: torch.Generator) -> Tensor:
    """(K, M, D) draws of every component."""
    count, dimension = mixture.location.shape
    noise = torch.randn(count, each, dimension, generator=generator, dtype=torch.float64)
    return mixture.location[:, None] + noise.to(mixture.location) @ mixture.factor.mT


@dataclass(frozen=True, eq=False)
class _Parts:
    """p r_k of every component."""

    mixture: Mixture
    log_target: Target

    def log_density(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(K, M) log p r_k and log density of the component k itself, of (K, M, D)."""
        count, each = z.shape[:2]
        parts = self.mixture.log_parts(z.flatten(0, 1)).unflatten(0, (count, each))
        own = parts.gather(2, torch.arange(count, device=z.device)[:, None, None].expand(-1, each, 1))[..., 0]
        value = self.log_target(z.flatten(0, 1)).view(count, each) + own - torch.logsumexp(parts, 2)
        value = torch.where(value.isfinite(), value, -torch.inf)
        return value, own - self.mixture.log_weight[:, None]

    def walked(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """(K, M, D) after Metropolis steps of each half of an ensemble by differences within the other."""
        half = z.shape[1] // 2
        sides = [z[:, :half], z[:, half:]]
        values = [self.log_density(side)[0] for side in sides]
        for move in range(2 * MOVES):
            i = move % 2
            proposal = _proposal(sides[i], sides[1 - i], generator)
            new = self.log_density(proposal)[0]
            uniform = torch.rand(new.shape, generator=generator, dtype=torch.float64).to(z)
            taken = uniform.log() < new - values[i]
            sides[i] = torch.where(taken[..., None], proposal, sides[i])
            values[i] = torch.where(taken, new, values[i])
        return torch.cat(sides, 1)

    def log_integrals(self, inside: Tensor, drawn: Tensor) -> Tensor:
        """(K,) normalised log Z_k, from draws (K, M, D) of the parts and of the components."""
        ratios = []
        for z in (inside, drawn):
            part, own = self.log_density(z)
            ratios.append(part - own)
        log_z = ratios[1].logsumexp(1)
        for _ in range(BRIDGES):
            # optimal bridge for as many draws of both: weights 1 / (p r_k / Z + q_k)
            of_part, of_own = (r - log_z[:, None] for r in ratios)
            above = (of_own - torch.nn.functional.softplus(of_own)).logsumexp(1)
            below = (-torch.nn.functional.softplus(of_part)).logsumexp(1)
            log_z = log_z + above - below
        return torch.log_softmax(log_z, 0)


def _proposal(z: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """(K, M, D) differential evolution: differences of two of the others of the same part."""
    count, each, dimension = z.shape
    pair = torch.randint(others.shape[1], (2, count, each), generator=generator).to(z.device)
    first, second = (others.gather(1, p[..., None].expand(-1, -1, dimension)) for p in pair)
    choice = torch.randint(len(STRIDES), (count, each, 1), generator=generator).to(z.device)
    stride = z.new_tensor(STRIDES)[choice] * 2.38 / (2 * dimension) ** 0.5
    noise = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    return z + stride * (first - second) + JITTER * others.std(1, keepdim=True) * noise


def _moments(mixture: Mixture, z: Tensor, log_weight: Tensor) -> Mixture:
    """Components with the moments of the ensembles (K, M, D), leaning a little on those before."""
    each, dimension = z.shape[1:]
    location = z.mean(1)
    off = z - location[:, None]
    kept = WORTH * dimension / (each + WORTH * dimension)
    covariance = (1 - kept) * off.mT @ off / each + kept * mixture.factor @ mixture.factor.mT
    return Mixture(log_weight, location, torch.linalg.cholesky(covariance))
