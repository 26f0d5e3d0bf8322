"""What the two 1-D SAXS modalities share: everything but the object and its curve."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import DensityInfo, Frame, Parameter
from nfphasing_bluesky.flows import Anchor, Box, resample_curve
from nfphasing_bluesky.modalities import curves
from nfphasing_bluesky.modalities.anchors import (
    LIBRARY,
    Library,
    PriorAt,
    Target,
    finite_differences,
    fit,
    uniform_prior,
)
from nfphasing_bluesky.modalities.base import Anchors, ClassSpec, Draws, Evaluated
from nfphasing_bluesky.modalities.curves import CurveBatch, CurveSimulation
from nfphasing_bluesky.modalities.linear import BackgroundPrior, condition
from nfphasing_bluesky.modalities.network import CurvePosterior, NetworkSettings

NOISE_COLUMNS = 3


class Saxs1D(ABC):
    """A modality whose frames are curves I(q) = s (P(q; theta) + beta)."""

    name: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    simulation: ClassVar[CurveSimulation]
    background: ClassVar[BackgroundPrior]
    classes: tuple[ClassSpec, ...]
    density_info: DensityInfo
    settings: NetworkSettings

    def __init__(self) -> None:
        self._boxes: dict[tuple[int, torch.device], Box] = {}
        self._libraries: dict[int, Library] = {}

    @abstractmethod
    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Draw n objects, one for each frame 0..n-1 of a batch to be simulated."""

    @abstractmethod
    def curve(self, draws: Draws, q: Tensor) -> Tensor:
        """(N, Q) P(q) of each draw on an (N, Q) grid, differentiable in theta."""

    @abstractmethod
    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> (N,) values of every reported parameter; NaN where a class lacks it."""

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated curves cover."""
        s = self.simulation
        return {
            "q_min_inv_angstrom": (0.9 * s.q_min[0], 1.25 * s.q_min[1]),
            "q_max_inv_angstrom": (0.9 * s.q_max[0], 1.1 * s.q_max[1]),
            "points": (0.5 * s.points[0], 2.0 * s.points[1]),
        }

    @property
    def width(self) -> int:
        """D of the padded theta."""
        return max(len(c.free) for c in self.classes)

    @property
    def noise_columns(self) -> int:
        """Standard normals that `evaluate` takes per draw."""
        return NOISE_COLUMNS

    def box(self, k: int, device: torch.device | str = "cpu") -> Box:
        """Box of the free parameters of class k, float64."""
        key = (k, torch.device(device))
        if key not in self._boxes:
            spec = self.classes[k]
            box = Box(torch.tensor(spec.lower), torch.tensor(spec.upper))
            self._boxes[key] = box.to(device, torch.float64)
        return self._boxes[key]

    def bounds(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) lower and upper bounds of the classes' boxes, zero where padded."""
        table = torch.zeros(2, len(self.classes), self.width)
        for k, spec in enumerate(self.classes):
            table[0, k, : len(spec.free)] = torch.tensor(spec.lower)
            table[1, k, : len(spec.free)] = torch.tensor(spec.upper)
        low, high = table.to(label.device)
        return low[label], high[label]

    def inside(self, draws: Draws) -> Tensor:
        """(N,) bool: theta within its class's box."""
        lower, upper = self.bounds(draws.label)
        return (((draws.theta >= lower) & (draws.theta <= upper)) | (upper <= lower)).all(-1)

    def forward(self, draws: Draws, batch: CurveBatch) -> Tensor:
        """(N, Q) P(q) of each draw on its frame's q."""
        return self.curve(draws, batch.q[draws.frame])

    def simulate(self, draws: Draws, generator: torch.Generator) -> tuple[CurveBatch, Mapping[str, Tensor]]:
        """Measure N objects with a geometry that is slightly wrong; also the truth of every parameter.

        theta is the apparent object, the one that the nominal q implies; every true length is longer by the
        geometry's error. That error is independent of theta, so the flow need not learn it and the
        read-out adds it to the draws exactly.
        """
        n, device = len(draws), generator.device
        q = curves.random_q(self.simulation, n, generator)
        beta = self.background.sample(n, generator)
        scale = curves.log_uniform((1e-3, 1e3), n, generator)
        error = self.simulation.q_relative_error * torch.rand(n, generator=generator, device=device)
        batch = curves.perturb(q, self.curve(draws, q), scale, beta, error, self.simulation, generator)
        factor = curves.size_factor(error, torch.randn(n, generator=generator, device=device))
        return batch, self.report(draws, _nuisance(scale, beta, factor, batch, draws))

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> CurveBatch:
        """Frames to one batch. Raises FrameError or GeometryError for a frame that can't be used."""
        return curves.collate(frames, sigma_floor)

    def usable(self, batch: CurveBatch) -> Tensor:
        """(B,) bool: frames with enough signal that `collate` would take them."""
        return curves.usable(batch)

    def context(self, batch: CurveBatch) -> tuple[Tensor, Tensor]:
        """Resampled channels (B, C, N) and no extra scalars (B, 0)."""
        grid = self.settings.encoder.grid
        channels = resample_curve(batch.q, batch.intensity, batch.sigma, batch.mask, grid).channels
        return channels, channels.new_zeros(len(batch), 0)

    def anchors(self, batch: CurveBatch) -> Anchors:
        """Where a fit of each class puts the posterior of each frame, found when asked for."""

        def find(k: int, frames: Tensor) -> Anchor:
            if k not in self._libraries:
                self._libraries[k] = self._library(k)
            return fit(self._target(k, batch.q.device), self._libraries[k], batch.at(frames))

        return Anchors(len(batch), find)

    def prior_at(self, k: int, y: Tensor) -> PriorAt:
        """Prior of class k at box coordinates y (N, D)."""
        return uniform_prior(y)

    def slopes(self, k: int, theta: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Q) P(q) of class k and its (N, D, Q) derivatives by theta (N, D)."""
        box = self.box(k, theta.device)
        return finite_differences(lambda t, x: self.curve(self._draws(k, t), x), box, theta, q)

    def _draws(self, k: int, theta: Tensor) -> Draws:
        """Unpadded parameters of class k as draws of frames 0..N-1."""
        label = torch.full((len(theta),), k, device=theta.device)
        padded = nn.functional.pad(theta, (0, self.width - theta.shape[1]))
        return Draws(label, padded, torch.arange(len(theta), device=theta.device))

    def _target(self, k: int, device: torch.device | str = "cpu") -> Target:
        return Target(
            box=self.box(k, device),
            curve=lambda theta, q: self.curve(self._draws(k, theta), q),
            slopes=lambda theta, q: self.slopes(k, theta, q),
            prior=lambda y: self.prior_at(k, y),
            background=self.background.moments(),
        )

    def _library(self, k: int) -> Library:
        """Prior objects of class k, always the same ones."""
        generator = torch.Generator().manual_seed(k)
        theta = self.sample_prior(LIBRARY * len(self.classes), generator)
        mine = theta.theta[theta.label == k, : len(self.classes[k].free)].double()
        y, _ = self.box(k)(mine, mine)
        return Library(y.clamp(-4, 4).float(), self._target(k), self.settings.encoder.grid)

    def log_likelihood(self, draws: Draws, batch: CurveBatch) -> Tensor:
        """(N,) log p(I | theta), scale and background integrated out; differentiable in theta."""
        return self._condition(draws, batch)[0].log_evidence

    def evaluate(self, draws: Draws, batch: CurveBatch, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model; scale and background by their exact conditional."""
        linear, shape = self._condition(draws, batch)
        scale, beta = linear.draw(noise)
        normal = torch.zeros_like(scale) if noise is None else noise[:, 2].to(scale)
        factor = curves.size_factor(batch.q_relative_error[draws.frame].to(scale), normal)
        predicted = (scale[:, None] * (shape + beta[:, None])).to(shape.dtype)
        return Evaluated(linear.log_evidence, _nuisance(scale, beta, factor, batch, draws), predicted)

    def _condition(self, draws: Draws, batch: CurveBatch):
        shape = self.forward(draws, batch)
        weight, intensity = batch.weight, batch.intensity
        each = len(draws) // len(batch)
        together = torch.arange(len(batch), device=draws.frame.device).repeat_interleave(each)
        if not torch.equal(together, draws.frame):
            weight, intensity = weight[draws.frame], intensity[draws.frame]
        return condition(shape, intensity, weight, self.background), shape

    def density_of(self, batch: CurveBatch, index: int) -> DensityInfo:
        """What u is for one frame: its units may depend on what is known of the frame."""
        return self.density_info

    def features(self, batch: CurveBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties that `ranges` bounds."""
        return curves.features(batch)

    def network(self) -> nn.Module:
        """Untrained encoder, class head and one flow per class."""
        return CurvePosterior(self.classes, self.settings)

    def state(self) -> dict[str, Tensor]:
        """Tensors of the prior that belong into the weights: none unless the prior was learnt."""
        return {}

    def fit_prior(self, generator: torch.Generator) -> None:  # noqa: B027  most priors are analytic
        """Make the prior ready to be sampled; nothing to do where it is analytic."""


def _nuisance(
    scale: Tensor, beta: Tensor, q_scale: Tensor, batch: CurveBatch, draws: Draws
) -> dict[str, Tensor]:
    contrast = batch.contrast[draws.frame]
    known = torch.where(contrast.isfinite(), contrast, 1.0)
    return {"scale": scale, "beta": beta, "q_scale": q_scale, "contrast": known}
