"""Back-projection of curves and patterns: the best fit of a class, and its curvature, before any network.

Levenberg-Marquardt steps on all points give the fit, and the Gauss-Newton Hessian the covariance, from the
starts and in the coordinates that `anchors` explains. Where the fit failed, or is not yet there, the
covariance is widened by how far it is from a good one.

Fits of several classes go in step: only curves and slopes are each class's own. A class of fewer coordinates
than the others has some more that nothing depends on; their prior keeps them at 0.

Letters: N fits, D coordinates of the class that has most, Q points.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from nfphasing_bluesky.flows import HALF_LOG_2PI, Anchor, inside_box
from nfphasing_bluesky.modalities.anchors import Measured, Starts, Target

FITTED_AT_ONCE = 64
"""Measurements times classes."""

TRIALS = 2
DAMPING = 0.3
CONVERGED = 0.02
NEAR = 1.0
LARGEST_STEP = 2.0
NARROWEST = 1e-7
HOPELESS = 1e6
HELD = 1e6

M = TypeVar("M", bound=Measured)


class Wanted(NamedTuple):
    """Fits of one class to some measurements of a batch.

    Args:
        target: the class; of classes that are fitted together the background's prior is one and the same.
        library: where they begin.
        rows: (R,) indices of the measurements, increasing.
    """

    target: Target
    library: Starts[Any]
    rows: Tensor


class _Classes:
    """The classes of N fits, those of one class together.

    Args:
        targets: of all K classes.
        bounds: (2, K, D) of their boxes.
        which: (N,) index of each fit's class.
    """

    def __init__(self, targets: Sequence[Target], bounds: Tensor, which: Tensor) -> None:
        self.targets, self._bounds, self._which = targets, bounds, which
        self.lower, self.upper = bounds[:, which]
        self.width = self.upper - self.lower
        self._ends = which.bincount(minlength=len(targets)).cumsum(0).tolist()

    @classmethod
    def of(cls, targets: Sequence[Target], which: Tensor) -> "_Classes":
        """Classes of fits, whose boxes are unit ones where they lack a coordinate."""
        bounds = torch.zeros(2, len(targets), max(t.box.lower.numel() for t in targets), dtype=torch.float64)
        bounds[1] = 1.0
        for own, t in zip(bounds.unbind(1), targets, strict=True):
            own[0, : t.box.lower.numel()], own[1, : t.box.lower.numel()] = t.box.lower, t.box.upper
        return cls(targets, bounds.to(which.device), which)

    def at(self, index: Tensor) -> "_Classes":
        return _Classes(self.targets, self._bounds, self._which[index])

    def columns(self, y: Tensor, points: "_Points") -> Tensor:
        """(N, D + 3, Q) slopes, curve, constant and data, over sigma."""
        q, root, measured = points
        d = y.shape[1]
        theta = inside_box(y, self.lower, self.upper).float()
        out = y.new_zeros(len(y), d + 3, root.shape[1])
        first = 0
        for target, end in zip(self.targets, self._ends, strict=True):
            own, mine = target.box.lower.numel(), slice(first, end)
            first = end
            if mine.start == mine.stop:
                continue
            out[mine, d], out[mine, :own] = target.slopes(theta[mine, :own], q[mine])
        out[:, : d + 1] *= root[:, None]
        out[:, d + 1], out[:, d + 2] = root, measured
        return out


class _Points(NamedTuple):
    """What N fits are to explain: where the points are (N, ...), 1/sigma and intensity/sigma (N, Q)."""

    q: Tensor
    root: Tensor
    measured: Tensor

    def at(self, index: Tensor) -> "_Points":
        return _Points(*(part.index_select(0, index) for part in self))


class _Fit(NamedTuple):
    """State of N fits of D coordinates, in one tensor (N, .) so that fits can be picked and put in one go.

    The prior is uniform in the box, standard normal in its coordinates: its part of the Hessian is one.
    What is given out are views.
    """

    values: Tensor
    dimension: int

    @classmethod
    def of(
        cls, y: Tensor, objective: Tensor, chi2: Tensor, data: Tensor, gradient: Tensor, newton: Tensor
    ) -> "_Fit":
        """Put together a fit that was just computed."""
        decrement, damping = (gradient * newton).sum(1), torch.full_like(chi2, DAMPING)
        each = torch.stack([objective, chi2, decrement, damping], 1)
        return cls(torch.cat([y, gradient, newton, data.flatten(1), each], 1), y.shape[1])

    @property
    def y(self) -> Tensor:
        """(N, D) where it is."""
        return self.values[:, : self.dimension]

    @property
    def gradient(self) -> Tensor:
        """(N, D) negative gradient of the objective."""
        return self.values[:, self.dimension : 2 * self.dimension]

    @property
    def newton(self) -> Tensor:
        """(N, D) Newton step."""
        return self.values[:, 2 * self.dimension : 3 * self.dimension]

    @property
    def data(self) -> Tensor:
        """(N, D, D) the data's part of the Hessian."""
        d = self.dimension
        return self.values[:, 3 * d : -4].unflatten(1, (d, d))

    @property
    def objective(self) -> Tensor:
        """(N,)."""
        return self.values[:, -4]

    @property
    def chi2(self) -> Tensor:
        """(N,) misfit, the background's prior in it."""
        return self.values[:, -3]

    @property
    def decrement(self) -> Tensor:
        """(N,) squared length, in units of the posterior's width, of the Newton step."""
        return self.values[:, -2]

    @property
    def damping(self) -> Tensor:
        """(N,) of the next step."""
        return self.values[:, -1]

    def at(self, index: Tensor) -> "_Fit":
        return _Fit(self.values[index], self.dimension)

    def part(self, rows: slice, dimension: int) -> "_Fit":
        """Return the fits of one class, in its own coordinates."""
        d, own = dimension, self.values[rows]
        if d == self.dimension:
            return _Fit(own, d)
        mine = _Fit(own, self.dimension)
        parts = [mine.y[:, :d], mine.gradient[:, :d], mine.newton[:, :d], mine.data[:, :d, :d].flatten(1)]
        return _Fit(torch.cat([*parts, own[:, -4:]], 1), d)

    def without_data(self, index: Tensor) -> "_Fit":
        """Return fits of which some are left with their prior alone, and a misfit to match."""
        out = _Fit(self.values.clone(), self.dimension)
        for part in (out.y, out.data, out.newton, out.gradient):
            part[index] = 0.0
        out.chi2[index] = out.decrement[index] = HOPELESS
        return out


