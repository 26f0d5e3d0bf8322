"""Pull a model over to a running experiment: its probe, its places, its noise, and what its frames show.

Training goes on with simulated objects that are measured as the experiment measures, and with the physics
loss on frames of the experiment, of which nobody knows the truth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.modalities import Draws, Modality, modality
from nfphasing_bluesky.models import StoredModel
from nfphasing_bluesky.training.export import export
from nfphasing_bluesky.training.loop import StepLog, Trainer
from nfphasing_bluesky.training.settings import TrainSettings

HELD_OUT = 8
"""Every so manyth frame is left out, to be judged by."""

REFERENCE_FRAMES = 300


@dataclass(frozen=True)
class AdaptSettings:
    """How a model is adapted; see `TrainSettings` for the names."""

    learning_rate: float = 2e-4
    physics_weight: float = 0.1
    physics_every: int = 2
    physics_batch: int = 8
    physics_draws: int = 2
    batch: int = 16
    reuse: int = 4
    round_batches: int = 4
    seed: int = 0


class LikeMeasured:
    """A modality whose simulated frames are measured as the given ones were."""

    def __init__(self, kind: Modality, measured: Any) -> None:
        self._kind, self._measured = kind, measured

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)

    def sample_prior(self, n: int, generator: Generator, inner: float = 1.0) -> Draws:
        """Draw objects to be measured like the given frames."""
        return self._kind.sample_like(self._measured, n, generator, inner)

    def settle(self, network: torch.nn.Module, generator: Generator) -> None:
        """Keep what the parent was settled with: there are too few frames to do it again."""


def split(batch: Any) -> tuple[Any, Any]:
    """Frames to learn from, and every `HELD_OUT`-th to be judged by. Raises FrameError for too few."""
    count = len(batch)
    if count < 4:
        raise FrameError(f"{count} frames, expected at least 4 to adapt to and to judge by; take more")
    every = min(HELD_OUT, count // 2)
    held = torch.arange(count) % every == every - 1
    return batch.at(~held), batch.at(held)


def trainer_for(parent: StoredModel, batch: Any, settings: AdaptSettings, device: str) -> Trainer:
    """A training run from the parent's weights on, on the conditions and frames of a batch."""
    kind = modality(parent.card.modality, parent.card.network, parent.part("prior"))
    like = cast(Modality, LikeMeasured(kind, batch.to(device)))
    values = {**kind.training, **vars(settings), "start": str(parent.folder), "warmup": 10, "average": 0.98}
    return Trainer(like, TrainSettings(**values, physics_ramp=0.2), device, measured=batch.to(device))


def adapt(
    parent: StoredModel,
    trainer: Trainer,
    folder: Path,
    report: Callable[[StepLog], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> StoredModel:
    """Run to the last step or until `stop()`, and write a model that names its parent to `folder`."""
    trainer.run(folder, report, stop)
    name = f"{parent.card.name}-adapted"
    return export(trainer, folder / "model", name, parent=parent.card, reference_frames=REFERENCE_FRAMES)
