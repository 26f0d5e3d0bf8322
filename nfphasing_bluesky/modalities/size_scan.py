"""Anchors of p(r): the evidence of a scan of sizes, the shape integrated out.

At each D_max the shape is linear and, with its prior taken as one Gaussian, solved for; so are the scale, the
background and the aggregates' share (their extent is that of the prior's centre). The evidence along D_max,
scanned three times around its maximum, gives location and covariance of D_max and of the scale. Nothing
iterates until it converges, so nothing gets stuck.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor

COARSE, FINE = 16, 12
COARSE_REACH = 2.1
REFINEMENTS = 2
SCALE_STEPS = 3
REACH_SIGMA, REACH_STEPS = 3.2, 1.3
FARTHEST = 3.7
NARROWEST, WIDEST = 1e-4, 1.0
PARAMETERS = 4
FEATURES = 10 + COARSE + FINE


class Coefficients(NamedTuple):
    """Prior of the linear coefficients over the scale, (M,) each: means and standard deviations."""

    mean: Tensor
    std: Tensor


class Scan(NamedTuple):
    """At J sizes of B curves, (B, J) each: coordinate, log evidence, scale, its relative variance, share."""

    y: Tensor
    log_evidence: Tensor
    chi2: Tensor
    log_scale: Tensor
    scale_variance: Tensor
    share: Tensor
    share_variance: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """(B,) average over the sizes, weighted with the posterior."""
        return (self.weight * values).sum(1)

    @property
    def weight(self) -> Tensor:
        """(B, J) posterior of the sizes: the evidence times the prior, standard normal in y."""
        return torch.softmax(self.log_evidence - 0.5 * self.y.square(), 1)


@torch.no_grad()
def scan(
    gram: Callable[[Tensor], Tensor], prior: Coefficients, points: Tensor, log_normalisation: Tensor
) -> Anchor:
    """Anchors of B curves in the coordinates of D_max, share, extent (box) and log scale.

    Args:
        gram: box coordinate y of D_max (B, J) to (B, J, M + 2, M + 2) sums over points of the products of the
            mean shape's curve, the coefficients' M curves and the data, over sigma^2, float64.
        prior: of the coefficients, the aggregates' share the one before the last.
        points: (B,) number of points.
        log_normalisation: (B,) logarithm of a scale of the curve that needs no fit.
    """
    scans = stages(gram, prior, len(points), points.device, REFINEMENTS)
    return _anchor(scans[-1].found, scans[0].found, scans[-1].step, points, log_normalisation)


class Stage(NamedTuple):
    """One stage of a scan: its nodes (B, J), the sums there, what they say, and the nodes' distance (B,)."""

    y: Tensor
    gram: Tensor
    found: Scan
    step: Tensor


def stages(
    gram: Callable[[Tensor], Tensor],
    prior: Coefficients,
    frames: int,
    device: torch.device,
    refinements: int,
) -> list[Stage]:
    """Scan the whole range of sizes, then closer and closer around the maximum of the evidence."""
    nodes = torch.linspace(-COARSE_REACH, COARSE_REACH, COARSE, dtype=torch.float64, device=device)
    y = nodes.expand(frames, COARSE)
    sums = gram(y)
    step = y.new_full((frames,), 2 * COARSE_REACH / (COARSE - 1))
    made = [Stage(y, sums, solve(y, sums, prior), step)]
    for _ in range(refinements):
        _, _, found, step = made[-1]
        centre = found.mean(found.y)
        spread = found.mean((found.y - centre[:, None]).square()).sqrt()
        reach = torch.maximum(REACH_SIGMA * spread, REACH_STEPS * step)
        nodes = torch.linspace(-1, 1, FINE, dtype=y.dtype, device=device)
        y = (centre[:, None] + reach[:, None] * nodes).clamp(-FARTHEST, FARTHEST)
        sums = gram(y)
        made.append(Stage(y, sums, solve(y, sums, prior), 2 * reach / (FINE - 1)))
    return made


