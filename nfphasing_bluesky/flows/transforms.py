"""What every invertible transform is, and how transforms are chained.

Shapes: `x` is (..., B, D), `context` is (B, E). The context enters by broadcasting, so that its
projections are computed once per B however many draws S stand in front.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class Transform(nn.Module):
    """An invertible map of (..., B, D), conditioned on (B, E).

    `forward` goes from data to latent. Both directions return the log of the absolute determinant of
    their own Jacobian, shape (..., B), in the dtype of `x`.
    """

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latent: (y, log|det dy/dx|)."""
        raise NotImplementedError

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map latent to data: (x, log|det dx/dy|)."""
        raise NotImplementedError


class Chain(Transform):
    """Transforms one after the other, the first one next to the data."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Apply every transform, first to last."""
        total = x.new_zeros(x.shape[:-1])
        for transform in self.transforms:
            x, log_det = transform(x, context)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Undo every transform, last to first."""
        total = y.new_zeros(y.shape[:-1])
        for transform in reversed(list(self.transforms)):
            assert isinstance(transform, Transform)  # noqa: S101  ModuleList forgets the element type
            y, log_det = transform.inverse(y, context)
            total = total + log_det
        return y, total


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Context in which autocast is off: determinants and narrow posteriors do not survive bfloat16."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def soft_clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Smooth, monotonic clamp to (low, high) with value 0 and slope 1 at 0; low < 0 < high."""
    return torch.where(x > 0, high * torch.tanh(x / high), low * torch.tanh(x / low))


def draws_last(x: Tensor) -> Tensor:
    """(..., B, D) to (B, D, S), S the product of the leading dimensions."""
    return x.reshape(-1, *x.shape[-2:]).permute(1, 2, 0)


def draws_first(x: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of `draws_last`, given the shape (..., B, D)."""
    return x.permute(2, 0, 1).reshape(shape)
