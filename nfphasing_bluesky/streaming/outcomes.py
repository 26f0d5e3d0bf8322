"""A batch of frames to what became of each, whatever the reconstructor does."""

from collections.abc import Sequence
from typing import Protocol

from nfphasing_bluesky.core import Failure, Frame, ModelInfo, Posterior, ReconstructionSettings
from nfphasing_bluesky.core.about import about
from nfphasing_bluesky.core.sparing import Sparing

Outcome = Posterior | Failure


class ReconstructorLike(Protocol):
    """What the processor needs of `inference.Reconstructor`."""

    @property
    def info(self) -> ModelInfo:
        """What the model is and infers."""

    @property
    def settings(self) -> ReconstructionSettings:
        """How it reconstructs."""

    def __call__(self, frames: Sequence[Frame]) -> Sequence[Outcome]:
        """Return one Posterior or Failure for each frame, in order."""


def outcomes_of(reconstructor: ReconstructorLike, frames: list[Frame], log: Sparing) -> list[Outcome]:
    """Reconstruct a batch; where that raises, frame by frame, so that a bad frame fails alone."""
    if not frames:
        return []
    try:
        outcomes = list(reconstructor(frames))
        if len(outcomes) == len(frames):
            return outcomes
        reason = f"the reconstructor gave {len(outcomes)} answers for {len(frames)} frames"
    except Exception as error:
        with about(frames[0].origin.raw_uid):
            log.warning("a batch of %d frames raised %s: %s", len(frames), type(error).__name__, error)
        reason = f"{type(error).__name__}: {error}"
    if len(frames) == 1:
        return [Failure(frames[0].origin, reason)]
    return [outcome for frame in frames for outcome in outcomes_of(reconstructor, [frame], log)]
