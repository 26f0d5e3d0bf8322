"""`saxs1d-pr`: no particle class; u = p(r) of unit area with an unknown D_max.

The flow's parameters are log D_max, whose prior is uniform, a trace of aggregates (its share of I(0),
log-uniform, and its extent over the particle's D_max, uniform) and the logarithm of the scale I(0), flat.
Given these, the shape's z, with the prior of `shape_prior`, and the background are linear: `linear_shape`
integrates them out and draws them exactly. Rg, D_max and p(r) are those of the particle, whatever the trace.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Axis, DensityInfo, Parameter
from nfphasing_bluesky.flows import Anchor, FlowSettings
from nfphasing_bluesky.modalities import curves
from nfphasing_bluesky.modalities.curves import CurveBatch, CurveSimulation
from nfphasing_bluesky.modalities.draws import Anchors, ClassSpec, Draws, Evaluated
from nfphasing_bluesky.modalities.network import CurvePosterior, NetworkSettings
from nfphasing_bluesky.modalities.saxs1d import Saxs1D
from nfphasing_bluesky.modalities.shapes import low_q, size_curves, size_scan
from nfphasing_bluesky.modalities.shapes.linear_shape import (
    LinearPosterior,
    LinearPrior,
    condition,
    condition_alike,
    linear_prior,
)
from nfphasing_bluesky.modalities.shapes.shape_prior import COMPONENTS, GRID, ShapePrior
from nfphasing_bluesky.physics.shapes import pair_distance
from nfphasing_bluesky.physics.shapes.solutions import loose_aggregates

D_MAX_ANGSTROM = (25.0, 400.0)
AGGREGATE_SHARE = (1e-5, 0.05)
AGGREGATE_SIZE = (1.4, 4.0)

BACKGROUND_OVER_SCALE = 3e-3
"""Standard deviation of the background's prior over I(0), either sign: what buffer subtraction leaves."""

SIMULATED_SCALE = (1e-3, 1e3)

SCANNED_EXTENT = 2.5
SCANNED_SHARE = size_scan.Coefficients(
    torch.tensor([0.0] * COMPONENTS + [0.006, 0.0]), torch.tensor([1.0] * COMPONENTS + [0.011, 3e-3])
)
"""The priors as a scan of sizes takes them: each a Gaussian."""

POINTS_SCANNED = 160
CURVES_AT_ONCE, DRAWS_AT_ONCE, ONE_FRAME = 16, 64, 64

CLASSES = (
    ClassSpec(
        "any",
        ("log_d_max", "log_aggregate_share", "aggregate_size", "log_scale"),
        (math.log(D_MAX_ANGSTROM[0]), math.log(AGGREGATE_SHARE[0]), AGGREGATE_SIZE[0], -math.inf),
        (math.log(D_MAX_ANGSTROM[1]), math.log(AGGREGATE_SHARE[1]), AGGREGATE_SIZE[1], math.inf),
    ),
)

PARAMETERS = (
    Parameter("rg_angstrom", "angstrom", "radius of gyration"),
    Parameter("d_max_angstrom", "angstrom", "largest distance"),
    Parameter("aggregate_share", "", "aggregates, share of I(0)"),
    Parameter("i0", "", "forward intensity, in the frame's units"),
    Parameter("background", "", "flat background, in the frame's units"),
)


class _Constants(NamedTuple):
    """(F, 1 + C) curves of mean shape and components on the grid of q D_max; linear prior.

    `exact` are the curves in float64, (F, 2 + C) with a constant.
    """

    table: Tensor
    exact: Tensor
    prior: LinearPrior


