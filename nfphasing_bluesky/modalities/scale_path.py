"""Solutions of a pattern followed along its scale: a ridge of Gaussians where one would be straight.

Data fix sqrt(s) u, and only the prior tells the scale s from u: a solution of a frame that does not say its
scale is a ridge, curved because u ends at 1, and its middle lies off its peak because the posterior is wider
where u is further from 1. So the scale is stepped along from each solution, the object fitted again at every
step, and a Gaussian put there that reaches as far as half way to the next ones. Its weight is the evidence of
that scale, by Laplace's method.

Letters: K solutions, J steps, W = D + 2 coordinates of `half_pattern`, C components.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.half_pattern import SCALE, Pattern
from nfphasing_bluesky.modalities.population import Mixture

STRIDE = 0.8
"""Standard deviations of the scale at the peak from step to step."""
MOST = 14
"""Steps each way."""
FAINT = 5.0
"""Nats of evidence below a solution's best step from which on the ridge ends."""
KERNEL = 0.6
"""Standard deviation of a component along the ridge, in steps."""

Fit = Callable[[Pattern, Tensor], Tensor]


class Path(NamedTuple):
    """Gaussians along the ridges: (C,) normalised log weights, (C, D), (C, D, D), (C,) solution of each."""

    log_weight: Tensor
    location: Tensor
    factor: Tensor
    answer: Tensor


class _Steps(NamedTuple):
    """(J, K, ...) along one way from the solutions: places, factors with the scale held, evidence."""

    z: Tensor
    factor: Tensor
    evidence: Tensor


def along_scale(pattern: Pattern, found: Mixture, fit: Fit) -> Path:
    """Follow the solutions of a pattern.

    Args:
        pattern: whose scale is free.
        found: Gaussians of the solutions.
        fit: where fits to a pattern end, (M, W) of (M, W).
    """
    held = replace(pattern, held=True)
    covariance = found.factor @ found.factor.mT
    variance = covariance[:, SCALE, SCALE, None]
    stride, slope = STRIDE * variance.sqrt(), covariance[:, :, SCALE] / variance
    middle = _at(held, found.location)
    up, down = (_walk(held, middle, stride * way, slope, fit) for way in (1.0, -1.0))
    z, factor, evidence = (
        torch.cat([b.flip(0), a[None], c]) for a, b, c in zip(middle, down, up, strict=True)
    )
    # the way to the next step each way, one-sided at both ends
    ahead = torch.cat([z[1:], z[-1:]]) - torch.cat([z[:1], z[:-1]])
    steps = torch.full((len(z), 1, 1), 2.0, dtype=z.dtype, device=z.device)
    steps[0] = steps[-1] = 1.0
    along = KERNEL * (ahead / steps)[..., : pattern.pixels]
    own = factor[..., : pattern.pixels, : pattern.pixels]
    own = torch.linalg.cholesky(own @ own.mT + along[..., :, None] * along[..., None, :])
    kept = evidence > evidence.amax(0) - FAINT
    log_weight = (evidence + stride[:, 0].log())[kept]
    answer = torch.arange(z.shape[1], device=z.device).expand_as(kept)[kept]
    return Path(log_weight.log_softmax(0), z[kept][:, : pattern.pixels], own[kept], answer)


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
