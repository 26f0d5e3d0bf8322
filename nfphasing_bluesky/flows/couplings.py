"""Coupling transforms: half of the coordinates, changed element by element given the other half."""

import torch
from torch import Tensor

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.conditioner import Conditioner
from nfphasing_bluesky.flows.settings import Split
from nfphasing_bluesky.flows.spline import knots, spline_forward, spline_inverse
from nfphasing_bluesky.flows.transforms import Transform

MAX_LOG_SCALE = 3.0


def split_masks(dimension: int, layers: int, split: Split, generator: torch.Generator) -> list[Tensor]:
    """(D,) masks, True where a layer transforms; two consecutive layers cover every coordinate."""
    if dimension == 1:
        return [torch.ones(1, dtype=torch.bool) for _ in range(layers)]
    masks: list[Tensor] = []
    for layer in range(layers):
        if layer % 2:
            masks.append(~masks[-1])
        elif split is Split.ALTERNATING:
            masks.append(torch.arange(dimension) % 2 == 0)
        else:
            masks.append(torch.randperm(dimension, generator=generator) % 2 == 0)
    return masks


class Coupling(Transform):
    """Base of couplings: splits, asks the conditioner, transforms, and puts the halves together again.

    Args:
        mask: (D,) bool, True for the coordinates to transform. All True is allowed: the transform is then
            conditioned on the context alone.
        context: E.
        hidden: width of the conditioner.
        blocks: residual blocks of the conditioner.
        per_coordinate: parameters of the element-wise map.
    """

    fixed: Tensor
    moving: Tensor
    restore: Tensor

    def __init__(self, mask: Tensor, context: int, hidden: int, blocks: int, per_coordinate: int) -> None:
        super().__init__()
        if not bool(mask.any()):
            raise SettingsError(f"coupling mask {mask.tolist()} transforms nothing, expected a True in it")
        self.register_buffer("fixed", torch.nonzero(~mask).squeeze(-1))
        self.register_buffer("moving", torch.nonzero(mask).squeeze(-1))
        self.register_buffer("restore", torch.argsort(torch.cat((self.fixed, self.moving))))
        self.per_coordinate = per_coordinate
        self.conditioner = Conditioner(
            self.fixed.numel(), context, self.moving.numel() * per_coordinate, hidden, blocks
        )

    def _element_wise(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _apply_half(self, x: Tensor, context: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        fixed = x.index_select(-1, self.fixed)
        moving = x.index_select(-1, self.moving)
        parameters = self.conditioner(fixed, context).to(x.dtype)
        parameters = parameters.unflatten(-1, (moving.shape[-1], self.per_coordinate))
        moved, log_slopes = self._element_wise(moving, parameters, inverse)
        return torch.cat((fixed, moved), dim=-1).index_select(-1, self.restore), log_slopes.sum(dim=-1)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Transform the moving half."""
        return self._apply_half(x, context, inverse=False)

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Undo it, at the same cost."""
        return self._apply_half(y, context, inverse=True)


class AffineCoupling(Coupling):
    """y = x exp(s) + t, with s softly clamped to (-3, 3)."""

    def __init__(self, mask: Tensor, context: int, hidden: int = 128, blocks: int = 1) -> None:
        super().__init__(mask, context, hidden, blocks, per_coordinate=2)

    def _element_wise(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.unbind(-1)
        log_scale = MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)
        if inverse:
            return (x - shift) * torch.exp(-log_scale), -log_scale.expand_as(x)
        return x * torch.exp(log_scale) + shift, log_scale.expand_as(x)


class SplineCoupling(Coupling):
    """Rational-quadratic splines with K bins on [-bound, bound] and the identity outside."""

    def __init__(
        self,
        mask: Tensor,
        context: int,
        hidden: int = 128,
        blocks: int = 1,
        bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        super().__init__(mask, context, hidden, blocks, per_coordinate=3 * bins - 1)
        self.bins = bins
        self.bound = bound

    def _element_wise(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        table = knots(parameters, self.bins, self.bound)
        apply = spline_inverse if inverse else spline_forward
        return apply(x, table, self.bound)
