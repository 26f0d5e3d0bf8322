"""The shipped weights with their cards, and how a model folder is read and written."""

from nfphasing_bluesky.models.card import Card, Thresholds
from nfphasing_bluesky.models.reference import EmbeddingReference
from nfphasing_bluesky.models.store import (
    StoredModel,
    load,
    locate,
    read_card,
    save,
    shipped,
    write_card,
)

__all__ = [
    "Card",
    "EmbeddingReference",
    "StoredModel",
    "Thresholds",
    "load",
    "locate",
    "read_card",
    "save",
    "shipped",
    "write_card",
]