def fit(target: Target, library: Starts[M], batch: M) -> Anchor:
    """Anchor of every measurement of a batch. Each one's depends on that one alone."""
    return fit_together([Wanted(target, library, torch.arange(len(batch), device=batch.q.device))], batch)[0]


@torch.no_grad()
def fit_together(wanted: Sequence[Wanted], batch: Measured) -> list[Anchor]:
    """Anchors (R_k) of several classes. Each depends on one measurement and one class alone."""
    parts: list[list[Anchor]] = [[] for _ in wanted]
    most = max(1, FITTED_AT_ONCE // len(wanted))
    for first in range(0, len(batch), most):
        some = [w._replace(rows=w.rows[(w.rows >= first) & (w.rows < first + most)]) for w in wanted]
        there = [k for k, w in enumerate(some) if w.rows.numel()]
        if there:
            for k, anchor in zip(there, _fit([some[k] for k in there], batch), strict=True):
                parts[k].append(anchor)
    names = ("location", "factor", "features")
    return [Anchor(*(torch.cat([getattr(p, f) for p in made]) for f in names)) for made in parts]


def _fit(wanted: Sequence[Wanted], batch: Measured) -> list[Anchor]:
    measured = [batch if len(w.rows) == len(batch) else batch.at(w.rows) for w in wanted]
    starts = [w.library.best(m, w.target.starts) for w, m in zip(wanted, measured, strict=True)]
    d = max(s.shape[2] for s in starts)
    y = torch.cat([torch.nn.functional.pad(s.flatten(0, 1), (0, d - s.shape[2])) for s in starts])
    frame = torch.cat([w.rows.repeat_interleave(s.shape[1]) for w, s in zip(wanted, starts, strict=True)])
    sizes = torch.tensor([s.shape[0] * s.shape[1] for s in starts], device=y.device)
    which = torch.arange(len(wanted), device=y.device).repeat_interleave(sizes)
    classes = _Classes.of([w.target for w in wanted], which)
    root = batch.root_weight
    points = _Points(getattr(batch, "model_q", batch.q), root, root * batch.intensity).at(frame)
    state = _evaluate(classes, points, y)
    # a few steps of all starts tell which of them is worth the rest
    for _ in range(TRIALS):
        state = _advance(classes, points, state)
    tried, best = state, _best(state.objective, starts)
    state = state.at(best)
    points, classes = points.at(best), classes.at(best)
    for _ in range(max(w.target.steps for w in wanted) - TRIALS):
        active = (state.decrement > CONVERGED).nonzero()[:, 0]
        if not active.numel():
            break
        if active.numel() == len(best):
            state = _advance(classes, points, state)
        else:
            state.values[active] = _advance(classes.at(active), points.at(active), state.at(active)).values
    if any(w.target.ridges for w in wanted):
        state = _without_worse_steps(classes, points, state)
    return _anchors(wanted, measured, starts, tried, state)


def _best(objective: Tensor, starts: Sequence[Tensor]) -> Tensor:
    """Index of the best fit of each measurement and class."""
    out, first = [], 0
    for s in starts:
        frames, count = s.shape[:2]
        mine = objective[first : first + frames * count].view(frames, count).argmin(1)
        out.append(mine + torch.arange(frames, device=mine.device) * count + first)
        first += frames * count
    return torch.cat(out)


def _anchors(
    wanted: Sequence[Wanted], measured: Sequence[Measured], starts: Sequence[Tensor], tried: _Fit, state: _Fit
) -> list[Anchor]:
    """Anchors of each class from the fits of all, those of all starts first."""
    out = []
    first = begun = 0
    for w, batch, s in zip(wanted, measured, starts, strict=True):
        frames, count, d = s.shape
        anchor = _anchor(state.part(slice(first, first + frames), d), batch)
        if w.target.rivals:
            others = tried.part(slice(begun, begun + frames * count), d)
            anchor = replace(anchor, features=torch.cat([anchor.features, _rivals(others, anchor, count)], 1))
        out.append(anchor)
        first, begun = first + frames, begun + frames * count
    return out


def _advance(classes: _Classes, points: _Points, state: _Fit) -> _Fit:
    """One damped step; where it made things worse, the old point with more damping.

    Elsewhere the damping follows from how much of the promised descent came true: Nielsen, IMM-REP-1999-05.
    """
    hessian = state.data.clone()
    hessian.diagonal(dim1=1, dim2=2).add_(1)
    damped = hessian.clone()
    damped.diagonal(dim1=1, dim2=2).mul_(1 + state.damping[:, None])
    step = _solve(damped, state.gradient).nan_to_num(0.0).clamp(-LARGEST_STEP, LARGEST_STEP)
    tried = _evaluate(classes, points, state.y + step)
    promised = (step * (state.gradient - 0.5 * (hessian @ step[:, :, None])[:, :, 0])).sum(1)
    kept = (state.objective - tried.objective) / promised.clamp_min(1e-12)
    better = tried.objective < state.objective
    out = _Fit(torch.where(better[:, None], tried.values, state.values), state.dimension)
    eased = state.damping * (1 - (2 * kept - 1) ** 3).clamp(0.05, 2.0)
    out.damping.copy_(torch.where(better, eased, state.damping * 8))
    return out


def _without_worse_steps(classes: _Classes, points: _Points, state: _Fit) -> _Fit:
    """Fits whose last step, the Newton step of an anchor, is none where it leads off a curved ridge."""
    last = ((state.decrement > CONVERGED) & (state.decrement < NEAR)).nonzero()[:, 0]
    if last.numel():
        place = state.y[last] + state.newton[last].clamp(-LARGEST_STEP, LARGEST_STEP)
        tried = _evaluate(classes.at(last), points.at(last), place)
        better = tried.objective <= state.objective[last]
        state.newton[last] = torch.where(better[:, None], state.newton[last], 0.0)
    return state


def _evaluate(classes: _Classes, points: _Points, y: Tensor) -> _Fit:
    """Objective, Gauss-Newton Hessian and negative gradient at y (N, D), without scale and background."""
    d = y.shape[1]
    y = y.double()
    columns = classes.columns(y, points)
    # all that a fit needs are their products
    gram = columns @ columns.mT
    mean, spread = classes.targets[0].background
    linear = _linear(gram[:, d : d + 2, d : d + 2], gram[:, d : d + 2, d + 2], mean, spread)
    linear, held = _within(linear, gram, *classes.targets[0].least_and_most)
    scale = linear[:, :1]
    stretch = classes.width * torch.exp(-0.5 * y.square() - HALF_LOG_2PI)
    unit = torch.nn.functional.pad(stretch * scale, (0, 2), value=1.0)
    left = gram[:, :, d + 2] - (gram[:, :, d : d + 2] @ linear[:, :, None])[:, :, 0]
    hessian = gram[:, : d + 2, : d + 2] * unit[:, :, None] * unit[:, None]
    gradient = left[:, : d + 2] * unit
    squares = (left[:, d + 2] - (linear * left[:, d : d + 2]).sum(1)).clamp_min(0.0)
    tightness = (scale[:, 0] * spread).square().reciprocal()
    excess = linear[:, 1] - mean * linear[:, 0]
    if held is None:
        hessian[:, -1, -1] += tightness
        gradient[:, -1] -= tightness * excess
    else:
        hessian[:, -1, -1] += torch.where(held, HELD * hessian[:, -1, -1] + tightness, tightness)
        gradient[:, -1] = torch.where(held, 0.0, gradient[:, -1] - tightness * excess)
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
    chi2 = squares + tightness * excess.square()
    return _Fit.of(y, 0.5 * (chi2 + y.square().sum(1)), chi2, data, gradient, newton)


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


def _linear(gram: Tensor, projection: Tensor, mean: float, spread: float) -> Tensor:
    """(N, 2) scale and offset that fit best, the offset over the scale drawn to its prior.

    Args:
        gram: (N, 2, 2) products of curve and constant, over sigma.
        projection: (N, 2) those with the data.
        mean: of the prior of offset over scale.
        spread: its standard deviation.
    """
    pp, p, one = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]
    py, y = projection.unbind(1)
    scale = alone = (py / pp).abs().clamp_min(1e-30)
    for _ in range(2):
        tightness = (scale * spread).square().reciprocal()
        corner, drawn = one + tightness, torch.addcmul(y, tightness, scale, value=mean)
        product = pp * corner
        determinant = torch.maximum(torch.addcmul(product, p, p, value=-1), 1e-12 * product)
        scale = torch.addcmul(corner * py, p, drawn, value=-1) / determinant
        scale = torch.where(scale > 0, scale, alone)
    offset = torch.addcmul(pp * drawn, p, py, value=-1) / determinant
    return torch.stack([scale, offset], 1)


