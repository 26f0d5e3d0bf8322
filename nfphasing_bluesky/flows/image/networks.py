"""Networks of image flows. Draws are folded into the batch: N = S B, draws outermost.

What depends on the context alone has B rows, and meets the draws' N rows by broadcasting, so that nothing
of it is computed once a draw.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfphasing_bluesky.flows.conditioner import INPUT_RANGE
from nfphasing_bluesky.flows.transforms import full_precision


def add_context(x: Tensor, context: Tensor) -> Tensor:
    """Sum of x (N, ...) and context (B, ...), the same for every draw."""
    if x.shape[0] == context.shape[0]:
        return x + context
    return (x.unflatten(0, (-1, context.shape[0])) + context).flatten(0, 1)


def repeat_draws(context: Tensor, x: Tensor) -> Tensor:
    """Context (B, ...) as (N, ...), N rows as x has."""
    if x.shape[0] == context.shape[0]:
        return context
    return context.expand(x.shape[0] // context.shape[0], *context.shape).flatten(0, 1)


def limited(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Keep a network from following a coordinate that is hundreds of sigma out."""
    return (INPUT_RANGE * torch.tanh(x * (1 / INPUT_RANGE))).to(dtype)


def start_at_zero(layer: nn.Module) -> None:
    """Let a last layer predict nothing at first."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class ConvBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))); no normalisation, which would tie a pixel to the whole image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (N, width, h, w)."""
        return x + self.second(functional.silu(self.first(functional.silu(x))))


class Trunk(nn.Module):
    """Features (B, F, h, w) and the coarser image (N, C, h, w) to a hidden map (N, width, h, w).

    Without a coarser image the map has B rows. The layer that sees that image runs in float32 even under
    autocast: its contrasts can be below bfloat16's resolution.

    Args:
        features: F.
        coarse: C, or 0 for none.
        width: of the hidden map.
        blocks: residual blocks.
        coarse_scale: what the coarser image is multiplied by to have pixels of order one.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, features: int, coarse: int, width: int, blocks: int, coarse_scale: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(coarse, 1, 1))
        self.register_buffer("scale", torch.full((coarse, 1, 1), coarse_scale))
        self.from_features = nn.Conv2d(features, width, 1)
        self.from_coarse = nn.Conv2d(coarse, width, 3, padding=1, bias=False) if coarse else None
        self.blocks = nn.Sequential(*(ConvBlock(width) for _ in range(blocks)))

    @torch.no_grad()
    def initialise(self, coarse: Tensor) -> None:
        """See coarser images (..., C, h, w) like these with mean 0 and standard deviation 1."""
        values = coarse.movedim(-3, 0).flatten(1)
        self.shift.copy_(values.mean(1)[:, None, None])
        self.scale.copy_(values.std(1).clamp_min(1e-6).reciprocal()[:, None, None])

    def forward(self, features: Tensor, coarse: Tensor | None) -> Tensor:
        """Compute the hidden map."""
        hidden = self.from_features(features)
        if self.from_coarse is not None and coarse is not None:
            with full_precision(coarse):
                seen = limited((coarse - self.shift) * self.scale, self.from_coarse.weight.dtype)
                seen = self.from_coarse(seen)
            hidden = add_context(seen.to(hidden.dtype), hidden)
        return self.blocks(hidden)


class ConvConditioner(nn.Module):
    """Fixed coordinates (N, n, h, w) and a hidden map to the parameters (N, outputs, h, w) of a coupling.

    The last layer starts at zero, hence a coupling as the identity.
    """

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.from_fixed = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.from_hidden = nn.Conv2d(width, width, 1)
        self.blocks = nn.Sequential(*(ConvBlock(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, outputs, 1)
        start_at_zero(self.last)

    def forward(self, fixed: Tensor, hidden: Tensor) -> Tensor:
        """Predict, in the dtype that autocast chooses for convolutions."""
        seen = self.from_fixed(limited(fixed, self.from_fixed.weight.dtype))
        both = add_context(seen, self.from_hidden(functional.silu(hidden)))
        return self.last(functional.silu(self.blocks(both)))
