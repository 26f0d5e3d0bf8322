"""The one protocol: everything that differs between modalities, behind names the other rooms share.

Dimension letters: B frames of a batch, S draws of one frame, N draws in a flat list, D free parameters,
K classes, Q points of a curve.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import DensityInfo, Frame, Parameter, Prediction, Settings, Symmetry
from nfphasing_bluesky.flows import Anchor


class Batch(Protocol):
    """Frames as tensors on one device. Each modality has its own fields."""

    def __len__(self) -> int: ...

    def at(self, index: Tensor) -> Self:
        """Return the frames that an index or a boolean mask picks."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on another device."""
        ...


@dataclass(frozen=True)
class Draws:
    """N parameter vectors, each of one class and for one frame of a batch.

    Args:
        label: (N,) int64, class.
        theta: (N, D) free parameters, the class's own first, zeros behind.
        frame: (N,) int64, index of the frame in its batch.
    """

    label: Tensor
    theta: Tensor
    frame: Tensor

    def __len__(self) -> int:
        return self.label.numel()

    def at(self, index: Tensor) -> "Draws":
        """Return the draws that an index or a boolean mask picks."""
        return Draws(self.label[index], self.theta[index], self.frame[index])


class Anchors:
    """Anchors of B frames for K classes, found when first asked for and then kept.

    A modality of one class may keep several answers of it as if they were classes.

    Args:
        frames: B.
        find: of a class and the indices of frames, the anchors of those; None when all are put in.
    """

    def __init__(self, frames: int, find: Callable[[int, Tensor], Anchor] | None = None) -> None:
        self._find = find
        self._frames = frames
        self._kept: dict[int, tuple[Anchor, Tensor]] = {}

    def put(self, k: int, frames: Tensor, anchor: Anchor) -> None:
        """Keep anchors of class k for some frames."""
        if k not in self._kept:
            parts = (anchor.location, anchor.factor, anchor.features)
            empty = Anchor(*(p.new_zeros(self._frames, *p.shape[1:]) for p in parts))
            known = torch.zeros(self._frames, dtype=torch.bool, device=frames.device)
            self._kept[k] = (empty, known)
        kept, known = self._kept[k]
        kept.location[frames], kept.factor[frames] = anchor.location, anchor.factor
        kept.features[frames] = anchor.features
        known[frames] = True

    def get(self, k: int, frames: Tensor) -> Anchor:
        """Anchors of class k for some frames, in their order."""
        missing = frames
        if k in self._kept:
            missing = frames[~self._kept[k][1][frames]]
        if missing.numel():
            if self._find is None:
                raise LookupError(f"{missing.numel()} frames have no anchor of class {k}")
            missing = missing.unique()
            self.put(k, missing, self._find(k, missing))
        return self._kept[k][0].at(frames)


@dataclass(frozen=True)
class Evaluated:
    """What the forward model says about N draws.

    Args:
        log_likelihood: (N,) log p(I | theta) with linear nuisances integrated out, up to a constant of
            the frame.
        nuisance: name -> (N, ...) draws of what is linear from their exact conditional.
        predicted: (N, ...) expected intensity of each draw, in the frame's units.
    """

    log_likelihood: Tensor
    nuisance: Mapping[str, Tensor]
    predicted: Tensor

    def at(self, index: Tensor) -> "Evaluated":
        """Return what it says about the draws that an index picks."""
        own = {name: value[index] for name, value in self.nuisance.items()}
        return Evaluated(self.log_likelihood[index], own, self.predicted[index])


def gaussian_chi2(batch: Any, predicted: Tensor) -> Tensor:
    """(B,) mean squared residual over sigma of (B, ...) patterns, over the points that are not masked.

    Infinite for a prediction that is not finite, which fits nothing.
    """
    usable = ~batch.mask
    pull = torch.where(usable, (batch.intensity - predicted) / batch.sigma, 0.0).double()
    chi2 = (pull**2).flatten(1).sum(1) / usable.flatten(1).sum(1).clamp_min(1)
    return chi2.nan_to_num(torch.inf)


def cut_to(frame: Frame, prediction: Prediction) -> Prediction:
    """Take off what a batch was padded with."""
    shape = tuple(slice(0, n) for n in frame.intensity.shape)
    return Prediction(prediction.mean[shape], prediction.lower[shape], prediction.upper[shape])


class Distribution(Protocol):
    """q(class, theta | I) for B frames, as networks give it."""

    def __len__(self) -> int: ...

    @property
    def class_log_probs(self) -> Tensor:
        """(B, K)."""
        ...

    @property
    def embedding(self) -> Tensor:
        """(B, E) what the out-of-distribution score looks at."""
        ...

    def log_prob(self, draws: Draws) -> Tensor:
        """(N,) joint log density of class and theta."""
        ...

    def draw(self, noise: Tensor) -> tuple[Draws, Tensor]:
        """B S draws, those of one frame together, and (B S,) log q, of noise (B, S, 1 + D)."""
        ...


@dataclass(frozen=True)
class ClassSpec:
    """One class of objects: its name and the box of its free parameters (prior support)."""

    name: str
    free: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]


