"""A reconstructor of reflectivities with an untrained network: draws begin at the fits, polish moves them."""

import torch

from nfphasing_bluesky.core import ReconstructionSettings
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.models import Card


def untrained_layers(settings: ReconstructionSettings) -> Reconstructor:
    """Make one; its weights are always the same."""
    subject = modality("reflectivity")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = subject.network()
    card = Card(
        name="untrained",
        modality="reflectivity",
        code_version="0",
        sha256="0" * 64,
        network=subject.settings.model_dump(mode="json"),
        ranges=dict(subject.ranges),
    )
    return Reconstructor(card, subject, network, None, settings, "cpu")
