"""Simulate on the fly, losses, loop, checkpoints, calibration, card."""

from nfphasing_bluesky.training import checkpoint
from nfphasing_bluesky.training.adaptation import AdaptSettings, adapt, split, trainer_for
from nfphasing_bluesky.training.export import export
from nfphasing_bluesky.training.loop import StepLog, Trainer
from nfphasing_bluesky.training.settings import TrainSettings

__all__ = [
    "AdaptSettings",
    "StepLog",
    "TrainSettings",
    "Trainer",
    "adapt",
    "checkpoint",
    "export",
    "split",
    "trainer_for",
]