class SaxsPairDistance(Saxs1D):
    """The modality."""

    name = "saxs1d-pr"
    parameters = PARAMETERS
    simulation = CurveSimulation(q_min=(0.005, 0.02), q_max=(0.15, 0.5), points=(64, 512), counts=(1.0, 1e7))

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or NetworkSettings(flow=FlowSettings(layers=4, hidden=96))
        self.classes = CLASSES
        self.prior = ShapePrior()
        self._made: dict[tuple[torch.device, torch.dtype], _Constants] = {}
        self.axis = torch.linspace(0.0, D_MAX_ANGSTROM[1], 201)
        axis = Axis("r", self.axis.double().numpy(), "angstrom")
        self.density_info = DensityInfo("p(r)", "1/angstrom", (axis,))
        self.debye = pair_distance.UniversalDebye(GRID, kappa_max=220.0, step=0.1)

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "SaxsPairDistance":
        """Make it from what a card and weights hold."""
        made = cls(NetworkSettings(**network) if network else None)
        if state:
            made.prior.load(state)
        return made

    def fit_prior(self, generator: torch.Generator) -> None:
        """Fit the prior of shapes to random bodies unless it is there already."""
        if not self.prior.fitted:
            self.prior.fit(generator)
            self._made.clear()

    def state(self) -> dict[str, Tensor]:
        """The prior's tensors."""
        return self.prior.state()

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Uniform between the bounds; the scale log-uniform over six decades, on which nothing depends."""
        device = generator.device
        label = torch.zeros(n, dtype=torch.long, device=device)
        lower, upper = self.bounds(label)
        lower[:, -1], upper[:, -1] = (math.log(s) for s in SIMULATED_SCALE)
        u = 0.5 + inner * (torch.rand(n, self.width, generator=generator, device=device) - 0.5)
        return Draws(label, lower + u * (upper - lower), torch.arange(n, device=device))

    def log_prior(self, draws: Draws) -> Tensor:
        """Uniform, improper (0) in the logarithm of the scale; minus infinity outside."""
        lower, upper = self.bounds(draws.label[:1])
        volume = (upper - lower)[:, :-1].log().sum()
        return torch.where(self.inside(draws), -volume, -torch.inf)

    def curve(self, draws: Draws, z: Tensor, q: Tensor) -> Tensor:
        """(N, Q) I(q) / I(0) of shapes z (N, C), aggregates included."""
        d_max, share, extent, _ = self._unpacked(draws.theta)
        weight = nn.functional.pad(z, (1, 0), value=1.0)
        table = self._constants(weight).table
        particle = self.debye.interpolate(weight @ table.T, d_max, q)
        trace = loose_aggregates(q * (d_max * extent)[:, None])
        return (1 - share[:, None]) * particle + share[:, None] * trace

    def hidden(self, draws: Draws, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw scale, relative background and shape of objects to be simulated."""
        z = self.prior.sample(len(draws), generator)
        normal = torch.randn(len(draws), generator=generator, device=generator.device)
        return {"scale": draws.theta[:, -1].exp(), "beta": BACKGROUND_OVER_SCALE * normal, "z": z}

    def pattern(self, draws: Draws, hidden: Mapping[str, Tensor], q: Tensor) -> Tensor:
        """(N, Q) expected curves of unit scale and no background."""
        return self.curve(draws, hidden["z"], q)

    def anchors(self, batch: CurveBatch) -> Anchors:
        """Where a scan of sizes puts the posterior of each frame."""

        def find(_: int, frames: Tensor) -> Anchor:
            # frames are each asked for once: as many as there are, are all of them
            return self._scanned(batch) if len(frames) == len(batch) else self._scanned(batch.at(frames))

        return Anchors(len(batch), find)

    def _scanned(self, batch: CurveBatch) -> Anchor:
        log_scale = self.resampled(batch).normalisation.double().log()
        found = []
        for rows, few in _in_parts(batch):
            frame = size_curves.Frame(few.q[:, None], few.intensity[:, None], few.root_weight[:, None])

            def gram(y: Tensor, few: CurveBatch = few, frame: size_curves.Frame = frame) -> Tensor:
                whole = size_curves.over_sigma(self._curves_of_sizes(y, few), frame)
                return whole.mT @ whole

            points = (~few.mask).sum(1).double()
            found.append(size_scan.scan(gram, SCANNED_SHARE, points, log_scale[rows]))
        if len(found) == 1:
            return found[0]
        return Anchor(
            *(torch.cat([getattr(part, f) for part in found]) for f in ("location", "factor", "features"))
        )

    def _curves_of_sizes(self, y: Tensor, few: CurveBatch) -> Tensor:
        """(B, J, Q, M + 1) curves at box coordinates y (B, J) of D_max, on the points of grouped frames.

        Of the mean shape, the components, the aggregates in place of the mean shape, and a constant. Those
        with which every scan begins are kept.
        """
        if y is size_scan.coarse_nodes(len(y), y.device):
            return few.once("curves of coarse sizes", lambda batch: self._made_of_sizes(y, batch.q))
        return self._made_of_sizes(y, few.q)

    def _made_of_sizes(self, y: Tensor, q: Tensor) -> Tensor:
        b, j = y.shape
        d_max = _d_max_at(y).flatten()
        q = q.repeat_interleave(j, 0)
        particle = self.debye.rows(self._constants(q).table, d_max, q)
        trace = loose_aggregates(q * (SCANNED_EXTENT * d_max[:, None]).to(q))
        columns = torch.cat([particle, (trace - particle[..., 0])[..., None]], 2)
        return size_curves.with_constant(columns).view(b, j, q.shape[1], -1)

    def agreement(self, batch: CurveBatch, anchors: Anchors) -> Tensor:
        """(B,) probability of the curve's beginning given the rest of it; NaN where it is not measured."""
        everyone = torch.arange(len(batch), device=batch.q.device)
        d_max = _d_max_at(anchors.get(0, everyone).location[:, 0].double())
        found = []
        for rows, few in _in_parts(batch):

            def columns(y: Tensor, few: CurveBatch = few) -> Tensor:
                return self._curves_of_sizes(y, few)

            found.append(low_q.probability(columns, few, d_max[rows], SCANNED_SHARE))
        return torch.cat(found)

    def log_likelihood(self, draws: Draws, batch: CurveBatch) -> Tensor:
        """(N,) log p(I | theta), shape and background integrated out; differentiable in theta."""
        return torch.cat([p.log_evidence for _, p, _ in self._conditioned(draws, batch)])

    def forward(self, draws: Draws, batch: CurveBatch) -> Tensor:
        """(N, Q) expected curves of unit scale and no background, of the likeliest shape for each draw."""
        z = torch.cat([p.draw(None)[:, :COMPONENTS] for _, p, _ in self._conditioned(draws, batch)])
        return self.curve(draws, z.to(draws.theta), batch.q[draws.frame])

    def evaluate(self, draws: Draws, batch: CurveBatch, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model; shape and background by their exact conditional."""
        evidence, coefficients, predicted = [], [], []
        for rows, posterior, sums in self._conditioned(draws, batch):
            linear = posterior.draw(None if noise is None else noise[rows, :-1])
            share, scale = draws.theta[rows, 1].exp(), draws.theta[rows, -1].exp()
            weight = nn.functional.pad(linear[:, :COMPONENTS], (1, 0), value=1.0)
            curve = sums.predict(weight * ((1 - share) * scale)[:, None], share * scale)
            predicted.append(curve + (scale * linear[:, -1])[:, None].to(curve))
            evidence.append(posterior.log_evidence)
            coefficients.append(linear)
        log_evidence, linear = torch.cat(evidence), torch.cat(coefficients)
        normal = torch.zeros_like(log_evidence) if noise is None else noise[:, -1].to(log_evidence)
        error = batch.q_relative_error[draws.frame].to(log_evidence)
        nuisance = {
            "scale": draws.theta[:, -1].double().exp(),
            "beta": linear[:, -1],
            "z": linear[:, :COMPONENTS].float(),
            "q_scale": curves.size_factor(error, normal),
        }
        return Evaluated(log_evidence, nuisance, torch.cat(predicted))

    def _conditioned(
        self, draws: Draws, batch: CurveBatch
    ) -> Iterator[tuple[Tensor, LinearPosterior, size_curves.Sums]]:
        """Posterior of shape and background of some rows of draws after the other, and their sums.

        A draw outside of the prior, which has no probability anyway, counts as one on its edge.
        """
        lower, upper = self.bounds(draws.label[:1])
        theta = torch.minimum(torch.maximum(draws.theta, lower), upper)
        rows = torch.arange(len(draws), device=draws.label.device)
        frames, counts = draws.frame.unique_consecutive(return_counts=True)
        if draws.theta.requires_grad or int(counts.min()) < ONE_FRAME:
            for some in rows.split(DRAWS_AT_ONCE):
                yield some, *self._of_each(theta[some], batch.at(draws.frame[some]))
            return
        for frame, mine in zip(frames, rows.split(counts.tolist()), strict=True):
            found = self._of_one_frame(theta[mine], batch.at(frame[None]))
            if found is not None:
                yield mine, *found
                continue
            for some in mine.split(DRAWS_AT_ONCE):
                yield some, *self._of_each(theta[some], batch.at(draws.frame[some]))

    def _of_each(self, theta: Tensor, batch: CurveBatch) -> tuple[LinearPosterior, size_curves.Sums]:
        """Posterior and sums of N draws with a frame each."""
        d_max, share, extent, scale = self._unpacked(theta)
        made = self._constants(theta)
        frame = size_curves.Frame(batch.q, batch.intensity, batch.root_weight)
        sums = size_curves.of_each(self.debye, made.table, d_max, d_max * extent, frame)
        return _posterior(sums, share.double(), scale.double(), made.prior, condition), sums

    def _of_one_frame(
        self, theta: Tensor, batch: CurveBatch
    ) -> tuple[LinearPosterior, size_curves.Sums] | None:
        """Posterior and sums of N draws of one frame, where they can be interpolated."""
        d_max, share, extent, scale = self._unpacked(theta)
        made = self._constants(theta)
        frame = size_curves.Frame(batch.q, batch.intensity, batch.root_weight)
        tables = made.table, made.exact
        sums = size_curves.of_one_frame(self.debye, tables, d_max, d_max * extent, frame)
        if sums is None:
            return None
        return _posterior(sums, share.double(), scale.double(), made.prior, condition_alike), sums

    def _constants(self, like: Tensor) -> _Constants:
        """What follows from the prior of shapes, on the device and in the precision of `like`."""
        key = (like.device, like.dtype)
        if key in self._made:
            return self._made[key]
        with torch.inference_mode(False):
            self.debye.to(like.device)
            table = self.debye.table(self.prior.parts(like)).T.contiguous()
            weight, centre, factor = (
                self.prior.tensors[name].to(like.device) for name in ("log_weight", "centre", "factor")
            )
            others = torch.tensor([BACKGROUND_OVER_SCALE], device=like.device)
            exact = size_curves.with_constant(table.double())
            made = _Constants(table, exact, linear_prior(weight, centre, factor, others))
        return self._made.setdefault(key, made)

    def _unpacked(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """D_max in angstrom, the aggregates' share of I(0), their extent over D_max, I(0)."""
        return theta[:, 0].exp(), theta[:, 1].exp(), theta[:, 2], theta[:, 3].exp()

    @property
    def noise_columns(self) -> int:
        """Standard normals that `evaluate` takes per draw: component, shape, background, geometry."""
        return COMPONENTS + 3

    def network(self) -> nn.Module:
        """Untrained encoder and flow."""
        return CurvePosterior(self.classes, self.settings, [size_scan.FEATURES])

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, R) p(r) of unit area, 1/angstrom."""
        d_max = (draws.theta[:, 0].exp() * nuisance["q_scale"].to(draws.theta))[:, None]
        place = self.axis.to(draws.theta)[None] / d_max * (GRID - 1)
        left = place.floor().clamp_max(GRID - 2)
        shape, index = self.prior.shape(nuisance["z"]), left.long()
        p = torch.lerp(shape.gather(1, index), shape.gather(1, index + 1), place - left)
        return torch.where(place < GRID - 1, p, 0.0) / d_max

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rg and D_max in angstrom, I(0) and background in the frame's units."""
        d_max = draws.theta[:, 0].exp() * nuisance["q_scale"].to(draws.theta)
        return {
            "rg_angstrom": d_max * self.prior.rg(nuisance["z"]),
            "d_max_angstrom": d_max,
            "aggregate_share": draws.theta[:, 1].exp(),
            "i0": nuisance["scale"].to(d_max),
            "background": (nuisance["scale"] * nuisance["beta"]).to(d_max),
        }