def _within(linear: Tensor, gram: Tensor, least: float, most: float) -> tuple[Tensor, Tensor | None]:
    """(N, 2) scale and offset, the offset over the scale held within bounds; (N,) whether it had to be.

    None instead of the latter where there are no bounds.
    """
    if math.isinf(least) and math.isinf(most):
        return linear, None
    beta = linear[:, 1] / linear[:, 0]
    held = (beta < least) | (beta > most)
    beta = beta.clamp(least, most)
    squares = gram[:, -3, -3] + beta * (2 * gram[:, -3, -2] + beta * gram[:, -2, -2])
    alone = (gram[:, -3, -1] + beta * gram[:, -2, -1]) / squares
    held &= alone > 0
    return torch.where(held[:, None], torch.stack([alone, beta * alone], 1), linear), held


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve without raising: a curve that makes no sense must not fail the others of its batch."""
    return torch.linalg.solve_ex(matrix, right).result


def _anchor(state: _Fit, batch: Measured) -> Anchor:
    points = (~batch.mask).sum(1).double()
    sound = torch.isfinite(state.objective + state.decrement) & torch.isfinite(state.data).all(2).all(1)
    if not sound.all():
        state = state.without_data(~sound)
    surplus = (state.chi2 - points - 3 * (2 * points).sqrt()).clamp_min(0.0)
    widening = 1 + torch.where(state.decrement > CONVERGED, state.decrement, 0.0) + surplus
    near = state.decrement[:, None] < NEAR
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
