"""What modalities of curves share whose theta are places between bounds, 0 to 1, uniform in the prior.

Curves are I = s (P + beta): scale and background are linear, integrated out and drawn exactly.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import DensityInfo, Frame
from nfphasing_bluesky.flows import Box, LocalFits
from nfphasing_bluesky.modalities.batches import gaussian_chi2
from nfphasing_bluesky.modalities.draws import ClassSpec, Draws
from nfphasing_bluesky.modalities.linear import BackgroundPrior, ScaleBackground, condition_draws

SHARPNESS = 0.5
"""Of the evidence of fits in their shares: Gaussians are rough estimates of it."""


@cache
def unit_box(width: int, device: torch.device) -> Box:
    """Of coordinates between 0 and 1, float64."""
    return Box(torch.zeros(width), torch.ones(width)).to(device, torch.float64)


class UnitBox(ABC):
    """A modality of several classes, each with a box of its own, cut to 0..1."""

    classes: ClassVar[tuple[ClassSpec, ...]]
    width: ClassVar[int]
    background: ClassVar[BackgroundPrior]
    has_log_prior: ClassVar[bool] = True
    neighbours: ClassVar[int] = 0
    symmetry: ClassVar[None] = None
    density_info: DensityInfo

    @abstractmethod
    def forward(self, draws: Draws, batch: Any) -> Tensor:
        """(N, Q) expected curve of unit scale and no background; differentiable in theta."""

    def latents(self, batch: Any) -> int:
        """D, whatever the curves."""
        return self.width

    def fit_prior(self, generator: torch.Generator) -> None:  # noqa: B027  analytic priors need nothing
        """Nothing: it is analytic."""

    def state(self) -> dict[str, Tensor]:
        """None: the prior is analytic."""
        return {}

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:  # noqa: B027  starts well
        """Nothing: the flow begins at its anchors."""

    def settle(self, network: nn.Module, generator: torch.Generator) -> None:  # noqa: B027  calibrated as it is
        """Nothing to adjust."""

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Equal shares of the classes (in random order), uniform in each class's box."""
        device = generator.device
        label = torch.arange(n, device=device) % len(self.classes)
        label = label[torch.randperm(n, generator=generator, device=device)]
        u = 0.5 + inner * (torch.rand(n, self.width, generator=generator, device=device) - 0.5)
        return Draws(label, u * self._own(label), torch.arange(n, device=device))

    def sample_like(self, batch: Any, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Samples of the prior: geometries, bounds and noise are drawn, and a network knows them all."""
        return self.sample_prior(n, generator, inner)

    def _own(self, label: Tensor) -> Tensor:
        """(N, D) 1 where a class has a parameter, 0 where theta is padded."""
        count = torch.tensor([len(c.free) for c in self.classes], device=label.device)
        return (torch.arange(self.width, device=label.device) < count[label][:, None]).float()

    def log_prior(self, draws: Draws) -> Tensor:
        """-log K inside; minus infinity outside. Densities are per unit of the way between the bounds."""
        inside = ((draws.theta >= 0) & (draws.theta <= 1)).all(1)
        zero = draws.theta.new_zeros(len(draws))
        return torch.where(inside, zero - math.log(len(self.classes)), -torch.inf)

    def parts(self, batch: Any, generator: torch.Generator) -> Any:
        """The curves as they are."""
        return batch

    def batch_key(self, frame: Frame) -> str:
        """Curves are padded: all share a batch."""
        return ""

    def reduced_chi2(self, batch: Any, predicted: Tensor) -> Tensor:
        """(B,) mean squared residual over sigma."""
        return gaussian_chi2(batch, predicted)

    def log_likelihood(self, draws: Draws, batch: Any) -> Tensor:
        """(N,) log p(I | theta), scale and background integrated out; differentiable in theta."""
        return self._condition(draws, batch)[0].log_evidence

    def _condition(self, draws: Draws, batch: Any) -> tuple[ScaleBackground, Tensor]:
        """Scale and background given each draw, and its curve (N, Q)."""
        shape = self.forward(draws, batch)
        return condition_draws(shape, draws, batch, self.background), shape

    def _weighed(self, k: int, location: Tensor, factor: Tensor, batch: Any) -> LocalFits:
        """Fits (B, C, D) of class k with their factors, each as probable as the Gaussian around it says."""
        b, count, width = location.shape
        theta, _ = unit_box(width, location.device).inverse(location.double(), location)
        draws = Draws(
            torch.full((b * count,), k, device=theta.device),
            nn.functional.pad(theta.flatten(0, 1).to(location), (0, self.width - width)),
            torch.arange(b, device=theta.device).repeat_interleave(count),
        )
        level = self.log_likelihood(draws, batch).view(b, count) - 0.5 * location.square().sum(2)
        evidence = level + factor.diagonal(dim1=2, dim2=3).log().sum(2)
        evidence = torch.where(torch.isfinite(evidence), evidence, -torch.inf)
        return LocalFits(location, factor, (SHARPNESS * evidence).log_softmax(1).nan_to_num(nan=-torch.inf))

    def _linear(self, nuisance: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
        """Scale and background as they are reported."""
        scale = nuisance["scale"]
        return {"scale": scale.to(like), "background": (scale * nuisance["beta"]).to(like)}

    def density_of(self, batch: Any, index: int) -> DensityInfo:
        """The same for all frames: critical angles and fringes tell densities without a scale."""
        return self.density_info

    def seen(self, batch: Any) -> Tensor:
        """(B, Z) bool: all depths."""
        return torch.ones(len(batch), *self.density_info.shape, dtype=torch.bool)
