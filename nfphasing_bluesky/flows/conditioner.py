"""Networks that predict the parameters of a transform."""

import torch
from torch import Tensor, nn
from torch.nn import functional

# Coordinates enter the networks through a tanh of this range: early in training a standardised
# coordinate can be hundreds of sigma out, and the network must not follow it there.
INPUT_RANGE = 8.0


class Conditioner(nn.Module):
    """Residual MLP of coordinates (..., B, n) and context (B, E) to (..., B, outputs).

    The context enters additively, before the first activation and in every block, through one linear
    layer evaluated once per B: h = W_x x + c_0, then h = h + W silu(h) + c_i. The last layer starts at
    zero, hence a flow as the identity.

    Args:
        inputs: number of coordinates; 0 for a network of the context alone, whose output is (B, outputs).
        context: E, at least 1.
        outputs: number of predicted values.
        hidden: width of the layers.
        blocks: number of residual blocks.
    """

    def __init__(self, inputs: int, context: int, outputs: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_context = nn.Linear(context, hidden * (blocks + 1))
        self.from_coordinates = nn.Linear(inputs, hidden, bias=False) if inputs else None
        self.blocks = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(blocks))
        self.last = nn.Linear(hidden, outputs)
        if self.from_coordinates is not None:
            with torch.no_grad():
                self.from_coordinates.weight.mul_(INPUT_RANGE)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, coordinates: Tensor | None, context: Tensor) -> Tensor:
        """Predict, in the dtype that autocast chooses for linear layers."""
        shifts = self.from_context(context).split(self.hidden, dim=-1)
        hidden = shifts[0]
        if self.from_coordinates is not None and coordinates is not None:
            hidden = self.from_coordinates(torch.tanh(coordinates * (1 / INPUT_RANGE))) + hidden
        for block, shift in zip(self.blocks, shifts[1:], strict=True):
            hidden = hidden + shift + block(functional.silu(hidden))
        return self.last(functional.silu(hidden))
