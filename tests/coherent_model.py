"""A model of coherent patterns on a small grid, whose anchors are all there is: its network is untrained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nfphasing_bluesky.core import DetectorGeometry
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.models import Card, save

SIDE = 16
GEOMETRY: Mapping[str, Any] = {
    "wavelength_m": 1.5e-10,
    "distance_m": 5.0,
    "pixel_size_m": (75e-6, 75e-6),
    "poni_m": (8.5 * 75e-6, 8.5 * 75e-6),
}
"""As a start document holds it; the beam on pixel [8, 8] of 16 x 16."""


def coherent_model(folder: Path) -> Path:
    """Write the model's folder."""
    subject = modality("saxs2d-cdi", {"starts": 8, "slots": 4})
    torch.manual_seed(0)
    network = subject.network()
    card = Card(
        name="coherent",
        modality=subject.name,
        code_version="0",
        sha256="0" * 64,
        network=subject.settings.model_dump(mode="json"),
        ranges=dict(subject.ranges),
    )
    save(folder, card, {f"network.{name}": value for name, value in network.state_dict().items()})
    return folder


def coherent_counts(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts (16, 16) of an object of the prior, and the object (8, 8)."""
    subject = modality("saxs2d-cdi")
    generator = torch.Generator().manual_seed(seed)
    draws = subject.sample_prior(1, generator)
    batch, _ = subject.simulate(draws, generator)
    clean = subject.forward(draws, batch)[0] * (2000 * SIDE**2 / subject.forward(draws, batch)[0].sum())
    counts = torch.poisson(clean.double(), generator=generator).numpy()
    return counts.astype(np.uint32), subject.density(draws, {})[0].numpy()


def geometry() -> DetectorGeometry:
    """The same for a frame."""
    return DetectorGeometry(**GEOMETRY)
