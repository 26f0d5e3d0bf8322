"""A model folder whose network has never been trained: what a modality knows without weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from nfphasing_bluesky import __version__
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.modalities.grazing import frame_fit
from nfphasing_bluesky.models import Card, save


def untrained(name: str, folder: Path) -> Path:
    """Write the folder and return it; without a reference of embeddings nothing is out of distribution."""
    made = modality(name)
    torch.manual_seed(0)
    tensors = {f"network.{k}": v for k, v in made.network().state_dict().items()}
    tensors |= {f"prior.{k}": v for k, v in made.state().items()}
    card = Card(
        name=f"{name}-untrained",
        modality=name,
        code_version=__version__,
        sha256="0" * 64,
        network=made.settings.model_dump(mode="json"),
        ranges=dict(made.ranges),
    )
    save(folder, card, tensors)
    return folder


@contextmanager
def few_fits() -> Iterator[None]:
    """Frames of surfaces are fitted from fewer guesses with fewer steps, for tests of what is around it."""
    few = {"GUESSES": 32, "ROUGH_FITS": 2, "ROUGH_STEPS": 3, "FITS": 1, "STEPS": 3}
    frame_fit.guesses.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, count in few.items():
            patch.setattr(frame_fit, name, count)
        yield
    frame_fit.guesses.cache_clear()
