"""Where a fit without the network puts layer stacks: the best of many guesses, then two least-squares fits.

A reflectivity has many local minima: fringes match whole numbers of periods apart. So guesses are drawn
within the bounds of each frame and compared in the logarithm, where a misfit does not grow without end; the
best are fitted to the curve with large relative errors first, which smooths the landscape, and then to the
curve as it is.

All derivatives come from one backward pass: every point of a curve gets its own copy of the parameters, and
the gradient of the sum over points is then the slope of each.
"""

from dataclasses import dataclass, fields
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.flows import HALF_LOG_2PI, Anchor, Box
from nfphasing_bluesky.modalities.anchors import Target, fit
from nfphasing_bluesky.modalities.layer_prior import QUANTITIES, sample_of
from nfphasing_bluesky.modalities.reflectivity_curves import ReflectivityBatch
from nfphasing_bluesky.physics.reflectivity import reflectivity
from nfphasing_bluesky.physics.reflectometer import illuminated_share, smeared

GUESSES = 384
GUESSED_POINTS = 64
ROUGH_ERROR = 0.3
STARTS = 24
FITTED_POINTS = 96
STEPS = 12
NODES = 5
FITTED_NODES = 3


def reflected(
    theta: Tensor, layers: int, q: Tensor, dq: Tensor, bounds: tuple[Tensor, Tensor], nodes: int
) -> Tensor:
    """(N, Q) share of the beam that stacks reflect, seen through footprint and resolution.

    Args:
        theta: (N, D) in 0..1.
        layers: of each stack.
        q: (N, Q) nominal, 1/angstrom.
        dq: (N, Q) resolution.
        bounds: (N, P) each.
        nodes: of the resolution's quadrature; 1 for none.
    """
    sample = sample_of(theta, layers, *bounds)

    def seen(nominal: Tensor) -> Tensor:
        true = (nominal + sample.q_offset[:, None]).clamp_min(0.0)
        return reflectivity(sample.stack, true) * illuminated_share(nominal, sample.footprint_q)

    return seen(q) if nodes == 1 else smeared(seen, q, dq, nodes)


