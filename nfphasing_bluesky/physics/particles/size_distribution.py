"""Log-normal sizes as a few representative ones.

Dimension letters: N samples, S sizes.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Sizes(NamedTuple):
    """Sizes (N, S) and the share (N, S) of particles that have them, 1 in all."""

    values: Tensor
    share: Tensor


def log_normal(median: Tensor, spread: Tensor, count: int, reach: float = 3.5) -> Sizes:
    """Sizes evenly spaced in their logarithm, which makes sums over them converge geometrically.

    Args:
        median: (N,) in any unit.
        spread: (N,) standard deviation of the natural logarithm, at least 0.
        count: S; one gives the median alone.
        reach: of the sizes, in standard deviations; large particles scatter as the sixth power of their
            size, so that the far end counts.
    """
    if count == 1:
        return Sizes(median[:, None], torch.ones_like(median)[:, None])
    place = torch.linspace(-reach, reach, count, dtype=median.dtype, device=median.device)
    share = torch.exp(-0.5 * place.square())
    return Sizes(
        median[:, None] * torch.exp(spread[:, None] * place), (share / share.sum()).expand(len(median), -1)
    )
