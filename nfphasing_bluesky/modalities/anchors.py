"""Back-projection of curves and patterns: the best fit of a class, and its curvature, before any network.

A library of prior objects gives the start (variable projection: scale and background are solved for),
Levenberg-Marquardt steps on all points give the fit, and the Gauss-Newton Hessian the covariance. All of
it happens in the coordinates y of the flow's box, in which uniform priors are standard normal.

Where the fit failed, or is not yet there, the covariance is widened by how far it is from a good one.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from nfphasing_bluesky.flows import HALF_LOG_2PI, Anchor, Box, LogGrid, bin_centres, bin_curve
from nfphasing_bluesky.modalities.curves import CurveBatch

LIBRARY = 4096
LIBRARY_ERROR = 0.02
CHUNK = 128
FITTED_AT_ONCE = 64
STARTS = 2
TRIALS = 2
STEPS = 8
DAMPING = 0.3
CONVERGED = 0.02
LARGEST_STEP = 2.0
NARROWEST = 1e-7
HOPELESS = 1e6


def anchor_features(dimension: int, rivals: int = 0) -> int:
    """Number of features of an anchor of a class with `dimension` free parameters, and of its rivals."""
    return 2 * dimension + 3 + (rivals * (dimension + 2) - 1 if rivals else 0)


class Measured(Protocol):
    """B measurements of Q points each, as a fit sees them; a `CurveBatch` is one.

    `q` (B, ...) is what a target's curve takes beside theta: where the points are.
    """

    def __len__(self) -> int: ...

    def at(self, index: Tensor) -> Self:
        """Return the measurements that an index picks."""
        ...

    @property
    def q(self) -> Tensor:
        """(B, ...) where the points are."""
        ...

    @property
    def intensity(self) -> Tensor:
        """(B, Q)."""
        ...

    @property
    def mask(self) -> Tensor:
        """(B, Q) bool, True = do not use."""
        ...

    @property
    def root_weight(self) -> Tensor:
        """(B, Q) 1/sigma, float64, zero where masked."""
        ...


M_contra = TypeVar("M_contra", bound=Measured, contravariant=True)
M = TypeVar("M", bound=Measured)


class Starts(Protocol[M_contra]):
    """Where fits begin."""

    def best(self, batch: M_contra, count: int) -> Tensor:
        """(B, count, D) objects in box coordinates."""
        ...


@dataclass(frozen=True)
class Target:
    """One class as a fit sees it.

    Args:
        box: of its free parameters.
        curve: (N, D) theta and (N, ...) q to (N, Q) P(q).
        slopes: the same to P(q) and (N, D, Q) its derivatives by theta.
        background: mean and standard deviation of the background over scale.
        starts: objects of the library that a fit starts from.
        steps: of a fit, at most.
        rivals: whether the features tell where the fits of all starts had come to when the best was chosen:
            where there are many minima, the truth may be in another.
    """

    box: Box
    curve: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    background: tuple[float, float]
    starts: int = STARTS
    steps: int = STEPS
    rivals: bool = False


class Library:
    """Curves of M prior objects of one class on a common grid of Q points.

    Args:
        y: (M, D) objects.
        shape: (M, Q) their curves, of unit scale and without background.
        background: mean and standard deviation of the background over scale.
    """

    def __init__(self, y: Tensor, shape: Tensor, background: tuple[float, float]) -> None:
        self.y, self.background = y, background
        self.shape = shape.T.contiguous()
        self.square = self.shape.square()

    def on(self, device: torch.device) -> None:
        """Move to a device, once."""
        if self.y.device != device:
            self.y, self.shape = self.y.to(device), self.shape.to(device)
            self.square = self.square.to(device)

    def misfit(self, weight: Tensor, intensity: Tensor) -> Tensor:
        """(B, M) chi^2 but for a constant of each curve."""
        pp, p = weight @ self.square, weight @ self.shape
        py, y = (weight * intensity) @ self.shape, (weight * intensity).sum(1, keepdim=True)
        one = weight.sum(1, keepdim=True)
        scale = (py / pp).clamp_min(1e-30)
        mean, spread = self.background
        one = one + (scale * spread).square().reciprocal()
        y = y + mean / (scale * spread**2)
        determinant = (pp * one - p.square()).clamp_min(1e-12 * pp * one)
        s, b = (one * py - p * y) / determinant, (pp * y - p * py) / determinant
        return torch.where(s > 0, -(s * py + b * y), 0.0)


class CurveLibrary(Library):
    """Curves of M prior objects of one class on the encoder's grid.

    Args:
        y: (M, D) objects, in box coordinates.
        target: the class.
        grid: of the curves.
    """

    def __init__(self, y: Tensor, target: Target, grid: LogGrid) -> None:
        self.grid = grid
        q = bin_centres(grid).to(y)
        curves = [target.curve(_theta(target, part), q.expand(len(part), -1)) for part in y.split(512)]
        super().__init__(y, torch.cat(curves), target.background)

    def best(self, batch: CurveBatch, count: int) -> Tensor:
        """(B, count, D) objects whose curves fit best, scale and background solved for."""
        self.on(batch.q.device)
        bins = bin_curve(batch.q, batch.intensity, batch.sigma, batch.mask, self.grid)
        variance = bins.variance + (LIBRARY_ERROR * bins.intensity).square()
        weight = torch.where(bins.filled, variance.clamp_min(1e-30).reciprocal(), 0.0)
        parts = zip(weight.split(CHUNK), bins.intensity.split(CHUNK), strict=True)
        chosen = [self.misfit(w, y).topk(count, dim=1, largest=False).indices for w, y in parts]
        return self.y[torch.cat(chosen)]


@dataclass
class _Fit:
    """State of N fits: point, objective, the data's part of the Hessian, and negative gradient.

    The prior is uniform in the box, standard normal in its coordinates: its part of the Hessian is one.

    `decrement` is the squared length, in units of the posterior's width, of the Newton step `newton`.
    """

    y: Tensor
    objective: Tensor
    chi2: Tensor
    data: Tensor
    gradient: Tensor
    newton: Tensor
    decrement: Tensor
    damping: Tensor

    def at(self, index: Tensor) -> "_Fit":
        return _Fit(*(getattr(self, f.name)[index] for f in fields(self)))

    def without_data(self, index: Tensor) -> "_Fit":
        """Return fits of which some are left with their prior alone, and a misfit to match."""
        out = self.at(torch.arange(len(self.y), device=self.y.device))
        for name in ("y", "data", "newton", "gradient"):
            getattr(out, name)[index] = 0.0
        out.chi2[index] = out.decrement[index] = HOPELESS
        return out

    def put(self, index: Tensor, other: "_Fit") -> None:
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(other, f.name)


@torch.no_grad()
def fit(target: Target, library: Starts[M], batch: M) -> Anchor:
    """Anchor of every measurement of a batch. Each one's depends on that one alone."""
    parts = [_fit(target, library, batch.at(rows)) for rows in torch.arange(len(batch)).split(FITTED_AT_ONCE)]
    return Anchor(*(torch.cat([getattr(p, f) for p in parts]) for f in ("location", "factor", "features")))


