"""Solutions of a pattern followed along its scale: a ridge of Gaussians where one would be straight.

Data fix sqrt(s) u, and only the prior tells the scale s from u: a solution of a frame that does not say its
scale is a ridge, curved because u ends at 1, and its middle lies off its peak because the posterior is wider
where u is further from 1. So the scale is stepped along from each solution, the object fitted again at every
step, and a Gaussian put there that reaches as far as half way to the next ones. Its weight is the evidence of
that scale, by Laplace's method. That can fall by ten nats over a width of the peak: first steps find where it
is highest and how fast it falls there, and others, of that size, begin there. Peaks on one ridge are one
solution.

Letters: K solutions, J steps, W = D + 2 coordinates of `half_pattern`, C components.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.coherent.half_pattern import SCALE, Pattern
from nfphasing_bluesky.modalities.coherent.population import Mixture

STRIDE = 0.8
"""Standard deviations of the scale at the peak from step to step."""
MOST = 14
"""Steps each way."""
FAINT = 5.0
"""Nats of evidence below a solution's best step from which on the ridge ends."""
LIGHT = 7.0
"""Nats of evidence below the best of all solutions from which on a step is left out."""
MEET = 0.5
"""Two ridges are one if the best step of one is nearer to the other, in standard deviations per root of D."""
CURVED = (0.25, 400.0)
"""Limits of the curvature of the evidence, over what the stride expects, that the stride is adjusted for."""
KERNEL = 0.6
"""Standard deviation of a component along the ridge, in steps."""

Fit = Callable[[Pattern, Tensor], Tensor]


class Path(NamedTuple):
    """Gaussians along the ridges: (C,) log weights, (C, D), (C, D, D), (C,) ridge or solution of each."""

    log_weight: Tensor
    location: Tensor
    factor: Tensor
    answer: Tensor

    def at(self, index: Tensor) -> "Path":
        """Return the Gaussians that an index or a boolean mask picks."""
        return Path(*(part[index] for part in self))

    def mirrored(self, twins: Callable[[Tensor], Tensor], answer: Tensor) -> "Path":
        """Return those of the inversion twins, as the solutions `answer` (C,)."""
        covariance = twins(twins(self.factor @ self.factor.mT).mT)
        return Path(self.log_weight, twins(self.location), torch.linalg.cholesky(covariance), answer)

    def weights(self, count: int) -> Tensor:
        """(count,) log weight of each ridge or solution."""
        whole = self.log_weight.new_full((count,), -torch.inf)
        for k in self.answer.unique().tolist():
            whole[k] = self.log_weight[self.answer == k].logsumexp(0)
        return whole


class _Steps(NamedTuple):
    """(J, K, ...) along one way from the solutions: places, factors with the scale held, evidence."""

    z: Tensor
    factor: Tensor
    evidence: Tensor


class _Begin(NamedTuple):
    """Where K ridges are begun: the steps there, (K, 1) strides of the scale, (K, W) slopes by the scale."""

    at: _Steps
    stride: Tensor
    slope: Tensor


def along_scale(pattern: Pattern, found: Mixture, fit: Fit) -> Path:
    """Follow the solutions of a pattern; weights are the evidence, and ridges may be one.

    Args:
        pattern: whose scale is free.
        found: Gaussians of the solutions.
        fit: where fits to a pattern end, (M, W) of (M, W).
    """
    held = replace(pattern, held=True)
    covariance = found.factor @ found.factor.mT
    variance = covariance[:, SCALE, SCALE, None]
    begin = _Begin(_at(held, found.location), STRIDE * variance.sqrt(), covariance[:, :, SCALE] / variance)
    begin = _highest(_ridge(held, begin, fit), begin.stride)
    z, factor, evidence = _ridge(held, begin, fit)
    kept = evidence > evidence.amax(0) - FAINT
    along = KERNEL * _ahead(z)[kept][:, : pattern.pixels]
    own = factor[kept][:, : pattern.pixels, : pattern.pixels]
    own = torch.linalg.cholesky(own @ own.mT + along[..., :, None] * along[..., None, :])
    log_weight = (evidence + begin.stride[:, 0].log())[kept]
    answer = torch.arange(z.shape[1], device=z.device).expand_as(kept)[kept]
    return Path(log_weight, z[kept][:, : pattern.pixels], own, answer)


