"""Frames to batches: in parts that fit the memory, without the frames that can't be used."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch

from nfphasing_bluesky.core import Failure, Frame, ModelInfo, NFPhasingError, refuse_bounds
from nfphasing_bluesky.modalities import FitsAgain, Modality, Proposes

# Draws times points that go through the forward model at once, on the processor and on a GPU: bounds the
# memory, not the batch.
VALUES_AT_ONCE, VALUES_ON_GPU = 2_000_000, 2**24

# Frames that a core of its own is worth: with fewer, Python's threads wait for each other.
WORTH_A_CORE = 8

# Pixels that a GPU is sent at once: while it computes with them the next ones are on their way.
PIXELS_AT_ONCE = 2**22


class Collated(NamedTuple):
    """Frames of one call that go together.

    `usable` are indices of those in the batch, `failed` says of the others why they are not; the batch is
    None where there is none.
    """

    frames: Sequence[Frame]
    usable: Sequence[int]
    batch: Any
    failed: dict[int, Failure]


def collate(frames: Sequence[Frame], modality: Modality, info: ModelInfo, sigma_floor: float) -> Collated:
    """Make one batch of all frames that can be used.

    Args:
        frames: alike, as the modality's `batch_key` sees it.
        modality: that takes them.
        info: of the model.
        sigma_floor: relative systematic error that is added to each sigma.
    """
    everyone = list(range(len(frames)))
    try:
        if not modality.takes_bounds:
            refuse_bounds(frames, info.name)
        return Collated(frames, everyone, modality.collate(frames, sigma_floor), {})
    except NFPhasingError as error:
        if len(frames) == 1:
            reason = f"{type(error).__name__}: {error}"
            return Collated(frames, [], None, {0: Failure(frames[0].origin, reason)})
    alone = [collate([frame], modality, info, sigma_floor).failed for frame in frames]
    failed = {i: reason[0] for i, reason in enumerate(alone) if reason}
    usable = [i for i in everyone if i not in failed]
    some = [frames[i] for i in usable]
    batch = collate(some, modality, info, sigma_floor).batch if some else None
    return Collated(frames, usable, batch, failed)


def padded(work: Collated) -> Collated:
    """Fill a batch up to a power of two with its last frame: so few sizes can be recorded, any could come."""
    count = len(work.usable)
    if not count:
        return work
    rows = [min(i, count - 1) for i in range(1 << (count - 1).bit_length())]
    batch = work.batch.at(torch.tensor(rows))
    return work._replace(usable=[work.usable[i] for i in rows], batch=batch)


def in_parts(
    frames: Sequence[Frame], modality: Modality, n_samples: int, device: torch.device
) -> list[list[int]]:
    """Indices of frames that go together: alike, and few enough.

    On the processor there is a part for every core, or a multiple of that, if there are frames enough.
    """
    alike: dict[Hashable, list[int]] = {}
    for i, frame in enumerate(frames):
        try:
            key = modality.batch_key(frame)
        except NFPhasingError:  # of another kind: `collate` says so of this one alone
            key = ("odd", i)
        alike.setdefault(key, []).append(i)
    parts = []
    for rows in alike.values():
        size = _size([frames[i] for i in rows], modality, n_samples, device)
        parts += [rows[i : i + size] for i in range(0, len(rows), size)]
    return parts


def most_frames(points: int, modality: Modality, n_samples: int, device: torch.device) -> int:
    """Frames of so many points that may go together; a GPU gets the next ones while it computes with them."""
    if isinstance(modality, FitsAgain) and modality.one_by_one:
        return 1
    proposals = modality.proposals if isinstance(modality, Proposes) else 1
    values = n_samples * proposals * max(1, points)
    if device.type == "cpu":
        return max(1, VALUES_AT_ONCE // values)
    return max(1, min(VALUES_ON_GPU // values, PIXELS_AT_ONCE // max(1, points)))


def _size(frames: Sequence[Frame], modality: Modality, n_samples: int, device: torch.device) -> int:
    size = most_frames(max(frame.intensity.size for frame in frames), modality, n_samples, device)
    if device.type != "cpu" or size == 1:
        return size
    cores = max(1, min(torch.get_num_threads(), len(frames) // WORTH_A_CORE))
    rounds = -(-len(frames) // (size * cores))
    return max(1, -(-len(frames) // max(1, rounds * cores)))