def _fit(target: Target, library: Starts[M], batch: M) -> Anchor:
    starts = library.best(batch, target.starts)
    count = starts.shape[1]
    rows = torch.arange(len(batch), device=starts.device).repeat_interleave(count)
    state = _evaluate(target, batch.at(rows), starts.flatten(0, 1))
    # a few steps of all starts tell which of them is worth the rest
    for _ in range(TRIALS):
        state = _advance(target, batch.at(rows), state)
    tried = state
    best = state.objective.view(-1, count).argmin(1) + torch.arange(len(batch), device=rows.device) * count
    state = state.at(best)
    for _ in range(target.steps - TRIALS):
        active = (state.decrement > CONVERGED).nonzero()[:, 0]
        if not active.numel():
            break
        if active.numel() == len(batch):
            state = _advance(target, batch, state)
        else:
            state.put(active, _advance(target, batch.at(active), state.at(active)))
    anchor = _anchor(state, batch)
    if not target.rivals:
        return anchor
    return replace(anchor, features=torch.cat([anchor.features, _rivals(tried, anchor, count)], 1))


def _advance(target: Target, batch: Measured, state: _Fit) -> _Fit:
    """One damped step; where it made things worse, the old point with more damping.

    Elsewhere the damping follows from how much of the promised descent came true: Nielsen, IMM-REP-1999-05.
    """
    hessian = state.data.clone()
    hessian.diagonal(dim1=1, dim2=2).add_(1)
    damped = hessian.clone()
    damped.diagonal(dim1=1, dim2=2).mul_(1 + state.damping[:, None])
    step = _solve(damped, state.gradient).nan_to_num(0.0).clamp(-LARGEST_STEP, LARGEST_STEP)
    tried = _evaluate(target, batch, state.y + step)
    promised = (step * (state.gradient - 0.5 * (hessian @ step[:, :, None])[:, :, 0])).sum(1)
    kept = (state.objective - tried.objective) / promised.clamp_min(1e-12)
    better = tried.objective < state.objective
    out = tried if better.all() else state.at(torch.arange(len(better), device=better.device))
    if not better.all() and better.any():
        out.put(better.nonzero()[:, 0], tried.at(better.nonzero()[:, 0]))
    eased = state.damping * (1 - (2 * kept - 1) ** 3).clamp(0.05, 2.0)
    out.damping = torch.where(better, eased, state.damping * 8)
    return out


