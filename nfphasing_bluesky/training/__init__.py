"""Simulate on the fly, losses, loop, checkpoints, calibration, card."""

from nfphasing_bluesky.training import checkpoint
from nfphasing_bluesky.training.export import export
from nfphasing_bluesky.training.loop import StepLog, Trainer
from nfphasing_bluesky.training.settings import TrainSettings

__all__ = ["StepLog", "TrainSettings", "Trainer", "checkpoint", "export"]
