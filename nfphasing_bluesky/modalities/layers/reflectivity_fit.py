"""Where fits put layer stacks: the best of many guesses, or draws of the network, then least-squares fits.

A reflectivity has many local minima: fringes match whole numbers of periods apart. So guesses are drawn
within the bounds of each frame and compared in the logarithm, where a misfit does not grow without end; the
best are fitted there with a small relative error, with the background and at last the resolution in the fit,
fewer from stage to stage, and the last one to the curve as it is. What that does not explain is searched for
thoroughly in the second look.

Slopes of curves are exact (`physics.layers.reflectivity_slopes`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.flows import HALF_LOG_2PI, Anchor, Box
from nfphasing_bluesky.modalities.anchors import Target
from nfphasing_bluesky.modalities.batches import Rows
from nfphasing_bluesky.modalities.fits import FITTED_AT_ONCE, fit
from nfphasing_bluesky.modalities.layers.layer_prior import QUANTITIES, sample_of
from nfphasing_bluesky.modalities.layers.reflectivity_curves import ReflectivityBatch
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.physics.layers.reflectivity_slopes import reflectivity_slopes
from nfphasing_bluesky.physics.layers.reflectometer import BeamShape, illuminated_share, smeared
from nfphasing_bluesky.physics.reflectivity import reflectivity

LIFT_SPREAD = 1.5
"""Of the logarithm of the background that fits in the logarithm look for."""
GUESSES = (384, 384, 384, 384, 1024, 1024)
"""For each number of layers: most of the best guesses at four or five are wrong."""
GUESSED_POINTS = 64
ROUGH_ERROR = 0.3
LOG_POOR = 0.3
"""Logarithm of the misfit per point above which a fit is tried again."""
FITTED_POINTS = 96
STEPS = 30
BEAM = BeamShape.SOFT_HAT
"""A hat's kink would leave fits of the footprint stuck between two points."""
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
        return reflectivity(sample.stack, true) * illuminated_share(nominal, sample.footprint_q, BEAM)

    return seen(q) if nodes == 1 else smeared(seen, q, dq, nodes)


