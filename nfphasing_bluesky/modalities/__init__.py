"""One file a modality behind one protocol, and their registry."""

from nfphasing_bluesky.modalities.base import (
    AdvisesMisfits,
    Distribution,
    DoubtsFrames,
    FitsAgain,
    KnowsSamples,
    Modality,
    NeedsNoGradients,
    Proposes,
    SearchesAnswers,
    SeesFrames,
    SharesScans,
    SurveysScans,
    WalksDraws,
)
from nfphasing_bluesky.modalities.batches import Rows
from nfphasing_bluesky.modalities.draws import Anchors, ClassSpec, Draws, Evaluated
from nfphasing_bluesky.modalities.network import DrawDistribution, NetworkSettings
from nfphasing_bluesky.modalities.registry import REGISTRY, modality
from nfphasing_bluesky.modalities.unit_box import UnitBox

__all__ = [
    "REGISTRY",
    "AdvisesMisfits",
    "Anchors",
    "ClassSpec",
    "Distribution",
    "DoubtsFrames",
    "DrawDistribution",
    "Draws",
    "Evaluated",
    "FitsAgain",
    "KnowsSamples",
    "Modality",
    "NeedsNoGradients",
    "NetworkSettings",
    "Proposes",
    "Rows",
    "SearchesAnswers",
    "SeesFrames",
    "SharesScans",
    "SurveysScans",
    "UnitBox",
    "WalksDraws",
    "modality",
]
