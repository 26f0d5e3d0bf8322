"""`saxs1d-pr`: no particle class; u = p(r) of unit area with an unknown D_max.

sqrt p(x) = sum_k c_k sin(k pi x) with x = r / D_max, so p is never negative and vanishes at both ends.
The free coordinates are log D_max and z, the whitened principal components of c_2..c_K over c_1. The
prior of z is a flow fitted to random bodies (physics/bodies.py); that flow *is* the prior, also of the
simulations, so log p(theta) is exact. The prior of log D_max is uniform.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.core import Axis, DensityInfo, ModelError, Parameter
from nfphasing_bluesky.flows import FlowSettings, build_flow
from nfphasing_bluesky.modalities.base import ClassSpec, Draws
from nfphasing_bluesky.modalities.curves import CurveSimulation
from nfphasing_bluesky.modalities.linear import BackgroundPrior
from nfphasing_bluesky.modalities.network import NetworkSettings
from nfphasing_bluesky.modalities.saxs1d import Saxs1D
from nfphasing_bluesky.physics import bodies, pair_distance
from nfphasing_bluesky.physics.solutions import with_aggregates, with_fluctuations

COEFFICIENTS = 14
D_MAX_ANGSTROM = (25.0, 400.0)
Z_BOUND = 8.0
SHAPES = 40_000
AGGREGATED = 0.35

CLASSES = (
    ClassSpec(
        "any",
        ("log_d_max", *(f"z_{i}" for i in range(1, COEFFICIENTS))),
        (math.log(D_MAX_ANGSTROM[0]), *([-Z_BOUND] * (COEFFICIENTS - 1))),
        (math.log(D_MAX_ANGSTROM[1]), *([Z_BOUND] * (COEFFICIENTS - 1))),
    ),
)

PARAMETERS = (
    Parameter("rg_angstrom", "angstrom", "radius of gyration"),
    Parameter("d_max_angstrom", "angstrom", "largest distance"),
    Parameter("i0", "", "forward intensity, in the frame's units"),
    Parameter("background", "", "flat background, in the frame's units"),
)


class ShapePrior:
    """Distribution of z: whitening of the sine coefficients and an unconditional flow."""

    settings = FlowSettings(layers=6, hidden=96, standardiser="affine", head_hidden=16, head_blocks=0)

    def __init__(self) -> None:
        dimension = COEFFICIENTS - 1
        self.mean = torch.zeros(dimension)
        self.colour = torch.eye(dimension)
        bound = torch.full((dimension,), Z_BOUND)
        self.flow = build_flow(dimension, 1, -bound, bound, self.settings)
        self.fitted = False

    def coefficients(self, z: Tensor) -> Tensor:
        """(N, K) sine coefficients of whitened z (N, K - 1)."""
        ratio = self.mean.to(z) + z @ self.colour.to(z).T
        return torch.cat([torch.ones_like(ratio[:, :1]), ratio], dim=1)

    def whiten(self, c: Tensor) -> Tensor:
        """Inverse of `coefficients`."""
        ratio = c[:, 1:] / c[:, :1]
        return torch.linalg.solve(self.colour.to(c), (ratio - self.mean.to(c)).T).T

    def fit(self, generator: torch.Generator, epochs: int = 12, batch: int = 512) -> None:
        """Fit whitening and flow to random bodies as solutions hold them."""
        coefficients = bodies.sample_shapes(SHAPES, generator, coefficients=COEFFICIENTS)
        coefficients = with_fluctuations(coefficients.double(), generator)
        coefficients = with_aggregates(coefficients, AGGREGATED, generator).float()
        coefficients = coefficients[coefficients[:, 0].abs() > 0.3]
        if not self.fitted:
            self._fit_whitening(coefficients)
        z = self.whiten(coefficients)
        z = z[(z.abs() < 0.95 * Z_BOUND).all(1)]
        self._fit_flow(z, generator, epochs, batch)

    def _fit_whitening(self, coefficients: Tensor) -> None:
        ratio = coefficients[:, 1:] / coefficients[:, :1]
        self.mean = ratio.mean(0)
        variance, axes = torch.linalg.eigh(torch.cov(ratio.T))
        self.colour = (axes * variance.clamp_min(1e-12).sqrt()).flip(1).contiguous()

    def _fit_flow(self, z: Tensor, generator: torch.Generator, epochs: int, batch: int) -> None:
        self.flow.requires_grad_(True)
        optimiser = torch.optim.Adam(self.flow.parameters(), lr=2e-3)
        steps = epochs * (len(z) // batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            index = torch.randint(len(z), (batch,), generator=generator)
            loss = -self.log_prob(z[index]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        self.flow.requires_grad_(False)
        self.fitted = True

    def log_prob(self, z: Tensor) -> Tensor:
        """(N,) log density of z."""
        return self._distribution(z).log_prob(z)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, K - 1) draws."""
        if not self.fitted:
            raise ModelError("the prior of p(r) was not fitted; call fit_prior, or load a trained model")
        noise = torch.randn(n, COEFFICIENTS - 1, generator=generator, device=generator.device)
        with torch.no_grad():
            return self._distribution(noise).from_latent(noise)[0]

    def _distribution(self, like: Tensor):
        if self.mean.device != like.device:
            self.mean, self.colour = self.mean.to(like.device), self.colour.to(like.device)
            self.flow.to(like.device)
        return self.flow(torch.zeros(len(like), 1, device=like.device))

    def state(self) -> dict[str, Tensor]:
        """Tensors for the weights file."""
        flow = {f"flow.{k}": v for k, v in self.flow.state_dict().items()}
        return {"mean": self.mean, "colour": self.colour, **flow}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.mean, self.colour = state["mean"], state["colour"]
        self.flow.load_state_dict(
            {k.removeprefix("flow."): v for k, v in state.items() if k.startswith("flow.")}
        )
        self.flow.requires_grad_(False)
        self.fitted = True