class Modality(Protocol):
    """Prior, forward model, context, flow and read-out of u for one kind of measurement."""

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "Modality":
        """Make it from its network settings and the tensors of its prior; empty for the defaults."""
        ...

    @property
    def name(self) -> str:
        """Key in the registry."""
        ...

    @property
    def settings(self) -> Settings:
        """Settings of the network."""
        ...

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """Classes of objects; one when there is no choice."""
        ...

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What is reported beside the density."""
        ...

    @property
    def density_info(self) -> DensityInfo:
        """What u is, on which grid."""
        ...

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated frames cover."""
        ...

    @property
    def training(self) -> Mapping[str, Any]:
        """Settings of a training run that suit it better than the general ones."""
        ...

    @property
    def width(self) -> int:
        """D of the padded theta in training."""
        ...

    def latents(self, batch: Any) -> int:
        """Standard normals that the flow takes per draw: D for these frames."""
        ...

    @property
    def has_log_prior(self) -> bool:
        """Whether log p(theta) is known: without it, no importance weights, no polish, no physics loss."""
        ...

    @property
    def neighbours(self) -> int:
        """Other frames of the scan that it looks at beside the one to reconstruct; mostly 0."""
        ...

    @property
    def symmetry(self) -> Symmetry | None:
        """Changes of u that no frame can tell, where draws are shown as several modes; mostly None."""
        ...

    @property
    def sigma_floor(self) -> float:
        """Relative systematic error that is added to each sigma unless the user says otherwise."""
        ...

    @property
    def hopeless_nats(self) -> float:
        """Nats below the best of its frame at which a draw, or a class, is given up; infinite for never."""
        ...

    @property
    def takes_bounds(self) -> bool:
        """Whether a frame may say what is known of the sample (`Frame.bounds`); mostly not."""
        ...

    @property
    def noise_columns(self) -> int:
        """Standard normals that `evaluate` takes per draw."""
        ...

    def fit_prior(self, generator: torch.Generator) -> None:
        """Make the prior ready to be sampled; nothing to do where it is analytic."""
        ...

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Draw n objects, one for each frame 0..n-1 of a batch to be simulated.

        `inner` below 1 draws from the middle of the prior's box only, for studies of what a model does
        outside of what it was trained on.
        """
        ...

    def sample_like(self, batch: Any, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Draw n objects to be measured like the frames of a batch, as far as the modality can say how."""
        ...

    def parts(self, batch: Any, generator: torch.Generator) -> Any:
        """Frames as large as those that the network is trained on: a part of each larger one."""
        ...

    def log_prior(self, draws: Draws) -> Tensor:
        """(N,) log p(class, theta), normalised but for parameters without bounds, which are flat.

        NaN where it is not known.
        """
        ...

    def simulate(self, draws: Draws, generator: torch.Generator) -> tuple[Any, Mapping[str, Tensor]]:
        """Perturbed frames of N draws, and the true value of every reported parameter."""
        ...

    def batch_key(self, frame: Frame) -> Hashable:
        """Frames of equal keys can share a batch."""
        ...

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> Any:
        """Frames of one key to one batch. Raises FrameError for a frame that can't be used."""
        ...

    def usable(self, batch: Any) -> Tensor:
        """(B,) bool: frames of a simulated batch with enough signal that `collate` would take them."""
        ...

    def context(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Encoder input: (B, C, ...) channels and (B, E) extra scalars. Scale-free."""
        ...

    def anchors(self, batch: Any) -> Anchors:
        """Where a fit without the network puts the posterior of each frame, class by class."""
        ...

    @property
    def disagreement(self) -> str:
        """What a user should hear when `agreement` is too small."""
        ...

    def agreement(self, batch: Any, anchors: Anchors) -> Tensor:
        """(B,) probability of one part of each frame given the rest of it; NaN where nothing is checked.

        Uniform in 0..1 over frames of the prior. It finds what the prior can explain as something else.
        """
        ...

    def reduced_chi2(self, batch: Any, predicted: Tensor) -> Tensor:
        """(B,) misfit of patterns predicted for the frames of a batch, about 1 for one that fits."""
        ...

    def forward(self, draws: Draws, batch: Any) -> Tensor:
        """(N, ...) expected pattern of unit scale and no background; differentiable in theta."""
        ...

    def log_likelihood(self, draws: Draws, batch: Any) -> Tensor:
        """(N,) log p(I | theta), linear nuisances integrated out; differentiable in theta."""
        ...

    def evaluate(self, draws: Draws, batch: Any, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model; noise is (N, noise_columns) standard normal."""
        ...

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, *density_info.shape) density u of each draw."""
        ...

    def density_of(self, batch: Any, index: int) -> DensityInfo:
        """`density_info` with the units that hold for one frame."""
        ...

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> (N,) values of every reported parameter; NaN where a class lacks it."""
        ...

    def on_frame(
        self, frame: Frame, draws: Draws, nuisance: Mapping[str, Tensor], prediction: Prediction
    ) -> Prediction:
        """Prediction for one frame on the frame's own points, of that on the batch's.

        Args:
            frame: as it was collated.
            draws: of that frame.
            nuisance: of the draws.
            prediction: on the points of `evaluate`.
        """
        ...

    def seen(self, batch: Any) -> Tensor:
        """(B, ...) bool: pixels of u, or of each of its parts, that the frame says something of."""
        ...

    def features(self, batch: Any) -> Mapping[str, Tensor]:
        """Name -> (B,) properties of the frames that `ranges` bounds: q range, points, noise."""
        ...

    def network(self) -> nn.Module:
        """Untrained: `network(channels, extra, anchors)` is a `Distribution` over (class, theta)."""
        ...

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        """Start the weights of an untrained network from simulated frames, where that helps."""
        ...

    def settle(self, network: nn.Module, generator: torch.Generator) -> None:
        """Adjust a trained network to fresh frames, where it needs that, before it is shipped."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Tensors of the prior that belong into the model's weights; empty when there are none."""
        ...
