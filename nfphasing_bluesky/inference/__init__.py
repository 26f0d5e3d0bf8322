"""Reconstructor: batch of Frames to batch of Posteriors, with trust."""

from nfphasing_bluesky.inference.device import pick_device
from nfphasing_bluesky.inference.importance import ess_fraction, log_weights
from nfphasing_bluesky.inference.reconstructor import Reconstructor
from nfphasing_bluesky.inference.trust import judge

__all__ = [
    "Reconstructor",
    "ess_fraction",
    "judge",
    "log_weights",
    "pick_device",
]