def told_apart(path: Path, count: int) -> tuple[Path, Tensor]:
    """Leave out what weighs nothing, and ridges that are another one, whose peak was another.

    Args:
        path: along `count` ridges.
        count: K.

    Returns:
        What is left, of normalised weights, and (K,) which ridge each one is; itself where it is no other.
    """
    light = path.log_weight <= path.log_weight.max() - LIGHT
    total = path.weights(count)
    order = total.argsort(descending=True)[: int(total.isfinite().sum())].tolist()
    tops = torch.stack([path.log_weight.masked_fill(path.answer != k, -torch.inf).argmax() for k in order])
    off = (path.location[tops] - path.location[:, None]).mT
    white = torch.linalg.solve_triangular(path.factor, off, upper=False)
    near = (white.norm(dim=1) < MEET * path.location.shape[1] ** 0.5) & ~light[:, None]
    same = torch.arange(count, device=total.device)
    taken: list[int] = []
    for k, column in zip(order, near.unbind(1), strict=True):
        touched = set(path.answer[column].tolist())
        same[k] = next((other for other in taken if other in touched), k)
        if same[k] == k:
            taken.append(k)
    left = path.at(~light & (same[path.answer] == path.answer))
    return left._replace(log_weight=left.log_weight.log_softmax(0)), same


def _ahead(z: Tensor) -> Tensor:
    """(J, K, W) the way to the next step, the mean of both ways; one-sided at the ends."""
    steps = torch.full((len(z), 1, 1), 2.0, dtype=z.dtype, device=z.device)
    steps[0] = steps[-1] = 1.0
    return (torch.cat([z[1:], z[-1:]]) - torch.cat([z[:1], z[:-1]])) / steps


def _ridge(held: Pattern, begin: _Begin, fit: Fit) -> _Steps:
    """Steps both ways from where each ridge begins, in the order of the scale."""
    up, down = (_walk(held, begin.at, begin.stride * way, begin.slope, fit) for way in (1.0, -1.0))
    parts = zip(begin.at, down, up, strict=True)
    return _Steps(*(torch.cat([b.flip(0), a[None], c]) for a, b, c in parts))


def _highest(ridge: _Steps, stride: Tensor) -> _Begin:
    """The step of most evidence of each ridge, with strides over which the evidence about it falls enough."""
    rows = torch.arange(ridge.z.shape[1], device=stride.device)
    best = ridge.evidence.argmax(0)
    inner = best.clamp(1, len(ridge.z) - 2)
    before, here, after = (ridge.evidence[inner + way, rows] for way in (-1, 0, 1))
    shorter = ((2 * here - before - after) / STRIDE**2).clamp(*CURVED).rsqrt()[:, None]
    slope = (ridge.z[inner + 1, rows] - ridge.z[inner - 1, rows]) / (2 * stride)
    return _Begin(_Steps(*(part[best, rows] for part in ridge)), stride * shorter, slope)


def _at(held: Pattern, z: Tensor) -> _Steps:
    factor = held.factors(z)
    return _Steps(z, factor, held.log_posterior(z) + factor.diagonal(dim1=1, dim2=2).log().sum(1))


def _walk(held: Pattern, start: _Steps, step: Tensor, slope: Tensor, fit: Fit) -> _Steps:
    """Steps one way, until the evidence of all solutions is faint."""
    way, here, best = [], start, start.evidence
    for _ in range(MOST):
        there = _at(held, fit(held, here.z + step * slope))
        slope, here = (there.z - here.z) / step, there
        best = torch.maximum(best, here.evidence)
        way.append(here)
        if bool((here.evidence < best - FAINT).all()):
            break
    return _Steps(*(torch.stack(parts) for parts in zip(*way, strict=True)))
