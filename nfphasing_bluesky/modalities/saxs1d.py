"""What the two 1-D SAXS modalities share: everything but the object and its curve."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import DensityInfo, Frame, Parameter, Posterior, Prediction
from nfphasing_bluesky.flows import CurveChannels, resample_curve
from nfphasing_bluesky.modalities import curves
from nfphasing_bluesky.modalities.batches import cut_to, gaussian_chi2
from nfphasing_bluesky.modalities.curves import CurveBatch, CurveSimulation
from nfphasing_bluesky.modalities.draws import Anchors, ClassSpec, Draws
from nfphasing_bluesky.modalities.network import NetworkSettings
from nfphasing_bluesky.modalities.resolution import left_out
from nfphasing_bluesky.physics.kept import kept


class Saxs1D(ABC):
    """A modality whose frames are curves I(q) = s (P(q; theta) + beta)."""

    name: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    simulation: ClassVar[CurveSimulation]
    classes: tuple[ClassSpec, ...]
    density_info: DensityInfo
    settings: NetworkSettings

    @abstractmethod
    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Draw n objects, one for each frame 0..n-1 of a batch to be simulated."""

    @abstractmethod
    def hidden(self, draws: Draws, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw what theta does not hold of objects to be simulated: (N,) scale, relative background beta."""

    @abstractmethod
    def pattern(self, draws: Draws, hidden: Mapping[str, Tensor], q: Tensor) -> Tensor:
        """(N, Q) P(q) of each object on an (N, Q) grid."""

    @abstractmethod
    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> (N,) values of every reported parameter; NaN where a class lacks it."""

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated curves cover, beam stops and cut tails included."""
        s = self.simulation
        return {
            "q_min_inv_angstrom": (0.9 * s.q_min[0], 2.5 * s.q_min[1]),
            "q_max_inv_angstrom": (0.8 * s.q_max[0], 1.1 * s.q_max[1]),
            "points": (0.5 * s.points[0], 2.0 * s.points[1]),
        }

    @property
    def width(self) -> int:
        """D of the padded theta."""
        return max(len(c.free) for c in self.classes)

    has_log_prior: ClassVar[bool] = True
    neighbours: ClassVar[int] = 0
    symmetry: ClassVar[None] = None
    sigma_floor: ClassVar[float] = 0.01
    hopeless_nats: ClassVar[float] = math.inf
    takes_bounds: ClassVar[bool] = False
    without_gradients: ClassVar[bool] = True
    training: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def doubt(self, frame: Frame, posterior: Posterior, sigma_floor: float) -> str:
        """What the resolution of the instrument, which the forward model has none of, would have changed."""
        return left_out(frame, posterior.prediction, sigma_floor)

    def latents(self, batch: CurveBatch) -> int:
        """D, whatever the curves."""
        return self.width

    def bounds(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) lower and upper bounds of the classes' boxes, zero where padded."""
        low, high = _bounds(tuple(self.classes), label.device)
        return low[label], high[label]

    def inside(self, draws: Draws) -> Tensor:
        """(N,) bool: theta within its class's box."""
        lower, upper = self.bounds(draws.label)
        return (((draws.theta >= lower) & (draws.theta <= upper)) | (upper <= lower)).all(-1)

    def simulate(self, draws: Draws, generator: torch.Generator) -> tuple[CurveBatch, Mapping[str, Tensor]]:
        """Measure N objects with a geometry that is slightly wrong; also the truth of every parameter.

        theta is the apparent object, the one that the nominal q implies; every true length is longer by the
        geometry's error. That error is independent of theta, so the flow need not learn it and the
        read-out adds it to the draws exactly.
        """
        n, device = len(draws), generator.device
        q = curves.random_q(self.simulation, n, generator)
        hidden = self.hidden(draws, generator)
        error = self.simulation.q_relative_error * torch.rand(n, generator=generator, device=device)
        expected, scale, beta = self.pattern(draws, hidden, q), hidden["scale"], hidden["beta"]
        batch = curves.perturb(q, expected, scale, beta, error, self.simulation, generator)
        factor = curves.size_factor(error, torch.randn(n, generator=generator, device=device))
        return batch, self.report(draws, hidden | {"q_scale": factor})

    def sample_like(self, batch: CurveBatch, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Objects of the prior: exposures, q ranges and noise are drawn, and a network knows them all."""
        return self.sample_prior(n, generator, inner)

    def parts(self, batch: CurveBatch, generator: torch.Generator) -> CurveBatch:
        """The curves as they are."""
        return batch

    def batch_key(self, frame: Frame) -> str:
        """Curves are padded: all share a batch."""
        return ""

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> CurveBatch:
        """Frames to one batch. Raises FrameError or GeometryError for a frame that can't be used."""
        return curves.collate(frames, sigma_floor)

    def usable(self, batch: CurveBatch) -> Tensor:
        """(B,) bool: frames with enough signal that `collate` would take them."""
        return curves.usable(batch)

    def context(self, batch: CurveBatch) -> tuple[Tensor, Tensor]:
        """Resampled channels (B, C, N) and no extra scalars (B, 0)."""
        channels = self.resampled(batch).channels
        return channels, channels.new_zeros(len(batch), 0)

    def resampled(self, batch: CurveBatch) -> CurveChannels:
        """The curves on the grid of the network."""
        grid = self.settings.encoder.grid

        def make(b: CurveBatch) -> CurveChannels:
            return resample_curve(b.q, b.intensity, b.sigma, b.mask, grid)

        return batch.once(f"resampled {grid}", make)

    @property
    def disagreement(self) -> str:
        """What a user should hear when `agreement` is too small."""
        return (
            "the lowest q do not follow from the rest of the curve: aggregates, interactions or buffer; "
            "leave them out or measure at another concentration"
        )

    def agreement(self, batch: CurveBatch, anchors: Anchors) -> Tensor:
        """(B,) NaN: particles of a class can't explain what they are not, so the chi-squared tells."""
        return batch.intensity.new_full((len(batch),), torch.nan)

    def reduced_chi2(self, batch: CurveBatch, predicted: Tensor) -> Tensor:
        """(B,) mean squared residual over sigma."""
        return gaussian_chi2(batch, predicted)

    def density_of(self, batch: CurveBatch, index: int) -> DensityInfo:
        """What u is for one frame: its units may depend on what is known of the frame."""
        return self.density_info

    def on_frame(
        self, frame: Frame, draws: Draws, nuisance: Mapping[str, Tensor], prediction: Prediction
    ) -> Prediction:
        """Prediction at the points that the curve has."""
        return cut_to(frame, prediction)

    def seen(self, batch: CurveBatch) -> Tensor:
        """(B, N) bool: all points of the density."""
        return torch.ones(len(batch), *self.density_info.shape, dtype=torch.bool)

    def features(self, batch: CurveBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties that `ranges` bounds."""
        return curves.features(batch)

    def state(self) -> dict[str, Tensor]:
        """Tensors of the prior that belong into the weights: none unless the prior was learnt."""
        return {}

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:  # noqa: B027  anchors do
        """Nothing: the flow begins at the anchors."""

    def settle(self, network: nn.Module, generator: torch.Generator) -> None:  # noqa: B027  calibrated as it is
        """Nothing to adjust."""

    def fit_prior(self, generator: torch.Generator) -> None:  # noqa: B027  most priors are analytic
        """Make the prior ready to be sampled; nothing to do where it is analytic."""


@kept(16)
def _bounds(classes: tuple[ClassSpec, ...], device: torch.device) -> Tensor:
    """(2, K, D) lower and upper bounds of the boxes of K classes."""
    table = torch.zeros(2, len(classes), max(len(c.free) for c in classes))
    for own, spec in zip(table.unbind(1), classes, strict=True):
        own[:, : len(spec.free)] = torch.tensor([spec.lower, spec.upper])
    return table.to(device)
