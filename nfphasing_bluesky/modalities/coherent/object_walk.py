"""Draws of one coherent pattern moved to its exact posterior by Hamiltonian steps, each within its answer.

Coordinates are z of `compact_prior`, in which the prior is the standard normal; scale and background are
integrated out, as in the likelihood. Each draw moves in the coordinates whitened by the Gaussian that it was
made from (Neal, Handbook of Markov Chain Monte Carlo, chapter 5 (2011)), by trajectories of `LEAPS` steps,
and is never chosen by its weight: how many draws an answer has stays what the answer weighs. Steps of the
first `SETTLE` trajectories are adjusted to the acceptance wanted, for all draws alike.

Gaussians reach to where no object explains the pattern, and steps that fit the rest are refused there. So
draws are pulled towards their Gaussian's middle first; they spread again with the first trajectories.

Letters: N draws, D pixels of the object, P pixels of half the pattern.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.coherent.half_pattern import Pattern
from nfphasing_bluesky.modalities.linear import BackgroundPrior, log_evidence

TRAJECTORIES, SETTLE, LEAPS = 20, 12, 8
PULLED = 0.3
"""Distance from the Gaussian's middle that is left of a draw's own."""
STRIDE = (0.15, 0.01, 1.0)
"""First step, in standard deviations of the Gaussian, and its limits."""
WANTED = 0.8
VALUES_AT_ONCE = 2**23


@dataclass(frozen=True, eq=False)
class ExactPosterior:
    """Log posterior of objects, up to a constant, and its slopes.

    Args:
        pattern: the data.
        background: prior of beta; counts where the pattern does not say its scale.
    """

    pattern: Pattern
    background: BackgroundPrior

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) values and (N, D) slopes at (N, D)."""
        pattern, prior = self.pattern, self.pattern.prior
        u = prior.density(z)
        real, imaginary = u @ pattern.cosine.mT, u @ pattern.sine.mT
        value, by_shape = self._level(real.square() + imaginary.square())
        by_u = 2 * ((by_shape * real) @ pattern.cosine + (by_shape * imaginary) @ pattern.sine)
        slopes = prior.slopes(z, by_u[:, None])[:, 0]
        return value - 0.5 * z.square().sum(1), slopes - z

    def _level(self, shape: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) log likelihood and (N, P) slopes by the shapes (N, P)."""
        pattern = self.pattern
        weight = pattern.root_weight.square()
        if pattern.background is None:
            off = shape - pattern.intensity
            return -0.5 * (off.square() @ weight), -off * weight
        measured = weight * pattern.intensity
        one, y = (torch.full_like(shape[:, 0], float(part.sum())) for part in (weight, measured))
        moments = torch.stack([shape.square() @ weight, shape @ weight, one, shape @ measured, y], 1)
        with torch.enable_grad():
            moments.requires_grad_()
            value = log_evidence(moments, self.background)
            (slope,) = torch.autograd.grad(value.sum(), moments)
        by_square, by_one, by_y = (slope[:, k, None] for k in (0, 1, 3))
        return value.detach(), 2 * by_square * shape * weight + by_one * weight + by_y * measured


def walked(
    posterior: ExactPosterior,
    z: Tensor,
    location: Tensor,
    factor: Tensor,
    own: Tensor,
    trajectories: int,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Move draws (N, D), and tell the share of trajectories that is accepted at the end.

    Args:
        posterior: to move them to.
        z: draws.
        location: (C, D) middles of the Gaussians.
        factor: (C, D, D) their Cholesky factors.
        own: (N,) Gaussian of each draw.
        trajectories: at least `SETTLE` + 1.
        generator: of every random number, on the processor.
    """
    size = max(1, VALUES_AT_ONCE // factor[0].numel())
    parts, accepted = [], 0.0
    for some in torch.arange(len(z), device=z.device).split(size):
        middle = location[own[some]]
        walk = _Walk(posterior, factor[own[some]], generator)
        moved, rate = walk.go(middle + PULLED * (z[some] - middle), trajectories)
        parts.append(moved)
        accepted += rate * len(some) / len(z)
    return torch.cat(parts), accepted


@dataclass(frozen=True, eq=False)
class _Walk:
    """Of N draws: where to, (N, D, D) factors of the coordinates in which each moves, and random numbers."""

    posterior: ExactPosterior
    factor: Tensor
    generator: torch.Generator

    def go(self, z: Tensor, trajectories: int) -> tuple[Tensor, float]:
        """Where (N, D) are after so many trajectories, and the mean acceptance after the first ones."""
        value, slopes = self.posterior(z)
        stride, least, most = STRIDE
        rates = []
        for number in range(trajectories):
            momentum = self._normal(z)
            # of another length each time, so that nothing comes round to where it began
            step = stride * (0.8 + 0.4 * float(torch.rand(1, generator=self.generator)))
            there, new, new_slopes, kick = self._trajectory(z, slopes, momentum, step)
            gain = new - value + 0.5 * (momentum.square() - kick.square()).sum(1)
            gain = torch.where(gain.isfinite(), gain, -torch.inf)
            uniform = torch.rand(len(z), generator=self.generator, dtype=torch.float64).to(z)
            taken = uniform.log() < gain
            z, slopes = (torch.where(taken[:, None], a, b) for a, b in ((there, z), (new_slopes, slopes)))
            value = torch.where(taken, new, value)
            rate = float(gain.clamp_max(0).exp().mean())
            if number < SETTLE:
                stride = min(max(stride * math.exp(rate - WANTED), least), most)
            else:
                rates.append(rate)
        return z, sum(rates) / len(rates)

    def _normal(self, z: Tensor) -> Tensor:
        return torch.randn(z.shape, generator=self.generator, dtype=torch.float64).to(z)

    def _trajectory(
        self, z: Tensor, slopes: Tensor, momentum: Tensor, step: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Leapfrog; places, values and slopes there, momentum."""
        momentum = momentum + 0.5 * step * self._white(slopes)
        for leap in range(LEAPS):
            z = z + step * (self.factor @ momentum[..., None])[..., 0]
            value, slopes = self.posterior(z)
            momentum = momentum + (0.5 if leap == LEAPS - 1 else 1.0) * step * self._white(slopes)
        return z, value, slopes, momentum

    def _white(self, slopes: Tensor) -> Tensor:
        return (self.factor.mT @ slopes[..., None])[..., 0]