def _evaluate(target: Target, batch: Measured, y: Tensor) -> _Fit:
    """Objective, Gauss-Newton Hessian and negative gradient at y (N, D), without scale and background."""
    d = y.shape[1]
    y = y.double()
    shape, slopes = target.slopes(_theta(target, y), batch.q)
    root = batch.root_weight
    design = torch.empty(len(y), d + 2, shape.shape[1], dtype=y.dtype, device=y.device)
    torch.mul(shape, root, out=design[:, d])
    design[:, d + 1] = root
    measured = root * batch.intensity
    mean, spread = target.background
    linear = _linear(design[:, d:], measured, mean, spread)
    scale = linear[:, :1]
    stretch = (target.box.upper - target.box.lower) * torch.exp(-0.5 * y.square() - HALF_LOG_2PI)
    torch.mul(slopes, root[:, None], out=design[:, :d])
    design[:, :d] *= (stretch * scale)[:, :, None]
    residual = measured - (linear[:, None] @ design[:, d:])[:, 0]
    hessian = design @ design.mT
    gradient = (design @ residual[:, :, None])[:, :, 0]
    tightness = (scale[:, 0] * spread).square().reciprocal()
    excess = linear[:, 1] - mean * linear[:, 0]
    hessian[:, -1, -1] += tightness
    gradient[:, -1] -= tightness * excess
    # marginalise scale and offset
    cross = hessian[:, :d, d:]
    solved = _solve(hessian[:, d:, d:], torch.cat([cross.mT, gradient[:, d:, None]], dim=2))
    away = cross @ solved
    data = hessian[:, :d, :d] - away[:, :, :d]
    data = 0.5 * (data + data.mT)
    gradient = gradient[:, :d] - away[:, :, d] - y
    posterior = data.clone()
    posterior.diagonal(dim1=1, dim2=2).add_(1)
    newton = _solve(posterior, gradient)
    chi2 = residual.square().sum(1) + tightness * excess.square()
    return _Fit(
        y,
        0.5 * (chi2 + y.square().sum(1)),
        chi2,
        data,
        gradient,
        newton,
        (gradient * newton).sum(1),
        torch.full_like(chi2, DAMPING),
    )


