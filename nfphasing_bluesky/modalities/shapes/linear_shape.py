"""p(r) of a given size: linear in the data, so integrated out and drawn exactly.

I(q) = s [(1 - a) (T_0(q D) + sum_c z_c T_c(q D)) + a A(q L) + beta] with Gaussian noise. Given the scale s,
the size D and the aggregates (share a, extent L), the shape's coordinates z and the relative background beta
are linear, their prior is a mixture of Gaussians, and so is their posterior. A flow only has to learn the few
parameters that are left, and the draws of the shape are exact for each of its draws.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class LinearPrior(NamedTuple):
    """A mixture of K Gaussians of M linear coefficients, float64.

    log_weight (K,), centre (K, M), precision (K, M, M), half_log_det (K,) of the precisions.
    """

    log_weight: Tensor
    centre: Tensor
    precision: Tensor
    half_log_det: Tensor


def linear_prior(log_weight: Tensor, centre: Tensor, factor: Tensor, others: Tensor) -> LinearPrior:
    """Mixture of the first coefficients, and independent ones of mean zero behind it.

    Args:
        log_weight: (K,).
        centre: (K, C).
        factor: (K, C, C) Cholesky factors of the covariances.
        others: (M - C,) standard deviations.
    """
    k, c = centre.shape
    m = c + len(others)
    whole = torch.zeros(k, m, m, dtype=torch.float64, device=centre.device)
    whole[:, :c, :c] = factor
    whole.diagonal(dim1=1, dim2=2)[:, c:] = others.to(whole)
    inverse = torch.linalg.inv(whole)
    return LinearPrior(
        log_weight.double(),
        torch.nn.functional.pad(centre.double(), (0, m - c)),
        inverse.mT @ inverse,
        -whole.diagonal(dim1=1, dim2=2).log().sum(1),
    )


class LinearPosterior(NamedTuple):
    """Posterior of M linear coefficients, a mixture of K Gaussians, for N draws of everything else.

    Attributes:
        log_evidence: (N,) log of the likelihood integrated over the coefficients; the likelihood is
            exp(-chi^2 / 2), without the normalisation that sigma alone sets.
        log_share: (N, K) log posterior probability of the components that were looked at.
        factor: (N, K, M, M) Cholesky factors L of the precisions.
        whitened: (N, K, M) L^T times the means.
    """

    log_evidence: Tensor
    log_share: Tensor
    factor: Tensor
    whitened: Tensor

    def draw(self, noise: Tensor | None) -> Tensor:
        """(N, M) coefficients from (N, 1 + M) standard normals; when None, the mean of the likeliest one."""
        if noise is None:
            k = self.log_share.argmax(1)
        else:
            u = torch.special.ndtr(noise[:, :1].to(self.log_share))
            k = (u > self.log_share.exp().cumsum(1)).sum(1).clamp_max(self.log_share.shape[1] - 1)
        each = torch.arange(len(k), device=k.device)
        right = self.whitened[each, k]
        if noise is not None:
            right = right + noise[:, 1:].to(right)
        upper = self.factor[each, k].mT
        return torch.linalg.solve_triangular(upper, right[:, :, None], upper=True)[:, :, 0]


PROBED, PROBED_OF = 24, 128
UNLIKELY = 1e-3
"""Posterior probability of a component, in each of `PROBED` draws, below which it is left out of the rest."""


def condition_alike(gram: Tensor, projection: Tensor, square: Tensor, prior: LinearPrior) -> LinearPosterior:
    """`condition` for draws of one frame, in any order, without components that none of a few draws wants.

    Arguments as there.
    """
    n = len(square)
    if n < PROBED_OF:
        return condition(gram, projection, square, prior)
    few = torch.linspace(0, n - 1, PROBED, device=square.device).long()
    share = condition(gram[few], projection[few], square[few], prior).log_share.amax(0)
    # a draw that makes no sense (NaN) rules out nothing
    kept = ~(share < math.log(UNLIKELY))
    return condition(gram, projection, square, LinearPrior(*(part[kept] for part in prior)))


def condition(gram: Tensor, projection: Tensor, square: Tensor, prior: LinearPrior) -> LinearPosterior:
    """Condition the coefficients on the data, in float64: the curves of the smallest ones are nearly alike.

    Args:
        gram: (N, M, M) sums over the points of products of the coefficients' curves, over sigma^2.
        projection: (N, M) the same with what the data leave when all coefficients are zero.
        square: (N,) sum of the squares of that, over sigma^2.
        prior: of the coefficients.
    """
    pulled = (prior.precision @ prior.centre[:, :, None])[:, :, 0]
    factor = torch.linalg.cholesky_ex(gram[:, None] + prior.precision).L
    right = (projection[:, None] + pulled)[..., None]
    whitened = torch.linalg.solve_triangular(factor, right, upper=False)[..., 0]
    constant = prior.log_weight + prior.half_log_det - 0.5 * (prior.centre * pulled).sum(1)
    volume = factor.diagonal(dim1=2, dim2=3).log().sum(2)
    joint = constant + 0.5 * whitened.square().sum(2) - volume - 0.5 * square[:, None]
    log_evidence = torch.logsumexp(joint, 1)
    return LinearPosterior(log_evidence, joint - log_evidence[:, None], factor, whitened)