def _unpacked(q: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Points, resolution and bounds of what a batch calls its q."""
    count = len(QUANTITIES)
    points = (q.shape[1] - 2 * count) // 2
    nominal, dq, lower, upper = q.split([points, points, count, count], 1)
    return nominal, dq, (lower, upper)


def slopes(theta: Tensor, layers: int, packed: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """(N, Q) curves and (N, D, Q) their derivatives by theta, float64."""
    q, dq, (lower, upper) = _unpacked(packed)
    n, points = q.shape
    with torch.enable_grad():
        own = theta.detach()[:, None].expand(-1, points, -1).flatten(0, 1).requires_grad_()
        bounds = (lower.repeat_interleave(points, 0), upper.repeat_interleave(points, 0))
        curve = reflected(own, layers, q.reshape(-1, 1), dq.reshape(-1, 1), bounds, nodes)
        (gradient,) = torch.autograd.grad(curve.sum(), own)
    found = gradient.nan_to_num(0.0).view(n, points, -1).mT
    return curve.detach().view(n, points).double(), found.double()


def target(layers: int, box: Box, background: tuple[float, float]) -> Target:
    """Stacks of that many layers as a fit sees them."""

    def curve(theta: Tensor, packed: Tensor) -> Tensor:
        q, dq, bounds = _unpacked(packed)
        return reflected(theta, layers, q, dq, bounds, FITTED_NODES)

    def tangent(theta: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
        return slopes(theta, layers, packed, FITTED_NODES)

    return Target(box, curve, tangent, background, starts=1, steps=STEPS)


@dataclass(frozen=True)
class LogCurves:
    """Logarithms of B curves, of unknown scale, as guesses are compared with them.

    Args:
        packed: (B, ...) `q` of the batch at these points.
        values: (B, Q) log intensity.
        weight: (B, Q) over its squared error, 0 where not measured.
        least: (B,) half of the lowest intensity over the highest: about what a background may be.
    """

    packed: Tensor
    values: Tensor
    weight: Tensor
    least: Tensor

    @classmethod
    def of(cls, batch: ReflectivityBatch, kept: Tensor, error: float) -> "LogCurves":
        """Take the points of a batch whose places are given, with a relative error on top of their own."""
        parts = (batch.points[:, kept], batch.dq[:, kept], batch.lower, batch.upper)
        measured, sigma = batch.intensity[:, kept], batch.sigma[:, kept]
        usable = ~batch.mask[:, kept] & (measured > sigma)
        one = torch.where(usable, measured, 1.0)
        weight = torch.where(usable, (error**2 + (sigma / one).square()).reciprocal(), 0.0)
        lowest = torch.where(usable, measured, torch.inf).amin(1)
        highest = torch.where(usable, measured, 0.0).amax(1).clamp_min(1e-30)
        least = (0.5 * lowest / highest).nan_to_num(1e-9, posinf=1e-9).clamp(1e-9, 1e-3)
        return cls(torch.cat(parts, 1), one.log(), weight, least)

    def at(self, index: Tensor) -> "LogCurves":
        """Return those of some frames."""
        return LogCurves(*(getattr(self, f.name)[index] for f in fields(self)))

    def residual(self, reflected: Tensor) -> Tensor:
        """(B, ..., Q) log of measured over reflected (B, ..., Q), its weighted mean taken off: the scale."""
        spare = reflected.ndim - 2
        lift = self.least.view(-1, *[1] * (reflected.ndim - 1))
        values = self.values.view(len(self.values), *[1] * spare, -1)
        return self.centred(values - (reflected + lift).log())

    def centred(self, values: Tensor) -> Tensor:
        """(B, ..., Q) less the weighted mean over the points."""
        weight = self.weight.view(len(self.weight), *[1] * (values.ndim - 2), -1)
        total = weight.sum(-1, keepdim=True).clamp_min(1e-12)
        return values - (weight * values).sum(-1, keepdim=True) / total


def guessed(layers: int, box: Box, batch: ReflectivityBatch, count: int) -> Tensor:
    """(B, count, D) random stacks within the bounds whose logarithm comes closest, in box coordinates."""
    y = _normals(box.lower.numel()).to(batch.points)
    theta = box.inverse(y.double(), y)[0].to(y)
    curves = LogCurves.of(batch, _places(batch, GUESSED_POINTS), ROUGH_ERROR)
    b, m = len(batch), len(theta)
    q, _, bounds = _unpacked(curves.packed.repeat_interleave(m, 0))
    found = reflected(theta.repeat(b, 1), layers, q, q, bounds, nodes=1).view(b, m, -1)
    misfit = (curves.weight[:, None] * curves.residual(found).square().clamp_max(1.0)).sum(2)
    return y[misfit.topk(count, dim=1, largest=False).indices].double()


def _places(batch: ReflectivityBatch, most: int) -> Tensor:
    points = batch.points.shape[1]
    return torch.linspace(0, points - 1, min(points, most), device=batch.points.device).round().long()


@cache
def _normals(dimension: int) -> Tensor:
    """(GUESSES, D) standard normals, the same in every process."""
    return torch.randn(GUESSES, dimension, generator=torch.Generator().manual_seed(dimension))


class Stage(NamedTuple):
    """Of a search: relative error on top of the curve's own, steps, and how many of the fits go on."""

    error: float
    steps: int
    kept: int


def fitted_logarithm(layers: int, box: Box, batch: ReflectivityBatch, y: Tensor, stage: Stage) -> Tensor:
    """(B, kept, D) the best of (B, C, D) after damped least-squares steps in the logarithm."""
    count = y.shape[1]
    rows = torch.arange(len(batch), device=y.device).repeat_interleave(count)
    curves = LogCurves.of(batch, _places(batch, FITTED_POINTS), stage.error).at(rows)
    y = y.flatten(0, 1)
    damping = torch.full_like(y[:, 0], 0.3)
    objective, hessian, gradient = _log_system(layers, box, curves, y)
    for _ in range(stage.steps):
        damped = hessian.clone()
        damped.diagonal(dim1=1, dim2=2).mul_(1 + damping[:, None])
        step = torch.linalg.solve_ex(damped, gradient).result.nan_to_num(0.0).clamp(-1.5, 1.5)
        tried = _log_system(layers, box, curves, y + step)
        better = tried[0] < objective
        y = torch.where(better[:, None], y + step, y)
        objective = torch.where(better, tried[0], objective)
        hessian = torch.where(better[:, None, None], tried[1], hessian)
        gradient = torch.where(better[:, None], tried[2], gradient)
        damping = torch.where(better, 0.3 * damping, 6 * damping).clamp(1e-4, 1e4)
    best = objective.view(-1, count).topk(stage.kept, largest=False).indices
    return y.view(-1, count, y.shape[1]).gather(1, best[:, :, None].expand(-1, -1, y.shape[1]))


def _log_system(layers: int, box: Box, curves: LogCurves, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objective (N,), Gauss-Newton Hessian (N, D, D) and negative gradient (N, D) at box coordinates y."""
    theta, _ = box.inverse(y, y)
    found, slope = slopes(theta.float(), layers, curves.packed, nodes=1)
    residual = curves.residual(found)
    stretch = torch.exp(-0.5 * y.square() - HALF_LOG_2PI)
    design = curves.centred(slope * stretch[:, :, None] / (found + curves.least[:, None])[:, None])
    weighted = design * curves.weight[:, None]
    hessian = weighted @ design.mT
    hessian.diagonal(dim1=1, dim2=2).add_(1)
    gradient = (weighted @ residual[:, :, None])[:, :, 0] - y
    objective = 0.5 * ((curves.weight * residual.square()).sum(1) + y.square().sum(1))
    return objective, hessian, gradient


STAGES = (Stage(0.3, 3, 6), Stage(0.3, 6, 2), Stage(0.05, 8, 1))


class Starts:
    """Where fits begin: at the best guess after steps in the logarithm.

    Args:
        layers: of each stack.
        box: of their coordinates.
    """

    def __init__(self, layers: int, box: Box) -> None:
        self.layers, self.box = layers, box

    def best(self, batch: ReflectivityBatch, count: int) -> Tensor:
        """(B, 1, D) in box coordinates."""
        found = guessed(self.layers, self.box, batch, STARTS)
        for stage in STAGES:
            found = fitted_logarithm(self.layers, self.box, batch, found, stage)
        return found


def fit_layers(fitted: Target, layers: int, batch: ReflectivityBatch) -> Anchor:
    """Anchor of every curve of a batch, for stacks of that many layers."""
    return fit(fitted, Starts(layers, fitted.box), batch)
