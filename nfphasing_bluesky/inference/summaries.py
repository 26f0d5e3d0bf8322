"""What is shown of many draws: mean, standard deviation, central interval."""

import numpy as np
import torch
from torch import Tensor

BANDED = 128
"""Draws whose predictions are sorted: enough for 95 %, whatever the number of draws is."""


def bands(predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and central 95 %, (B, ...) each, of predictions (B, S, ...)."""
    few = predicted[:, :BANDED].numpy()
    low, high = int(np.floor(0.025 * (few.shape[1] - 1))), int(np.ceil(0.975 * (few.shape[1] - 1)))
    # sorting along the last axis, in memory, takes an eighth of the time of a partition along another
    ordered = np.sort(np.ascontiguousarray(np.moveaxis(few, 1, -1)), axis=-1)
    lower, upper = (torch.from_numpy(ordered[..., i].copy()) for i in (low, high))
    return predicted.mean(1), lower, upper


def mean_and_std(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, ...) of draws (B, S, ...), S at least 2."""
    # written out: `Tensor.std` along the second axis takes ten times as long
    mean = draws.mean(1)
    away = draws - mean[:, None]
    return mean, (away.square().sum(1) / (draws.shape[1] - 1)).sqrt()
