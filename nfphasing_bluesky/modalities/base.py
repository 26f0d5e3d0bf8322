"""The one protocol: everything that differs between modalities, behind names the other rooms share.

Dimension letters: B frames of a batch, S draws of one frame, N draws in a flat list, D free parameters,
K classes, Q points of a curve.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import DensityInfo, Frame, Parameter, Posterior, Prediction, Settings, Symmetry
from nfphasing_bluesky.flows import Anchor, LocalFits
from nfphasing_bluesky.modalities.draws import Anchors, ClassSpec, Draws, Evaluated


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


@runtime_checkable
class SurveysScans(Protocol):
    """A modality whose frames each see a part of one object."""

    def survey(self, frames: Sequence[Frame]) -> list[Frame]:
        """Frames of a whole scan, each with what all of them say of its part (`Frame.survey`)."""
        ...


@runtime_checkable
class DoubtsFrames(Protocol):
    """A modality whose forward model leaves out something that frames may say of themselves."""

    def doubt(self, frame: Frame, posterior: Posterior, sigma_floor: float) -> str:
        """What of a frame is left out and would have mattered, in words; empty for nothing."""
        ...


@runtime_checkable
class SearchesAnswers(Protocol):
    """A modality of frames with several answers, which fits from many starts look for."""

    def searching(self, times: float) -> "Modality":
        """Return the same with so many times as many starts, where what was found does not repeat itself."""
        ...

    def incomplete(self, batch: Any, anchors: Anchors) -> list[str]:
        """Why answers of each of B frames may be missing among its anchors, in words; empty for no reason."""
        ...


@runtime_checkable
class WalksDraws(Protocol):
    """A modality that moves draws to the exact posterior itself, each within its own answer."""

    def walked(
        self, draws: Draws, distribution: Any, batch: Any, steps: int, generators: Sequence[torch.Generator]
    ) -> tuple[Draws, list[float]]:
        """Moved draws, and the acceptance rate of each frame.

        Args:
            draws: equally many of each of B frames, those of one together.
            distribution: that they were drawn from.
            batch: the frames.
            steps: more than it takes by itself.
            generators: of the random numbers of each frame.
        """
        ...


@runtime_checkable
class AdvisesMisfits(Protocol):
    """A modality that can say what to check next where no draw explains a frame."""

    def next_step(self, batch: Any, best: Draws, predicted: Tensor, sigma_floor: float) -> list[str]:
        """In a few words for each of B frames.

        Args:
            batch: the frames.
            best: the likeliest draw of each.
            predicted: (B, ...) what it predicts.
            sigma_floor: relative error that is in the batch's sigma.
        """
        ...


@runtime_checkable
class SharesScans(Protocol):
    """A modality that draws several objects of one scan at a time, because that costs less.

    Frames of one scan err together. What is measured over many frames wants them apart.
    """

    def sample_apart(self, n: int, generator: torch.Generator) -> Draws:
        """Draw n objects from the prior, each of a scan of its own."""
        ...


@runtime_checkable
class SeesFrames(Protocol):
    """A modality that takes frames of a detector as they are, though u has one axis."""

    @property
    def whole_frames(self) -> bool:
        """True."""
        ...


@runtime_checkable
class NeedsNoGradients(Protocol):
    """A modality whose frames are reconstructed without any derivative by autograd.

    Torch need not keep ready for one then, which is a tenth of the time of operations on little.
    """

    @property
    def without_gradients(self) -> bool:
        """True."""
        ...


@runtime_checkable
class Proposes(Protocol):
    """A modality whose draws are resampled by their weights from more than are kept.

    What is resampled from few draws repeats some of them, and intervals become too narrow.
    """

    @property
    def proposals(self) -> int:
        """Draws of the flow for each that is kept."""
        ...


@runtime_checkable
class KnowsSamples(Protocol):
    """A modality whose network is not told what is known of a sample: what contradicts it is left out."""

    def inside(self, draws: Draws, batch: Any) -> Tensor:
        """(N,) bool: draws that lie within what is known of their frames' samples."""
        ...

    def moved_within(self, draws: Draws, u: Tensor, batch: Any) -> Draws:
        """Return draws moved to within what is known: what is beyond goes anywhere there, as u (N, D)."""
        ...


@runtime_checkable
class FitsAgain(Protocol):
    """A modality of so many minima that draws of its flow are worth a fit, and fits may miss the right one.

    Its networks give a `DrawDistribution`.
    """

    @property
    def one_by_one(self) -> bool:
        """Whether frames are reconstructed alone.

        A processor rounds a little otherwise in batches of another size. Fits with rough slopes multiply
        that, and weights again, until a frame's draws differ live and replayed.
        """
        ...

    def fits_again(self, k: int, drawn: Tensor, batch: Any, anchor: Anchor) -> LocalFits:
        """Fits of class k that begin at draws (B, P, D) of B frames, their anchors among them."""
        ...