def _rivals(tried: _Fit, anchor: Anchor, count: int) -> Tensor:
    """(B, count * (D + 2) - 1) where the fits of all starts were, in units of the anchor, and how good."""
    objective = tried.objective.view(-1, count).float()
    order = objective.argsort(1)
    objective = objective.gather(1, order)
    decrement = tried.decrement.view(-1, count).float().gather(1, order)
    y = tried.y.view(len(order), count, -1)
    y = y.gather(1, order[:, :, None].expand_as(y)) - anchor.location.double()[:, None]
    pulls = torch.linalg.solve_triangular(anchor.factor.double(), y.mT, upper=False).mT
    behind = (objective - objective[:, :1]).clamp_min(0)[:, 1:]
    parts = [torch.asinh(pulls).float().flatten(1) / 2, torch.log1p(behind), torch.log1p(decrement) / 2]
    return torch.cat(parts, 1).nan_to_num(0.0).clamp(-20, 20)


def _linear(basis: Tensor, measured: Tensor, mean: float, spread: float) -> Tensor:
    """(N, 2) scale and offset that fit best, the offset over the scale drawn to its prior.

    Args:
        basis: (N, 2, Q) curve and constant, over sigma.
        measured: (N, Q) over sigma.
        mean: of the prior of offset over scale.
        spread: its standard deviation.
    """
    gram, projection = basis @ basis.mT, (basis @ measured[:, :, None])[:, :, 0]
    alone = (projection[:, 0] / gram[:, 0, 0]).abs().clamp_min(1e-30)
    scale, offset = alone, torch.zeros_like(alone)
    for _ in range(2):
        tightness = (scale * spread).square().reciprocal()
        corner, drawn = gram[:, 1, 1] + tightness, projection[:, 1] + tightness * mean * scale
        pp = gram[:, 0, 0]
        determinant = (pp * corner - gram[:, 0, 1].square()).clamp_min(1e-12 * pp * corner)
        scale = (corner * projection[:, 0] - gram[:, 0, 1] * drawn) / determinant
        offset = (pp * drawn - gram[:, 0, 1] * projection[:, 0]) / determinant
        scale = torch.where(scale > 0, scale, alone)
    return torch.stack([scale, offset], 1)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve without raising: a curve that makes no sense must not fail the others of its batch."""
    return torch.linalg.solve_ex(matrix, right).result


def _theta(target: Target, y: Tensor) -> Tensor:
    return target.box.inverse(y, y)[0].float()


def _anchor(state: _Fit, batch: Measured) -> Anchor:
    points = (~batch.mask).sum(1).double()
    sound = torch.isfinite(state.objective + state.decrement) & torch.isfinite(state.data).all(2).all(1)
    if not sound.all():
        state = state.without_data(~sound)
    surplus = (state.chi2 - points - 3 * (2 * points).sqrt()).clamp_min(0.0)
    widening = 1 + torch.where(state.decrement > CONVERGED, state.decrement, 0.0) + surplus
    near = state.decrement[:, None] < 1
    location = state.y + torch.where(near, state.newton, 0.0).clamp(-LARGEST_STEP, LARGEST_STEP)
    precision = state.data / widening[:, None, None]
    precision.diagonal(dim1=1, dim2=2).add_(1)
    factor = torch.linalg.cholesky_ex(torch.linalg.inv_ex(precision).inverse).L
    factor.diagonal(dim1=1, dim2=2).clamp_(min=NARROWEST)
    features = torch.cat(
        [
            location / 2,
            factor.diagonal(dim1=1, dim2=2).log() / 3,
            torch.stack([widening.log() / 3, (state.chi2 / points).log(), state.decrement.clamp_max(4.0)], 1),
        ],
        dim=1,
    )
    return Anchor(location.float(), factor.float(), features.clamp(-10, 10).float())
