"""Scale and flat background of a curve, given its shape: integrated out and drawn exactly.

I(q) = s (P(q) + beta) with Gaussian noise is linear in s and in s beta. Given the shape P, the scale has
a normal conditional (prior ds/s, the scale-invariant one, taken at the mode: relative error
(sigma_s/s)^2) and the relative background beta a one-dimensional density, tabulated where it has mass.
So the flow only has to learn the shape, and the draws of s and beta are exact for each of its draws.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.batches import Measured
from nfphasing_bluesky.modalities.draws import Draws

CELLS = 64
WIDTH_SIGMA = 6.0


@dataclass(frozen=True)
class BackgroundPrior:
    """Prior of beta = background / scale: uniform in log beta between two positive bounds."""

    lower: float
    upper: float

    def bounds(self) -> tuple[float, float]:
        """Of log beta."""
        return math.log(self.lower), math.log(self.upper)

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of beta."""
        width, e_folds = self.upper - self.lower, math.log(self.upper / self.lower)
        mean = width / e_folds
        return mean, (width * (self.lower + self.upper) / (2 * e_folds) - mean**2) ** 0.5

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) draws, float32."""
        low, high = self.bounds()
        u = torch.rand(n, generator=generator, device=generator.device)
        return torch.exp(low + u * (high - low))


@dataclass(frozen=True)
class ScaleBackground:
    """Conditional of (s, beta) for N draws.

    Args:
        log_evidence: (N,) log of the likelihood integrated over s and beta, float64; the likelihood is
            exp(-chi^2 / 2), without the normalisation that sigma alone sets.
        edge: (N,) lower edge of the tabulated range of log beta.
        cell: (N,) width of one of its cells.
        log_mass: (N, CELLS) normalised log mass of the cells.
        prior: of beta.
        moments: (N, 5) weighted sums of P^2, P, 1, P y, y.
    """

    log_evidence: Tensor
    edge: Tensor
    cell: Tensor
    log_mass: Tensor
    prior: BackgroundPrior
    moments: Tensor

    def draw(self, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Draw (s, beta), each (N,), from (N, 2) standard normal noise; the centres when it is None."""
        u = torch.full_like(self.edge, 0.5) if noise is None else _uniform(noise[:, 0])
        cdf = self.log_mass.exp().cumsum(-1)
        cdf = cdf / cdf[:, -1:]
        index = torch.searchsorted(cdf, u[:, None]).clamp_max(CELLS - 1)
        above = cdf.gather(1, index)[:, 0]
        mass = self.log_mass.exp().gather(1, index)[:, 0].clamp_min(1e-30)
        inside = (1.0 - (above - u) / mass).clamp(0.0, 1.0)
        beta = (self.edge + (index[:, 0] + inside) * self.cell).exp()
        beta = beta.clamp(self.prior.lower, self.prior.upper)
        information, projection = _scale_sums(self.moments, beta[:, None])
        scale = (projection / information)[:, 0]
        if noise is not None:
            scale = torch.where(
                noise[:, 1] * information[:, 0].rsqrt() + scale > 0,
                noise[:, 1] * information[:, 0].rsqrt() + scale,
                scale,
            )
        return scale, beta


