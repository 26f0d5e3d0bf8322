"""Which data key of a stream holds the frames, and which keys go with it.

A frame's companions are looked up by role: `q`, `sigma`, `mask`, `dq`, `flat` (an empty image), `dark` (one
without light). The start document may name them, `nfphasing={"q_key": ..., "sigma_key": ...}`; without that a
companion of `saxs_intensity` is `saxs_intensity_q` or `saxs_q` (or the same with `-`), of a device `saxs` it
is `saxs_q`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from nfphasing_bluesky.core import DataKeyError, FrameError

ROLES = ("q", "sigma", "mask", "dq", "flat", "dark")
Document = Mapping[str, Any]


def own_metadata(start: Document) -> Mapping[str, Any]:
    """Return what the start document says to this package, its `nfphasing` entry, or nothing."""
    said = start.get("nfphasing")
    return said if isinstance(said, Mapping) else {}


def bounds_said(said: Document, data_key: str) -> dict[str, tuple[float, float]]:
    """Return what the start document's `nfphasing` entry knows of the sample, `bounds={name: [low, high]}`.

    Raises:
        FrameError: they are no pairs of numbers.
    """
    bounds = said.get("bounds") or {}
    try:
        return {str(name): (float(low), float(high)) for name, (low, high) in bounds.items()}
    except (TypeError, ValueError, AttributeError):
        raise FrameError(
            f"{data_key}: nfphasing.bounds in the start document is {bounds!r}, expected "
            "{name: [lowest, highest]}"
        ) from None


def is_array(data_key: Document) -> bool:
    """Return True when one event's value has more than one element.

    `dtype` is not asked: ophyd-async declares one-dimensional streamed arrays as `number`.
    """
    shape = [n for n in data_key.get("shape") or () if n is not None]
    return math.prod(shape) > 1 or None in (data_key.get("shape") or ())


def is_external(data_key: Document) -> bool:
    """Return True when the values are in files and documents refer to them."""
    return "external" in data_key


def choose_data_key(start: Document, descriptor: Document, asked: str | None) -> str:
    """Return the data key that holds the frames of a stream.

    The one asked for; else the only array-valued key that is no companion of another; else the only one
    of these that the descriptor's hints name.

    Raises:
        DataKeyError: it is not there, or none or several would do. Names the keys that exist.
    """
    data_keys = descriptor["data_keys"]
    stream = descriptor.get("name", "")
    arrays = [name for name, key in data_keys.items() if is_array(key)]
    if asked is not None:
        if asked in data_keys:
            return asked
        raise DataKeyError(
            f"data key {asked!r} is not in stream {stream!r}, which has {_listed(data_keys)}; "
            f"pass data_key= one of its arrays: {_listed(arrays)}"
        )
    companions = {c for name in arrays for c in companions_in(start, descriptor, name).values()}
    frames = [name for name in arrays if name not in companions]
    if len(frames) > 1:
        hinted = _hinted(descriptor)
        frames = [name for name in frames if name in hinted] or frames
    if len(frames) == 1:
        return frames[0]
    found = f"several arrays: {_listed(frames)}" if frames else f"no array among {_listed(data_keys)}"
    raise DataKeyError(f"stream {stream!r} has {found}; pass data_key= to say which one holds the frames")


def has_arrays(descriptor: Document) -> bool:
    """Return True when a stream could hold frames at all."""
    return any(is_array(key) for key in descriptor["data_keys"].values())


def companions_in(start: Document, descriptor: Document, data_key: str) -> dict[str, str]:
    """Return role -> data key for the companions that arrive with each event of a stream."""
    found = {}
    for role in ROLES:
        for name in companion_names(start, descriptor, data_key, role):
            if name in descriptor["data_keys"] and name != data_key:
                found[role] = name
                break
    return found


def companion_names(start: Document, descriptor: Document, data_key: str, role: str) -> list[str]:
    """Return the names under which a companion may be found, the best first."""
    named = own_metadata(start).get(f"{role}_key")
    if named is not None:
        return [str(named)]
    bases = [data_key]
    for separator in "_-":
        if separator in data_key:
            bases.append(data_key.rsplit(separator, 1)[0])
    owner = object_of(descriptor, data_key)
    if owner and owner not in bases:
        bases.append(owner)
    return [f"{base}{separator}{role}" for base in bases for separator in "_-"]


def object_of(descriptor: Document, data_key: str) -> str:
    """Return the name of the device that a data key belongs to; empty where the descriptor does not say."""
    named = descriptor["data_keys"].get(data_key, {}).get("object_name")
    if named:
        return str(named)
    for owner, names in (descriptor.get("object_keys") or {}).items():
        if data_key in names:
            return str(owner)
    return ""


def _hinted(descriptor: Document) -> set[str]:
    hints = descriptor.get("hints") or {}
    return {field for hint in hints.values() if isinstance(hint, Mapping) for field in hint.get("fields", ())}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