def system(gram: Tensor, scale: Tensor, prior: Coefficients) -> tuple[Tensor, Tensor]:
    """Normal equations of scale and coefficients, all in units of a scale (B, J): matrix and right side."""
    precision = prior.std.to(gram).square().reciprocal()
    matrix = gram[..., :-1, :-1] * scale[..., None, None].square()
    matrix.diagonal(dim1=-2, dim2=-1).add_(torch.nn.functional.pad(precision, (1, 0)))
    pulled = torch.nn.functional.pad(precision * prior.mean.to(gram), (1, 0))
    return matrix, gram[..., :-1, -1] * scale[..., None] + pulled


def solve(y: Tensor, gram: Tensor, prior: Coefficients) -> Scan:
    """Solve for scale and coefficients, several times, because the prior of these hangs on the scale."""
    constant = (prior.mean.to(gram) / prior.std.to(gram)).square().sum()
    total = gram[..., -1, -1]
    scale = (gram[..., 0, -1] / gram[..., 0, 0].clamp_min(1e-300)).abs().clamp_min(1e-150)
    for _ in range(SCALE_STEPS):
        matrix, right = system(gram, scale, prior)
        factor = torch.linalg.cholesky_ex(matrix).L
        solved = torch.cholesky_solve(right[..., None], factor)[..., 0]
        better = solved[..., 0]
        scale = torch.where(better > 0.05, scale * better.clamp_max(20.0), 0.5 * scale)
    chi2 = total - (right * solved).sum(-1) + constant
    volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_evidence = -0.5 * chi2 - volume
    unit = torch.zeros_like(matrix[..., :2])
    unit[..., 0, 0] = unit[..., -2, 1] = 1.0
    spread = torch.linalg.solve_triangular(factor, unit, upper=False).square().sum(-2)
    share = solved[..., -2] / better.clamp_min(0.05)
    found = Scan(y, log_evidence, chi2, scale.clamp_min(1e-150).log(), spread[..., 0], share, spread[..., 1])
    finite = torch.stack([torch.isfinite(v) for v in found]).all(0)
    nothing = y.new_tensor([0.0, -1e30, 1e30, 0.0, 1.0, 0.0, 1.0])
    return Scan(*(torch.where(finite, v, n) for v, n in zip(found, nothing, strict=True)))


def _anchor(found: Scan, first: Scan, step: Tensor, points: Tensor, log_normalisation: Tensor) -> Anchor:
    chi2 = found.chi2.amin(1)
    surplus = (chi2 - points - 3 * (2 * points).sqrt()).clamp_min(0.0)
    y, log_scale = found.mean(found.y), found.mean(found.log_scale)
    away, off = found.y - y[:, None], found.log_scale - log_scale[:, None]
    variance = found.mean(away.square()) + (0.3 * step).square()
    scale_variance = found.mean(off.square() + found.scale_variance)
    correlation = found.mean(away * off) / (variance * scale_variance).sqrt()
    correlation = correlation.clamp(-0.99, 0.99)
    widening = (1 + surplus).sqrt()
    width = (variance.sqrt() * widening).clamp(NARROWEST, WIDEST)
    scale_width = (scale_variance.sqrt() * widening).clamp(NARROWEST, 2 * WIDEST)
    factor = torch.eye(PARAMETERS, dtype=y.dtype, device=y.device).repeat(len(y), 1, 1)
    factor[:, 0, 0] = width
    factor[:, 3, 0] = scale_width * correlation
    factor[:, 3, 3] = scale_width * (1 - correlation.square()).sqrt()
    location = torch.zeros(len(y), PARAMETERS, dtype=y.dtype, device=y.device)
    location[:, 0], location[:, 3] = y, log_scale
    share, share_variance = found.mean(found.share), found.mean(found.share_variance)
    features = torch.stack(
        [
            y / 2,
            width.log() / 3,
            (log_scale - log_normalisation) / 4,
            scale_width.log() / 3,
            correlation,
            50 * share,
            share_variance.sqrt().log() / 3,
            widening.log() / 3,
            (chi2 / points).clamp_min(1e-6).log(),
            points.log() / 4,
        ],
        dim=1,
    )
    profiles = [p - p.amax(1, keepdim=True) for p in (first.log_evidence, found.log_evidence)]
    features = torch.cat([features, *(-torch.log1p(-p) / 3 for p in profiles)], 1)
    return Anchor(location.float(), factor.float(), features.nan_to_num(0.0).clamp(-10, 10).float())