class SaxsPairDistance(Saxs1D):
    """The modality."""

    name = "saxs1d-pr"
    parameters = PARAMETERS
    simulation = CurveSimulation(q_min=(0.005, 0.02), q_max=(0.15, 0.5), points=(64, 512), counts=(1e2, 1e7))
    background = BackgroundPrior(-5e-3, 5e-3, "uniform")

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        self.settings = settings or NetworkSettings(flow=FlowSettings(layers=8, hidden=128))
        self.classes = CLASSES
        self.prior = ShapePrior()
        self.axis = torch.linspace(0.0, D_MAX_ANGSTROM[1], 201)
        axis = Axis("r", self.axis.double().numpy(), "angstrom")
        self.density_info = DensityInfo("p(r)", "1/angstrom", (axis,))
        self.debye = pair_distance.UniversalDebye.on_coefficients(COEFFICIENTS, kappa_max=220.0)

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

    def state(self) -> dict[str, Tensor]:
        """The prior's tensors."""
        return self.prior.state()

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Log-uniform D_max, shapes of the prior flow."""
        device = generator.device
        low, high = (math.log(d) for d in D_MAX_ANGSTROM)
        u = 0.5 + inner * (torch.rand(n, 1, generator=generator, device=device) - 0.5)
        size = low + (high - low) * u
        theta = torch.cat([size, self.prior.sample(n, generator)], dim=1)
        return Draws(torch.zeros(n, dtype=torch.long, device=device), theta, torch.arange(n, device=device))

    def log_prior(self, draws: Draws) -> Tensor:
        """Uniform in log D_max times the shape prior; minus infinity outside."""
        width = math.log(D_MAX_ANGSTROM[1] / D_MAX_ANGSTROM[0])
        value = self.prior.log_prob(draws.theta[:, 1:]) - math.log(width)
        return torch.where(self.inside(draws), value, -torch.inf)

    def curve(self, draws: Draws, q: Tensor) -> Tensor:
        """(N, Q) I(q) / I(0)."""
        if self.debye.matrix.device != q.device:
            self.debye.to(q.device)
        c = self.prior.coefficients(draws.theta[:, 1:])
        return self.debye(c, draws.theta[:, 0].exp(), q)

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, R) p(r) of unit area, 1/angstrom."""
        d_max = (draws.theta[:, 0].exp() * nuisance["q_scale"].to(draws.theta))[:, None]
        x = self.axis.to(draws.theta)[None] / d_max
        p = pair_distance.p_from_coefficients(self.prior.coefficients(draws.theta[:, 1:]), x.clamp_max(1.0))
        return torch.where(x < 1, p, 0.0) / d_max

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rg and D_max in angstrom, I(0) and background in the frame's units."""
        d_max = draws.theta[:, 0].exp() * nuisance["q_scale"].to(draws.theta)
        rg = d_max * pair_distance.rg_over_dmax(self.prior.coefficients(draws.theta[:, 1:]))
        scale, beta = nuisance["scale"].to(d_max), nuisance["beta"].to(d_max)
        return {"rg_angstrom": rg, "d_max_angstrom": d_max, "i0": scale, "background": scale * beta}
