"""From a training run to a model folder."""

import platform
from pathlib import Path
from typing import Any

import torch

from nfphasing_bluesky import __version__
from nfphasing_bluesky.modalities import Anchors
from nfphasing_bluesky.models import Card, EmbeddingReference, StoredModel, Thresholds, save
from nfphasing_bluesky.training.calibration import hardware
from nfphasing_bluesky.training.loop import Trainer
from nfphasing_bluesky.training.rounds import simulate_usable

REFERENCE_FRAMES, AT_ONCE = 8000, 500
IMAGES, IMAGES_AT_ONCE = 1000, 50
"""Of an image there are fewer: it costs a thousand times more to make."""
OOD_QUANTILE = 0.999


@torch.no_grad()
def export(
    trainer: Trainer,
    folder: Path,
    name: str | None = None,
    parent: Card | None = None,
    reference_frames: int | None = None,
) -> StoredModel:
    """Write the averaged weights, the prior, the embedding reference and a card without a certificate.

    Args:
        trainer: a run.
        folder: of the model.
        name: of the model; the modality's when left out.
        parent: card of the model that this one was adapted from; its limits of the misfit stay.
        reference_frames: simulated frames that the embedding reference is fitted to, and as many again.
    """
    network = trainer.modality.network()
    network.load_state_dict({k: v.cpu() for k, v in trainer.average.items()})
    network.eval()
    trainer.modality.settle(network, torch.Generator().manual_seed(trainer.settings.seed + 999_983))
    fitted = EmbeddingReference.fit(_embeddings(trainer, network, 1, reference_frames))
    distance = fitted.distance(_embeddings(trainer, network, 2, reference_frames))
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"prior.{k}": v for k, v in trainer.modality.state().items()}
    tensors |= {f"trust.{k}": v for k, v in fitted.state().items()}
    limits = Thresholds() if parent is None else parent.thresholds
    card = Card(
        name=name or trainer.modality.name,
        modality=trainer.modality.name,
        code_version=__version__,
        sha256="0" * 64,
        network=trainer.modality.settings.model_dump(mode="json"),
        ranges=dict(trainer.modality.ranges),
        thresholds=limits.model_copy(update={"ood_distance": float(distance.quantile(OOD_QUANTILE))}),
        training=_training(trainer),
        parent=None if parent is None else parent.sha256,
    )
    return save(folder, card, tensors)


def _embeddings(trainer: Trainer, network: torch.nn.Module, stream: int, frames: int | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(trainer.settings.seed + 1_000_003 * stream)
    parts = []
    many, size = REFERENCE_FRAMES, AT_ONCE
    if len(trainer.modality.density_info.axes) > 1:
        many, size = min(many, IMAGES), IMAGES_AT_ONCE
    for _ in range((frames or many) // size):
        batch, _, _ = simulate_usable(trainer.modality, size, generator)
        parts.append(network(*trainer.modality.context(batch), Anchors(len(batch))).embedding)
    return torch.cat(parts)


def _training(trainer: Trainer) -> dict[str, Any]:
    return {
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),
        "skipped_steps": trainer.skipped,
        "hardware": hardware(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "settings": trainer.settings.model_dump(mode="json"),
    }
