"""Bounds of images: one interval a channel, and no pixel of any draw outside it."""

import torch
from torch import Tensor, nn

from nfphasing_bluesky.flows.box import Box


class ImageBox(nn.Module):
    """`Box` for every pixel of (..., C, H, W), with one pair of bounds a channel.

    A posterior that puts a finite probability on a bound itself (empty pixels of exactly 0 with a lower bound
    of 0) has no density: let the bounds lie outside of the values that occur.

    Args:
        lower: (C,) lower bounds; minus infinity, with an infinite upper bound, for an unbounded channel.
        upper: (C,) upper bounds.
    """

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        super().__init__()
        self.box = Box(lower, upper)

    @property
    def channels(self) -> int:
        """C."""
        return self.box.lower.numel()

    def contains(self, u: Tensor) -> Tensor:
        """(...) bool: all of u (..., C, H, W) within the closed box, give or take rounding."""
        return self.box.contains(u.movedim(-3, -1)).all(dim=-1).all(dim=-1)

    def clamped(self, u: Tensor, margin: float = 0.01) -> Tensor:
        """U (..., C, H, W) moved to within the box, a share `margin` of its width away from the bounds."""
        edge = margin * (self.box.upper - self.box.lower)
        low, high = ((b[:, None, None]) for b in (self.box.lower + edge, self.box.upper - edge))
        return torch.minimum(torch.maximum(u, low), high)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map the box to all of R: y (..., C, H, W) and log|det dy/du| (...)."""
        y, log_det = self.box(u.movedim(-3, -1), u)
        return y.movedim(-1, -3), log_det.sum(dim=(-2, -1))

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map R into the box: u (..., C, H, W) and log|det du/dy| (...)."""
        u, log_det = self.box.inverse(y.movedim(-3, -1), y)
        return u.movedim(-1, -3), log_det.sum(dim=(-2, -1))
