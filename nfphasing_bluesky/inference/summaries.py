"""What is shown of many draws: mean, standard deviation, central interval."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BANDED = 128
"""Draws whose predictions are sorted: enough for 95 %, whatever the number of draws is."""


VALUES_AT_ONCE = 2**24
"""Draws times points that are sorted or squared at once: of large frames a copy of all draws is gigabytes."""


def bands(predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and central 95 %, (B, ...) each, of predictions (B, S, ...)."""
    shape = (len(predicted), *predicted.shape[2:])
    few = predicted[:, :BANDED].flatten(2)
    count = few.shape[1]
    # the next wider of the draws between which 95 % lie, see core.Summary
    low, high = max(0, math.floor(0.025 * (count + 1)) - 1), min(count, math.ceil(0.975 * (count + 1))) - 1
    ordered = [_ordered(some)[..., [low, high]] for some in few.split(_points_at_once(few), 2)]
    ends = torch.from_numpy(np.concatenate(ordered, 1))
    lower, upper = (end.reshape(shape).contiguous() for end in ends.unbind(-1))
    return predicted.mean(1), lower, upper


def mean_and_std(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, ...) of draws (B, S, ...), S at least 2."""
    mean, flat = draws.mean(1), draws.flatten(2)
    some = _points_at_once(flat)
    parts = zip(flat.split(some, 2), mean.flatten(1).split(some, 1), strict=True)
    # written out: `Tensor.std` along the second axis takes ten times as long
    squares = torch.cat([(part - middle[:, None]).square().sum(1) for part, middle in parts], 1)
    return mean, (squares / (draws.shape[1] - 1)).sqrt().view(mean.shape)


def _points_at_once(draws: Tensor) -> int:
    return max(1, VALUES_AT_ONCE // max(1, draws.shape[0] * draws.shape[1]))


def _ordered(draws: Tensor) -> NDArray:
    """(B, P, S) values at each point of draws (B, S, P), the smallest first."""
    # sorting along the last axis, in memory, takes an eighth of the time of a partition along another
    return np.sort(np.ascontiguousarray(np.moveaxis(draws.numpy(), 1, -1)), axis=-1)
