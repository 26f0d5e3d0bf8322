"""Whether the beginning of a curve agrees with the rest of it.

Aggregates beyond a trace, interactions and leftovers of the buffer show at the smallest q first. A p(r) can
often explain them, as a large particle, with a good chi-squared and a wrong Rg. So the beginning is left out,
predicted from the rest with its uncertainty, and compared. For curves of the prior the probability found is
uniform in 0..1.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.curves import CurveBatch
from nfphasing_bluesky.modalities.shapes import size_curves, size_scan

BEGINNING = 2.0
"""How far it reaches, over the lowest q; at most to pi / D_max, or the rest would not know the size."""

FEWEST = 2
REFINEMENTS = 1


def beginning(curve: CurveBatch, d_max: Tensor) -> Tensor:
    """(B, Q) bool: points that belong to it.

    Args:
        curve: the frames.
        d_max: (B,) rough largest distance, angstrom.
    """
    lowest = torch.where(curve.mask, torch.inf, curve.q).amin(1).to(d_max)
    end = torch.minimum(BEGINNING * lowest, math.pi / d_max)
    return (curve.q < end[:, None]) & ~curve.mask


@torch.no_grad()
def probability(
    columns: Callable[[Tensor], Tensor], curve: CurveBatch, d_max: Tensor, prior: size_scan.Coefficients
) -> Tensor:
    """(B,) chance that the beginning lies as far from what the rest predicts, or farther.

    NaN where the beginning holds fewer than `FEWEST` points.

    Args:
        columns: box coordinate y of D_max (B, J) to (B, J, Q, M + 1) curves of the mean shape, M - 1
            coefficients and a constant.
        curve: the frames.
        d_max: (B,) rough largest distance, angstrom.
        prior: of the M coefficients.
    """
    low = beginning(curve, d_max)
    rest = replace(curve, mask=curve.mask | low)
    frame = size_curves.Frame(rest.q[:, None], rest.intensity[:, None], rest.root_weight[:, None])

    # q increases, so that no later point belongs to the beginning
    end = 1 + int(low.any(0).nonzero().amax()) if low.any() else 1
    made: list[Tensor] = []

    def gram(y: Tensor) -> Tensor:
        each = columns(y)
        made.append(each[:, :, :end])
        whole = size_curves.over_sigma(each, frame)
        return whole.mT @ whole

    terms = prior.terms(curve.q.device)
    stages = size_scan.stages(gram, terms, len(curve), curve.q.device, REFINEMENTS)
    mean, covariance = _predicted(torch.cat(made, 1), stages, terms)
    low, sigma, intensity = (v[:, :end] for v in (low, curve.sigma.double(), curve.intensity.double()))
    root = torch.where(low, sigma.reciprocal(), 0.0)
    covariance = covariance * root[:, :, None] * root[:, None, :]
    covariance.diagonal(dim1=1, dim2=2).add_(1.0)
    pull = (intensity - mean) * root
    chi2 = (pull * torch.linalg.solve(covariance, pull[..., None])[..., 0]).sum(1)
    points = low.sum(1).double()
    found = torch.special.gammaincc(points.clamp_min(1.0) / 2, chi2 / 2)
    return torch.where(points >= FEWEST, found, torch.nan)


def _predicted(
    columns: Tensor, stages: list[size_scan.Stage], terms: size_scan.Terms
) -> tuple[Tensor, Tensor]:
    """Mean (B, Q) and covariance (B, Q, Q) of the curve over the sizes of all stages.

    The columns (B, J, Q, M + 1) are those of the stages' sizes, one stage after the other.
    """
    y, order = torch.cat([s.y for s in stages], 1).sort(1)
    gram = torch.cat([s.gram for s in stages], 1)
    found = (torch.cat([getattr(s.found, f) for s in stages], 1) for f in ("log_evidence", "log_scale"))
    log_evidence, log_scale = (values.gather(1, order) for values in found)
    gram = gram.gather(1, order[:, :, None, None].expand_as(gram))
    width = torch.nn.functional.pad(torch.diff(y, dim=1), (1, 1))
    width = (width[:, 1:] + width[:, :-1]).clamp_min(1e-9)
    weight = torch.softmax(log_evidence - 0.5 * y.square() + width.log(), 1)
    scale = log_scale.exp()
    matrix, right = size_scan.system(gram, scale, terms)
    factor = torch.linalg.cholesky_ex(matrix).L
    rows = columns.gather(1, order[:, :, None, None].expand_as(columns)).double() * scale[:, :, None, None]
    each = (rows @ torch.cholesky_solve(right[..., None], factor))[..., 0]
    mean = (weight[..., None] * each).sum(1)
    # within each size, and between the sizes
    within = torch.linalg.solve_triangular(factor, rows.mT, upper=False)
    spread = torch.cat([within, (each - mean[:, None])[:, :, None]], 2) * weight[:, :, None, None].sqrt()
    spread = spread.flatten(1, 2)
    return mean, spread.mT @ spread