def _unpacked(q: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Points, resolution and bounds of what a batch calls its q."""
    count = len(QUANTITIES)
    points = (q.shape[1] - 2 * count) // 2
    nominal, dq, lower, upper = q.split([points, points, count, count], 1)
    return nominal, dq, (lower, upper)


def slopes(theta: Tensor, layers: int, packed: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """(N, Q) curves and (N, D, Q) their derivatives by theta, float64."""
    q, dq, bounds = _unpacked(packed)
    q, dq = q.to(theta), dq.to(theta)
    jacobian = _jacobian(theta, layers, bounds)
    sample = sample_of(theta, layers, *bounds)
    found = []
    for place, share in _quadrature(nodes):
        at = (q + place * dq).abs()
        inside = reflectivity_slopes(sample.stack, (at + sample.q_offset[:, None]).clamp_min(0.0))
        lit, dims = _illuminated(at, sample.footprint_q)
        parts = [inside.density, inside.absorption, inside.thickness, inside.roughness, inside.q[:, None]]
        by_all = torch.cat([*(part * lit[:, None] for part in parts), (dims * inside.curve)[:, None]], 1)
        found.append((share * inside.curve * lit, share * by_all))
    curve, by_all = (sum(parts[1:], start=parts[0]) for parts in zip(*found, strict=True))
    slope = (jacobian.mT @ by_all.nan_to_num(0.0)).double()
    return curve.double(), slope


def _illuminated(q: Tensor, footprint_q: Tensor) -> tuple[Tensor, Tensor]:
    """(N, Q) share of the beam on the sample, and its derivative by the footprint's q (N,)."""
    with torch.enable_grad():
        own = footprint_q.detach()[:, None].expand_as(q).flatten().requires_grad_()
        share = illuminated_share(q.reshape(-1, 1), own, BEAM)
        (gradient,) = torch.autograd.grad(share.sum(), own)
    return share.detach().view_as(q), gradient.view_as(q)


def _quadrature(nodes: int) -> Iterator[tuple[float, float]]:
    """Places in standard deviations of the resolution, and weights, as `smeared` has them."""
    place, weight = np.polynomial.hermite_e.hermegauss(nodes)
    return zip(place.tolist(), (weight / weight.sum()).tolist(), strict=True)


def _jacobian(theta: Tensor, layers: int, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """(N, P, D) derivatives of all that a curve depends on: stack, q offset and footprint."""
    n, d = theta.shape
    count = 4 * layers + 7
    with torch.enable_grad():
        # each of the P values has its own copy of theta, so that one backward pass gives all derivatives
        own = theta.detach()[:, None].expand(-1, count, -1).flatten(0, 1).requires_grad_()
        sample = sample_of(own, layers, *(edge.repeat_interleave(count, 0) for edge in bounds))
        stack = sample.stack
        parts = [stack.density, stack.absorption, stack.thickness, stack.roughness]
        values = torch.cat([*parts, sample.q_offset[:, None], sample.footprint_q[:, None]], 1)
        chosen = values.view(n, count, count).diagonal(dim1=1, dim2=2)
        (gradient,) = torch.autograd.grad(chosen.sum(), own)
    return gradient.view(n, count, d)


def target(layers: int, box: Box, background: BackgroundPrior) -> Target:
    """Stacks of that many layers as a fit sees them."""

    def curve(theta: Tensor, packed: Tensor) -> Tensor:
        q, dq, bounds = _unpacked(packed)
        return reflected(theta, layers, q, dq, bounds, FITTED_NODES)

    def tangent(theta: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
        return slopes(theta, layers, packed, FITTED_NODES)

    ends = background.lower, background.upper
    return Target(box, curve, tangent, background.moments(), 1, STEPS, least_and_most=ends, ridges=True)


@dataclass(frozen=True)
class LogCurves(Rows):
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


class Stage(NamedTuple):
    """Of a search.

    Attributes:
        error: relative, on top of the curve's own.
        steps: of each fit.
        kept: how many of the fits go on.
        nodes: of the resolution's quadrature.
    """

    error: float
    steps: int
    kept: int
    nodes: int


class Search(NamedTuple):
    """From guesses to one place.

    Attributes:
        guesses: how many, for each number of layers.
        starts: best guesses that are fitted.
        stages: of the fits.
    """

    guesses: tuple[int, ...]
    starts: int
    stages: tuple[Stage, ...]


def guessed(layers: int, box: Box, batch: ReflectivityBatch, search: Search, attempt: int = 0) -> Tensor:
    """(B, starts, D) random stacks within the bounds whose logarithm comes closest, in box coordinates."""
    y = _normals(search.guesses[layers], box.lower.numel(), attempt).to(batch.points)
    theta = box.inverse(y.double(), y)[0].to(y)
    curves = LogCurves.of(batch, _places(batch, GUESSED_POINTS), ROUGH_ERROR)
    found = torch.stack([_of_guesses(theta, layers, packed) for packed in curves.packed])
    misfit = (curves.weight[:, None] * curves.residual(found).square().clamp_max(1.0)).sum(2)
    return y[misfit.topk(search.starts, dim=1, largest=False).indices].double()


def _of_guesses(theta: Tensor, layers: int, packed: Tensor) -> Tensor:
    """(M, Q) curves of all guesses (M, D) within the bounds of one frame: what fits the processor's cache."""
    q, dq, bounds = _unpacked(packed.expand(len(theta), -1))
    return reflected(theta, layers, q, dq, bounds, nodes=1)


def _places(batch: ReflectivityBatch, most: int) -> Tensor:
    points = batch.points.shape[1]
    return torch.linspace(0, points - 1, min(points, most), device=batch.points.device).round().long()


@cache
def _normals(count: int, dimension: int, attempt: int) -> Tensor:
    """(M, D) standard normals, the same in every process."""
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(1000 * attempt + dimension))


def fitted_logarithm(layers: int, box: Box, batch: ReflectivityBatch, y: Tensor, stage: Stage) -> Tensor:
    """(B, kept, D + 1) the best of (B, C, D + 1) after damped least-squares steps in the logarithm."""
    count = y.shape[1]
    rows = torch.arange(len(batch), device=y.device).repeat_interleave(count)
    curves = LogCurves.of(batch, _places(batch, FITTED_POINTS), stage.error).at(rows)
    y = y.flatten(0, 1)
    damping = torch.full_like(y[:, 0], 0.3)
    objective, hessian, gradient = _log_system(layers, box, curves, y, stage.nodes)
    for _ in range(stage.steps):
        damped = hessian.clone()
        damped.diagonal(dim1=1, dim2=2).mul_(1 + damping[:, None])
        step = torch.linalg.solve_ex(damped, gradient).result.nan_to_num(0.0).clamp(-1.5, 1.5)
        tried = _log_system(layers, box, curves, y + step, stage.nodes)
        better = tried[0] < objective
        y = torch.where(better[:, None], y + step, y)
        objective = torch.where(better, tried[0], objective)
        hessian = torch.where(better[:, None, None], tried[1], hessian)
        gradient = torch.where(better[:, None], tried[2], gradient)
        damping = torch.where(better, 0.3 * damping, 6 * damping).clamp(1e-4, 1e4)
    best = objective.view(-1, count).topk(stage.kept, largest=False).indices
    return y.view(-1, count, y.shape[1]).gather(1, best[:, :, None].expand(-1, -1, y.shape[1]))


def _log_system(
    layers: int, box: Box, curves: LogCurves, y: Tensor, nodes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Objective (N,), Gauss-Newton Hessian and negative gradient at box coordinates and lift y (N, D + 1)."""
    theta, _ = box.inverse(y[:, :-1], y[:, :-1])
    found, slope = slopes(theta.float(), layers, curves.packed, nodes)
    lift = (curves.least * (LIFT_SPREAD * y[:, -1]).exp())[:, None]
    residual = curves.centred(curves.values - (found + lift).log())
    stretch = torch.exp(-0.5 * y[:, :-1].square() - HALF_LOG_2PI)
    moves = torch.cat([slope * stretch[:, :, None], LIFT_SPREAD * lift[:, None].expand_as(slope[:, :1])], 1)
    design = curves.centred(moves / (found + lift)[:, None])
    weighted = design * curves.weight[:, None]
    hessian = weighted @ design.mT
    hessian.diagonal(dim1=1, dim2=2).add_(1)
    gradient = (weighted @ residual[:, :, None])[:, :, 0] - y
    objective = 0.5 * ((curves.weight * residual.square()).sum(1) + y.square().sum(1))
    return objective, hessian, gradient


PARTS = ("location", "factor", "features")
SEARCHES = 2
FEW_MINIMA = 1
"""Layers up to which fits from guesses and from draws that end alike leave nothing to search for."""
ALIKE, THE_SAME = 0.1, 0.02
"""Logarithms of misfits that differ by less are of one minimum: of few layers, and of a thorough search."""
OUT_OF_REACH = 2.0
"""Logarithm of the misfit after a thorough search above which another one finds nothing either."""
AGAIN = 4
AGAIN_STEPS = 14
STAGES_AGAIN = (Stage(0.3, 4, 32, 1), Stage(0.1, 6, 12, 1), Stage(0.03, 6, AGAIN, 1))
LAST = Stage(0.03, 8, 1, FITTED_NODES)
FIRST = Search(GUESSES, 24, (Stage(0.1, 4, 8, 1), Stage(0.03, 6, 3, 1), LAST))
NARROWING = tuple(Stage(0.03, steps, kept, 1) for steps, kept in ((6, 48), (10, 16), (8, 4)))
THOROUGH = Search((2048,) * 6, 128, (*NARROWING, LAST))


class Starts:
    """Where fits begin: at the best guess after steps in the logarithm.

    Args:
        layers: of each stack.
        box: of their coordinates.
        attempt: which guesses, from 0; from the second on the search is a thorough one.
    """

    def __init__(self, layers: int, box: Box, attempt: int = 0) -> None:
        self.layers, self.box, self.attempt = layers, box, attempt

    def best(self, batch: ReflectivityBatch, count: int) -> Tensor:
        """(B, 1, D) in box coordinates."""
        search = THOROUGH if self.attempt else FIRST
        guesses = guessed(self.layers, self.box, batch, search, self.attempt)
        found = torch.nn.functional.pad(guesses, (0, 1))
        for stage in search.stages:
            found = fitted_logarithm(self.layers, self.box, batch, found, stage)
        return found[:, :, :-1]


@dataclass(frozen=True)
class Given:
    """Fits that begin where they are told: (B, 1, D) in box coordinates."""

    places: Tensor

    def best(self, batch: ReflectivityBatch, count: int) -> Tensor:
        """Return the places."""
        return self.places


def fit_again(fitted: Target, layers: int, batch: ReflectivityBatch, drawn: Tensor, anchor: Anchor) -> Anchor:
    """The best fits of every curve that begin at draws (B, P, D) in box coordinates: (B * AGAIN,) of them.

    Where neither they nor the anchor explain a curve, thorough searches from other guesses take the place of
    the worst, as long as `worth_a_search` says.
    """
    places = torch.nn.functional.pad(drawn.double(), (0, 1))
    for stage in STAGES_AGAIN:
        places = fitted_logarithm(layers, fitted.box, batch, places, stage)
    rows = torch.arange(len(batch), device=places.device).repeat_interleave(AGAIN)
    several = batch.at(rows)
    brief = replace(fitted, steps=AGAIN_STEPS)
    fits = []
    for part in torch.arange(len(rows)).split(FITTED_AT_ONCE):
        fits.append(fit(brief, Given(places.flatten(0, 1)[part, None, :-1]), several.at(part)))
    found = Anchor(*(torch.cat([getattr(f, n) for f in fits]) for n in PARTS))
    before, after = log_misfit(anchor), log_misfit(found).view(-1, AGAIN).amin(1)
    for attempt in range(1, 1 + SEARCHES):
        bad = worth_a_search(layers, attempt, before, after).nonzero()[:, 0]
        if not bad.numel():
            break
        other = fit(fitted, Starts(layers, fitted.box, attempt), batch.at(bad))
        worst = bad * AGAIN + log_misfit(found).view(-1, AGAIN)[bad].argmax(1)
        for name in PARTS:
            getattr(found, name)[worst] = getattr(other, name)
        before = torch.minimum(before, after)
        after = torch.full_like(before, -torch.inf).index_copy(0, bad, log_misfit(other))
    return found


def worth_a_search(layers: int, attempt: int, before: Tensor, after: Tensor) -> Tensor:
    """(B,) bool: curves that a thorough search may still explain.

    Args:
        layers: of the stacks.
        attempt: number of the search, from 1.
        before: (B,) logarithm of the least misfit before the last thing that was tried: of the anchor, or of
            all fits.
        after: (B,) of what was tried last: of fits from draws, or a search; minus infinity for none.
    """
    best, apart = torch.minimum(before, after), (before - after).abs()
    poor = best > LOG_POOR
    if attempt == 1:
        return poor & (apart > ALIKE) if layers <= FEW_MINIMA else poor
    return poor & (apart > THE_SAME) & (best < OUT_OF_REACH)


def log_misfit(anchor: Anchor) -> Tensor:
    """(N,) logarithm of each fit's reduced chi-squared."""
    return anchor.features[:, 2 * anchor.location.shape[1] + 1]


def fit_layers(fitted: Target, layers: int, batch: ReflectivityBatch) -> Anchor:
    """Anchor of every curve of a batch, for stacks of that many layers."""
    return fit(fitted, Starts(layers, fitted.box), batch)
