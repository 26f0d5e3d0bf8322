"""A model folder that was read becomes a modality and a network, or says why its parts don't fit."""

import math
from collections.abc import Iterable

from pydantic import ValidationError
from torch import nn

from nfphasing_bluesky import __version__
from nfphasing_bluesky.core import ModelError, NFPhasingError
from nfphasing_bluesky.modalities import Modality, modality
from nfphasing_bluesky.models import EmbeddingReference, StoredModel


def built(stored: StoredModel) -> tuple[Modality, nn.Module, EmbeddingReference | None]:
    """Modality, network with its weights, and where the training set's embeddings lie (None: not known).

    Raises:
        ModelError: there is no such modality, or card and weights don't fit each other or this version.
    """
    try:
        return _parts(stored)
    except NFPhasingError:
        raise
    except (ValidationError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _unfit(stored, " ".join(str(error).split())[:200]) from error


def _parts(stored: StoredModel) -> tuple[Modality, nn.Module, EmbeddingReference | None]:
    card, prior, trust = stored.card, stored.part("prior"), stored.part("trust")
    if spoiled := [name for name, t in stored.tensors.items() if t.is_floating_point() and t.isnan().any()]:
        raise _unfit(stored, f"{spoiled[0]} holds NaN")
    made = modality(card.modality, card.network, prior)
    # a prior that is not there would be another one without a word
    if prior.keys() != made.state().keys():
        raise _unfit(stored, f"the prior has {_named(prior)}, expected {_named(made.state())}")
    if unknown := set(card.ranges) - set(made.ranges):
        raise _unfit(stored, f"ranges of {_named(unknown)}, expected those of {_named(made.ranges)}")
    if not trust and math.isfinite(card.thresholds.ood_distance):
        raise _unfit(stored, "the weights lack the distance from the training set that the card limits")
    network = made.network()
    network.load_state_dict(stored.part("network"))
    return made, network, EmbeddingReference(trust["mean"], trust["whitening"]) if trust else None


def _unfit(stored: StoredModel, why: str) -> ModelError:
    return ModelError(
        f"{stored.folder}: card and weights don't fit each other or this version: {why}; the folder was "
        f"written by nfphasing-bluesky {stored.card.code_version}, this is {__version__}: restore it from "
        "where it came from, or train it again"
    )


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
