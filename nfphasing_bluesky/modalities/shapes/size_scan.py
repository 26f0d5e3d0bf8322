"""Anchors of p(r): the evidence of a scan of sizes, the shape integrated out.

At each D_max the shape is linear and, with its prior taken as one Gaussian, solved for; so are the scale, the
background and the aggregates' share (their extent is that of the prior's centre). The evidence along D_max,
scanned three times around its maximum, gives location and covariance of D_max and of the scale. Nothing
iterates until it converges, so nothing gets stuck.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.physics.kept import kept

COARSE, FINE = 16, 12
COARSE_REACH = 2.1
REFINEMENTS = 2
SCALE_STEPS = 3
REACH_SIGMA, REACH_STEPS = 3.2, 1.3
FARTHEST = 3.7
NARROWEST, WIDEST = 1e-4, 1.0
PARAMETERS = 4
FEATURES = 10 + COARSE + FINE


class Terms(NamedTuple):
    """What a prior adds to the normal equations of the scale, which is flat, and M coefficients, float64.

    Precisions on a diagonal (M + 1, M + 1), their products with the means (M + 1,), the means' own sum of
    squares (), and the unit vectors (M + 1, 2) of the scale and of the coefficient before the last.
    """

    precision: Tensor
    pulled: Tensor
    square: Tensor
    unit: Tensor


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Prior of the linear coefficients over the scale, (M,) each: means and standard deviations."""

    mean: Tensor
    std: Tensor

    @kept(8)
    def terms(self, device: torch.device) -> Terms:
        """What it adds to the normal equations."""
        mean, std = self.mean.to(device).double(), self.std.to(device).double()
        precision = torch.nn.functional.pad(std.square().reciprocal(), (1, 0))
        pulled = precision * torch.nn.functional.pad(mean, (1, 0))
        unit = torch.eye(len(precision), dtype=precision.dtype, device=device)[:, [0, -2]]
        return Terms(precision.diag(), pulled, (mean / std).square().sum(), unit)


class Scan(NamedTuple):
    """At J sizes of B curves, (B, J) each: coordinate, log evidence, scale, its relative variance, share.

    The weight is the posterior of the sizes: the evidence times the prior, standard normal in y.
    """

    y: Tensor
    log_evidence: Tensor
    chi2: Tensor
    log_scale: Tensor
    scale_variance: Tensor
    share: Tensor
    share_variance: Tensor
    weight: Tensor

    @classmethod
    def of(cls, found: Tensor) -> "Scan":
        """From all but the weight, (7, B, J)."""
        weight = torch.softmax(found[1] - 0.5 * found[0].square(), 1)
        return cls(*torch.cat([found, weight[None]]).unbind())

    def mean(self, *values: Tensor) -> tuple[Tensor, ...]:
        """(B,) averages of values (B, J) over the sizes, weighted with the posterior."""
        return (self.weight * torch.stack(values)).sum(2).unbind()


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
    scans = stages(gram, prior.terms(points.device), len(points), points.device, REFINEMENTS)
    return _anchor(scans[-1].found, scans[0].found, scans[-1].step, points, log_normalisation)


class Stage(NamedTuple):
    """One stage of a scan: its nodes (B, J), the sums there, what they say, and the nodes' distance (B,)."""

    y: Tensor
    gram: Tensor
    found: Scan
    step: Tensor


@kept(64)
def coarse_nodes(frames: int, device: torch.device) -> Tensor:
    """(B, COARSE) box coordinates at which every scan begins."""
    nodes = torch.linspace(-COARSE_REACH, COARSE_REACH, COARSE, dtype=torch.float64, device=device)
    return nodes.expand(frames, COARSE)


@kept(8)
def _fine_nodes(device: torch.device) -> Tensor:
    return torch.linspace(-1, 1, FINE, dtype=torch.float64, device=device)


def stages(
    gram: Callable[[Tensor], Tensor], terms: Terms, frames: int, device: torch.device, refinements: int
) -> list[Stage]:
    """Scan the whole range of sizes, then closer and closer around the maximum of the evidence."""
    y = coarse_nodes(frames, device)
    sums = gram(y)
    step = y.new_full((frames,), 2 * COARSE_REACH / (COARSE - 1))
    made = [Stage(y, sums, solve(y, sums, terms), step)]
    for _ in range(refinements):
        _, _, found, step = made[-1]
        (centre,) = found.mean(found.y)
        (variance,) = found.mean((found.y - centre[:, None]).square())
        reach = torch.maximum(REACH_SIGMA * variance.sqrt(), REACH_STEPS * step)
        y = (centre[:, None] + reach[:, None] * _fine_nodes(device)).clamp(-FARTHEST, FARTHEST)
        sums = gram(y)
        made.append(Stage(y, sums, solve(y, sums, terms), 2 * reach / (FINE - 1)))
    return made


def system(gram: Tensor, scale: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Normal equations of scale and coefficients, all in units of a scale (B, J): matrix and right side."""
    return _scaled(gram[..., :-1, :-1], gram[..., :-1, -1], scale, terms)


def _scaled(gram: Tensor, projection: Tensor, scale: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    matrix = torch.addcmul(terms.precision, gram, scale.square()[..., None, None])
    return matrix, torch.addcmul(terms.pulled, projection, scale[..., None])


@kept(8)
def _nothing(device: torch.device) -> Tensor:
    """(7, 1, 1) what a scan says at a size of which nothing is known."""
    values = torch.tensor([0.0, -1e30, 1e30, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64, device=device)
    return values[:, None, None]


def solve(y: Tensor, gram: Tensor, terms: Terms) -> Scan:
    """Solve for scale and coefficients, several times, because the prior of these hangs on the scale."""
    own, projection = gram[..., :-1, :-1], gram[..., :-1, -1]
    scale = (projection[..., 0] / own[..., 0, 0].clamp_min(1e-300)).abs().clamp_min(1e-150)
    for _ in range(SCALE_STEPS):
        matrix, right = _scaled(own, projection, scale, terms)
        factor = torch.linalg.cholesky_ex(matrix).L
        solved = torch.cholesky_solve(right[..., None], factor)[..., 0]
        better = solved[..., 0]
        scale = scale * torch.where(better > 0.05, better.clamp_max(20.0), 0.5)
    chi2 = gram[..., -1, -1] - (right * solved).sum(-1) + terms.square
    volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    spread = torch.linalg.solve_triangular(factor, terms.unit, upper=False).square().sum(-2)
    share = solved[..., -2] / better.clamp_min(0.05)
    log_scale = scale.clamp_min(1e-150).log()
    scale_variance, share_variance = spread.unbind(-1)
    found = torch.stack([y, -0.5 * chi2 - volume, chi2, log_scale, scale_variance, share, share_variance])
    return Scan.of(torch.where(torch.isfinite(found).all(0), found, _nothing(y.device)))


def _anchor(found: Scan, first: Scan, step: Tensor, points: Tensor, log_normalisation: Tensor) -> Anchor:
    chi2 = found.chi2.amin(1)
    surplus = (chi2 - points - 3 * (2 * points).sqrt()).clamp_min(0.0)
    y, log_scale, share, share_variance = found.mean(
        found.y, found.log_scale, found.share, found.share_variance
    )
    away, off = found.y - y[:, None], found.log_scale - log_scale[:, None]
    variance, scale_variance, covariance = found.mean(
        away.square(), off.square() + found.scale_variance, away * off
    )
    variance = variance + (0.3 * step).square()
    correlation = covariance / (variance * scale_variance).sqrt()
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
