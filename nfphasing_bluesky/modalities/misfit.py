"""What a misfit says of itself: the error that would excuse it, and where in a frame most of it lies.

Of frames that no draw explains, of which the likeliest draw is looked at.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MOST_SAID = 2
EXCUSABLE = 0.25
"""Relative error up to which a misfit may be what the file's errors leave out."""
MOST_OF_IT = 0.6
HALVINGS = 30
MOST_NAMED = 3


def squares(batch: Any, predicted: Tensor) -> Tensor:
    """(B, Q) squared residuals over sigma, 0 where masked, float64."""
    pull = torch.where(batch.mask, 0.0, (batch.intensity - predicted) / batch.sigma)
    return pull.double().square().nan_to_num(0.0, posinf=1e30)


def excusing_error(batch: Any, predicted: Tensor) -> Tensor:
    """(B,) relative error that, added to sigma, makes the reduced chi-squared 1; infinite above 1."""
    usable = ~batch.mask
    residual = torch.where(usable, batch.intensity - predicted, 0.0).double().nan_to_num(torch.inf)
    level = torch.where(usable, batch.intensity, 0.0).double()
    count = usable.sum(1).clamp_min(1)
    low, high = torch.zeros_like(level[:, 0]), torch.ones_like(level[:, 0])

    def explained(error: Tensor) -> Tensor:
        variance = batch.sigma.double().square() + (error[:, None] * level).square()
        parts = torch.where(usable, residual.square() / variance.clamp_min(1e-300), 0.0)
        return parts.sum(1) / count <= 1

    possible = explained(high)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        enough = explained(middle)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(possible, high, torch.inf)


def excuse(error: float, sigma_floor: float) -> str:
    """Say which `sigma_floor` would excuse a misfit; empty where none should.

    Args:
        error: relative, on top of what sigma says.
        sigma_floor: that is in sigma.
    """
    if not error <= EXCUSABLE:
        return ""
    floor = (error**2 + sigma_floor**2) ** 0.5
    return (
        f"the best draw is within {error:.2g} of the data: sigma_floor={floor:.2g} if errors may be as large"
    )


def ends_at(named: Sequence[str]) -> str:
    """Say which bounds of what is known the fit ends at; empty for none."""
    return f"the fit ends at the bounds of {', '.join(named[:MOST_NAMED])}: widen them" if named else ""


def joined(words: Sequence[str]) -> str:
    """Say the first few of what there is to say."""
    return "; ".join([w for w in words if w][:MOST_SAID])
