"""Random numbers of a frame: the same live, replayed, and whatever else is in its batch."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from nfphasing_bluesky.core import Origin


def frame_seed(seed: int, seq_num: int) -> int:
    """Seed of one frame, from that of the reconstruction and the frame's sequence number."""
    digest = hashlib.sha256(f"{seed}:{seq_num}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generator_of(seed: int, origin: Origin) -> torch.Generator:
    """Generator of one frame, on the CPU so that every device draws alike."""
    return torch.Generator().manual_seed(frame_seed(seed, origin.seq_num))


def uniform_of(seed: int, origins: Sequence[Origin]) -> Tensor:
    """(B,) uniform numbers in [0, 1), one of each frame."""
    return torch.stack([torch.rand((), generator=generator_of(seed, o)) for o in origins])


def normal_of(seed: int, origins: Sequence[Origin], *shape: int) -> Tensor:
    """(B, *shape) standard normals."""
    return torch.stack([torch.randn(shape, generator=generator_of(seed, o)) for o in origins])
