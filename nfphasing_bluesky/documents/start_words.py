"""The words that a start document may say under `nfphasing`, and a remark on every other one."""

from collections.abc import Mapping
from difflib import get_close_matches

from nfphasing_bluesky.documents.keys import ROLES, Document

WORDS = frozenset(
    {
        *ROLES,
        *(f"{role}_key" for role in ROLES),
        *(f"{role}_units" for role in ("q", "dq")),
        *("geometry", "bounds", "points", "accumulate", "exposures"),
        *("absolute", "contrast_inv_cm2", "q_relative_error"),
        *("positions", "positions_sign", "positions_order", "orientation"),
        *("model", "modality"),
    }
)
"""What is read of it; what `geometry`, `bounds` and `points` hold is checked where it is used."""


def unknown_words(start: Document) -> list[str]:
    """Return a remark on every word of a start document's `nfphasing` entry that nothing reads.

    Args:
        start: of a raw run.
    """
    said = start.get("nfphasing")
    if said is None:
        return []
    if not isinstance(said, Mapping):
        return [f"nfphasing={said!r} in the start document is ignored, expected a dict with {_listed()}"]
    return [_remark(str(word)) for word in said if word not in WORDS]


def _remark(word: str) -> str:
    near = get_close_matches(word.lower(), WORDS, n=1)
    meant = f"did you mean {near[0]!r}?" if near else f"known are {_listed()}"
    return f"{word!r} under nfphasing in the start document is not known and is ignored; {meant}"


def _listed() -> str:
    return ", ".join(sorted(WORDS))
