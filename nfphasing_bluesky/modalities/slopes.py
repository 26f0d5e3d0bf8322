"""Derivatives of patterns by their parameters from small steps, for models that have no others."""

from collections.abc import Callable

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Box

DIFFERENCE = 1e-3
"""Step, over the width of the box."""


def differences(
    curves: Callable[[Tensor, Tensor], Tensor], box: Box, theta: Tensor, q: Tensor
) -> tuple[Tensor, Tensor]:
    """P(q) and its (N, D, Q) derivatives by theta, from steps of `DIFFERENCE` of the box.

    Args:
        curves: (N, 1 + D, D) objects, the first at theta and one moved along each coordinate, and (N, ...) q
            to (N, 1 + D, Q).
        box: of theta.
        theta: (N, D).
        q: (N, ...).
    """
    step = DIFFERENCE * (box.upper - box.lower).to(theta)
    sign = torch.where(theta + step < box.upper, 1.0, -1.0).to(theta)
    moved = theta[:, None] + torch.diag_embed(sign * step)
    found = curves(torch.cat([theta[:, None], moved], dim=1), q).double()
    return found[:, 0], (found[:, 1:] - found[:, :1]) / (sign * step)[:, :, None]
