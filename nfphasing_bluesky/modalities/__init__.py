"""One file a modality behind one protocol, and their registry."""

from nfphasing_bluesky.modalities.base import Anchors, ClassSpec, Distribution, Draws, Evaluated, Modality
from nfphasing_bluesky.modalities.network import DrawDistribution, NetworkSettings
from nfphasing_bluesky.modalities.registry import REGISTRY, modality

__all__ = [
    "REGISTRY",
    "Anchors",
    "ClassSpec",
    "Distribution",
    "DrawDistribution",
    "Draws",
    "Evaluated",
    "Modality",
    "NetworkSettings",
    "modality",
]
