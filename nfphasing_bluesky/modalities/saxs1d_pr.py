"""`saxs1d-pr`: no particle class; u = p(r) of unit area with an unknown D_max.

The free coordinates are log D_max, whose prior is uniform, the shape's z with the prior of `shape_prior`, and
a trace of aggregates: its share of I(0), log-uniform, and its extent over the particle's D_max, uniform. So
log p(theta) is exact, and Rg, D_max and p(r) are those of the particle, whatever the trace.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Axis, DensityInfo, Parameter
from nfphasing_bluesky.flows import HALF_LOG_2PI, FlowSettings
from nfphasing_bluesky.modalities.anchors import PriorAt, uniform_prior
from nfphasing_bluesky.modalities.base import ClassSpec, Draws
from nfphasing_bluesky.modalities.curves import CurveSimulation
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.modalities.network import NetworkSettings
from nfphasing_bluesky.modalities.saxs1d import Saxs1D
from nfphasing_bluesky.modalities.shape_prior import COMPONENTS, GRID, Z_BOUND, ShapePrior
from nfphasing_bluesky.physics import pair_distance
from nfphasing_bluesky.physics.solutions import loose_aggregates

D_MAX_ANGSTROM = (25.0, 400.0)
AGGREGATE_SHARE = (1e-4, 0.05)
AGGREGATE_SIZE = (1.4, 4.0)

SHAPE = slice(1, COMPONENTS + 1)

CLASSES = (
    ClassSpec(
        "any",
        ("log_d_max", *(f"z_{i}" for i in range(1, COMPONENTS + 1)), "log_aggregate_share", "aggregate_size"),
        (
            math.log(D_MAX_ANGSTROM[0]),
            *([-Z_BOUND] * COMPONENTS),
            math.log(AGGREGATE_SHARE[0]),
            AGGREGATE_SIZE[0],
        ),
        (
            math.log(D_MAX_ANGSTROM[1]),
            *([Z_BOUND] * COMPONENTS),
            math.log(AGGREGATE_SHARE[1]),
            AGGREGATE_SIZE[1],
        ),
    ),
)

PARAMETERS = (
    Parameter("rg_angstrom", "angstrom", "radius of gyration"),
    Parameter("d_max_angstrom", "angstrom", "largest distance"),
    Parameter("aggregate_share", "", "aggregates, share of I(0)"),
    Parameter("i0", "", "forward intensity, in the frame's units"),
    Parameter("background", "", "flat background, in the frame's units"),
)


class SaxsPairDistance(Saxs1D):
    """The modality."""

    name = "saxs1d-pr"
    parameters = PARAMETERS
    simulation = CurveSimulation(q_min=(0.005, 0.02), q_max=(0.15, 0.5), points=(64, 512), counts=(1.0, 1e7))
    background = BackgroundPrior(-5e-3, 5e-3, "uniform")

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or NetworkSettings(flow=FlowSettings(layers=6, hidden=96))
        self.classes = CLASSES
        self.prior = ShapePrior()
        self._rows: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.axis = torch.linspace(0.0, D_MAX_ANGSTROM[1], 201)
        axis = Axis("r", self.axis.double().numpy(), "angstrom")
        self.density_info = DensityInfo("p(r)", "1/angstrom", (axis,))
        self.debye = pair_distance.UniversalDebye(GRID, kappa_max=220.0)

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
            self._rows.clear()

    def state(self) -> dict[str, Tensor]:
        """The prior's tensors."""
        return self.prior.state()

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Shapes of the shape prior; the rest uniform between the bounds."""
        device = generator.device
        label = torch.zeros(n, dtype=torch.long, device=device)
        lower, upper = self.bounds(label)
        u = 0.5 + inner * (torch.rand(n, self.width, generator=generator, device=device) - 0.5)
        theta = lower + u * (upper - lower)
        theta[:, SHAPE] = self.prior.sample(n, generator)
        return Draws(label, theta, torch.arange(n, device=device))

    def log_prior(self, draws: Draws) -> Tensor:
        """Uniform times the shape prior; minus infinity outside."""
        lower, upper = self.bounds(draws.label[:1])
        volume = (upper - lower).log().sum() - (upper - lower)[:, SHAPE].log().sum()
        value = self.prior.log_prob(draws.theta[:, SHAPE]) - volume
        return torch.where(self.inside(draws), value, -torch.inf)

    def prior_at(self, k: int, y: Tensor) -> PriorAt:
        """Prior at box coordinates y (N, D)."""
        out = uniform_prior(y)
        inner = y[:, SHAPE]
        slope = 2 * Z_BOUND * (-0.5 * inner.square() - HALF_LOG_2PI).exp()
        shape = self.prior.at((2 * torch.special.ndtr(inner) - 1) * Z_BOUND)
        gradient, precision = out.gradient.clone(), out.precision.clone()
        gradient[:, SHAPE] += shape.gradient * slope
        precision[:, SHAPE, SHAPE] = slope[:, :, None] * shape.precision * slope[:, None, :]
        return PriorAt(out.value + shape.value, gradient, precision)

    def curve(self, draws: Draws, q: Tensor) -> Tensor:
        """(N, Q) I(q) / I(0), aggregates included."""
        d_max, share, size = self._sizes(draws.theta)
        weight = nn.functional.pad(draws.theta[:, SHAPE], (1, 0), value=1.0)
        particle = self.debye.interpolate(weight @ self._table(weight).T, d_max, q)
        trace, _ = loose_aggregates(q * (d_max * size)[:, None])
        return (1 - share[:, None]) * particle + share[:, None] * trace

    def slopes(self, k: int, theta: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Q) I(q) / I(0) and its (N, D, Q) derivatives by theta; by z it is linear."""
        d_max, share, size = self._sizes(theta)
        values, by_kappa = self.debye.rows(self._table(theta), d_max, q)
        weight = nn.functional.pad(theta[:, SHAPE], (1, 0), value=1.0)
        particle = (values @ weight[:, :, None])[:, :, 0]
        by_size = (by_kappa @ weight[:, :, None])[:, :, 0] * (q * d_max[:, None])
        trace, change = loose_aggregates(q * (d_max * size)[:, None])
        share = share[:, None]
        slopes = torch.empty(*theta.shape, q.shape[1], device=q.device)
        slopes[:, 0] = (1 - share) * by_size + share * change
        slopes[:, SHAPE] = ((1 - share)[:, :, None] * values[:, :, 1:]).mT
        slopes[:, -2] = share * (trace - particle)
        slopes[:, -1] = share * change / size[:, None]
        return (1 - share) * particle + share * trace, slopes

    def _table(self, like: Tensor) -> Tensor:
        """(F, 1 + D) curves of the mean shape and of the components on the grid of q D_max."""
        key = (like.device, like.dtype)
        if key not in self._rows:
            self.debye.to(like.device)
            self._rows[key] = self.debye.table(self.prior.parts(like)).T.contiguous()
        return self._rows[key]

    def _sizes(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D_max in angstrom, the aggregates' share of I(0), their extent over D_max."""
        return theta[:, 0].exp(), theta[:, -2].exp(), theta[:, -1]

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, R) p(r) of unit area, 1/angstrom."""
        d_max = (draws.theta[:, 0].exp() * nuisance["q_scale"].to(draws.theta))[:, None]
        place = self.axis.to(draws.theta)[None] / d_max * (GRID - 1)
        left = place.floor().clamp_max(GRID - 2)
        shape, index = self.prior.shape(draws.theta[:, SHAPE]), left.long()
        p = torch.lerp(shape.gather(1, index), shape.gather(1, index + 1), place - left)
        return torch.where(place < GRID - 1, p, 0.0) / d_max

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rg and D_max in angstrom, I(0) and background in the frame's units."""
        d_max = draws.theta[:, 0].exp() * nuisance["q_scale"].to(draws.theta)
        rg = d_max * self.prior.rg(draws.theta[:, SHAPE])
        scale, beta = nuisance["scale"].to(d_max), nuisance["beta"].to(d_max)
        return {
            "rg_angstrom": rg,
            "d_max_angstrom": d_max,
            "aggregate_share": draws.theta[:, -2].exp(),
            "i0": scale,
            "background": scale * beta,
        }