def condition(shape: Tensor, intensity: Tensor, weight: Tensor, prior: BackgroundPrior) -> ScaleBackground:
    """Condition scale and background on the data.

    Args:
        shape: (N, Q) P(q).
        intensity: (B, Q) measured; N is a multiple of B, and the shapes of one curve come together.
        weight: (B, Q) 1/sigma^2, zero where masked.
        prior: of beta.
    """
    moments = _moments(shape.double(), intensity.double(), weight.double())
    low, cell, log_density = _tabulated(moments, prior)
    total = torch.logsumexp(log_density, dim=-1)
    lowest, highest = prior.bounds()
    data = -0.5 * (weight.double() * intensity.double().square()).sum(-1)
    data = data.repeat_interleave(len(shape) // len(weight))
    log_evidence = data + total + cell.log() - math.log(highest - lowest)
    return ScaleBackground(log_evidence, low, cell, log_density - total[:, None], prior, moments)


def log_evidence(moments: Tensor, prior: BackgroundPrior) -> Tensor:
    """(N,) log of the likelihood integrated over s and beta, but for a constant of the data; differentiable.

    Args:
        moments: (N, 5) weighted sums of P^2, P, 1, P y, y.
        prior: of beta.
    """
    _, cell, log_density = _tabulated(moments, prior)
    return torch.logsumexp(log_density, dim=-1) + cell.log()


def _tabulated(moments: Tensor, prior: BackgroundPrior) -> tuple[Tensor, Tensor, Tensor]:
    """Lower edge and width of cells of log beta, (N,) each, and (N, CELLS) log density in them."""
    low, high = _support(moments, prior)
    cell = (high - low) / CELLS
    steps = torch.arange(CELLS, dtype=low.dtype, device=low.device) + 0.5
    return low, cell, _log_density(moments, (low[:, None] + steps * cell[:, None]).exp())


def condition_draws(shape: Tensor, draws: Draws, batch: Measured, prior: BackgroundPrior) -> ScaleBackground:
    """Condition scale and background of N draws, in any order, on the frames that they are for.

    Args:
        shape: (N, Q) P(q) of each draw.
        draws: whose frames count.
        batch: the curves.
        prior: of beta.
    """
    weight, intensity = batch.weight, batch.intensity
    each = len(draws) // len(batch)
    together = torch.arange(len(batch), device=draws.frame.device).repeat_interleave(each)
    if not torch.equal(together, draws.frame):
        weight, intensity = weight[draws.frame], intensity[draws.frame]
    return condition(shape, intensity, weight, prior)


def _uniform(noise: Tensor) -> Tensor:
    return torch.special.ndtr(noise.double()).clamp(1e-9, 1 - 1e-9)


def _moments(shape: Tensor, intensity: Tensor, weight: Tensor) -> Tensor:
    """(N, 5) sums over Q; matrix products, because this is done for every draw."""
    each = shape.view(len(weight), -1, shape.shape[-1])
    measured = weight * intensity
    linear = each @ torch.stack([weight, measured], dim=-1)
    square = each.square() @ weight[:, :, None]
    own = torch.stack([weight.sum(-1), measured.sum(-1)], dim=-1)[:, None].expand_as(linear)
    parts = (square[..., 0], linear[..., 0], own[..., 0], linear[..., 1], own[..., 1])
    return torch.stack(parts, dim=-1).view(len(shape), 5)


def _scale_sums(moments: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    pp, p, one, py, y = (m[:, None] for m in moments.unbind(-1))
    return (pp + 2 * beta * p + beta**2 * one).clamp_min(1e-300), py + beta * y


def _log_density(moments: Tensor, beta: Tensor) -> Tensor:
    information, projection = _scale_sums(moments, beta)
    scale = projection / information
    # A shape that wants a negative scale is worse than no signal at all, by as much as it wants it.
    gain = 0.5 * projection * scale.abs()
    size = torch.maximum(scale.abs(), 1e-3 * information.rsqrt())
    return gain - size.log() - 0.5 * information.log()


def _support(moments: Tensor, prior: BackgroundPrior) -> tuple[Tensor, Tensor]:
    """Range of log beta in which it has mass, from the unconstrained linear fit.

    Where that hardly knows the scale, because the shape is lost in the background, beta has no upper limit.
    """
    pp, p, one, py, y = moments.detach().unbind(-1)
    determinant = (pp * one - p**2).clamp_min(1e-12 * pp * one + 1e-300)
    scale = (one * py - p * y) / determinant
    offset = (pp * y - p * py) / determinant
    vague = scale < 2 * WIDTH_SIGMA * (one / determinant).sqrt()
    most, least = (
        scale + WIDTH_SIGMA * (one / determinant).sqrt(),
        offset - WIDTH_SIGMA * (pp / determinant).sqrt(),
    )
    from_below = (least.clamp_min(0.0) / most.clamp_min(1e-300)).clamp(prior.lower, 0.5 * prior.upper)
    scale = torch.where(scale > 0, scale, py.abs() / pp)
    beta = offset / scale
    spread = WIDTH_SIGMA * ((pp + 2 * beta.abs() * p.abs() + beta**2 * one) / determinant).sqrt() / scale
    high = (beta.clamp_min(prior.lower) + spread).clamp(prior.lower, prior.upper)
    low = (beta.clamp_max(prior.upper) - spread).clamp(prior.lower, prior.upper)
    low = torch.where(vague, torch.minimum(from_below, low), low)
    high = torch.where(vague, prior.upper, high)
    smallest = 1e-4 * prior.lower
    high = torch.maximum(high, low + smallest).clamp_max(prior.upper)
    low = torch.minimum(low, high - smallest)
    return low.log(), high.log()