def _in_parts(batch: CurveBatch) -> list[tuple[slice, CurveBatch]]:
    """Rows, and these with at most `POINTS_SCANNED` points a curve, some frames after the other."""

    def make(whole: CurveBatch) -> list[tuple[slice, CurveBatch]]:
        few = curves.grouped(whole, POINTS_SCANNED)
        if len(few) <= CURVES_AT_ONCE:
            return [(slice(None), few)]
        starts = range(0, len(few), CURVES_AT_ONCE)
        return [(rows := slice(i, i + CURVES_AT_ONCE), few.each(lambda v: v[rows])) for i in starts]

    return batch.once("in parts", make)


def _d_max_at(y: Tensor) -> Tensor:
    """D_max, angstrom, at box coordinates y."""
    low, high = (math.log(d) for d in D_MAX_ANGSTROM)
    return (low + (high - low) * torch.special.ndtr(y)).exp()


def _posterior(
    sums: size_curves.Sums,
    share: Tensor,
    scale: Tensor,
    prior: LinearPrior,
    condition: Callable[[Tensor, Tensor, Tensor, LinearPrior], LinearPosterior],
) -> LinearPosterior:
    """Posterior of shape and relative background, given the aggregates' share (N,) and the scale (N,)."""
    free = slice(1, COMPONENTS + 2)
    part = (1 - share) * scale
    unit = torch.cat([part[:, None].expand(-1, COMPONENTS), scale[:, None]], 1)
    # what the data leave of mean shape and aggregates
    left = sums.gram[:, -1] - part[:, None] * sums.gram[:, 0] - (scale - part)[:, None] * sums.cross
    trace = sums.cross[:, -1] - part * sums.cross[:, 0] - (scale - part) * sums.square
    square = left[:, -1] - part * left[:, 0] - (scale - part) * trace
    gram = sums.gram[:, free, free] * unit[:, :, None] * unit[:, None, :]
    return condition(gram, left[:, free] * unit, square, prior)
