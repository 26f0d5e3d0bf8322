"""Networks that predict the parameters of a transform."""

from torch import Tensor, nn
from torch.nn import functional

# Coordinates enter the networks through a tanh of this range: early in training a standardised
# coordinate can be hundreds of sigma out, and the network must not follow it there.
INPUT_RANGE = 8.0


class ResidualBlock(nn.Module):
    """h + W2 silu(W1 silu(h) + shift)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, hidden: Tensor, shift: Tensor) -> Tensor:
        """Apply to (..., width) with a shift that broadcasts against it."""
        inner = self.first(functional.silu(hidden)) + shift
        return hidden + self.second(functional.silu(inner))


class Conditioner(nn.Module):
    """Residual MLP of coordinates (..., B, n) and context (B, E) to (..., B, outputs).

    The context enters additively, before the first activation and inside every block, through one
    linear layer evaluated once per B. The last layer starts at zero, hence a flow as the identity.

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
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(blocks))
        self.last = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, coordinates: Tensor | None, context: Tensor) -> Tensor:
        """Predict, in the dtype that autocast chooses for linear layers."""
        shifts = self.from_context(context).split(self.hidden, dim=-1)
        hidden = shifts[0]
        if self.from_coordinates is not None and coordinates is not None:
            squashed = INPUT_RANGE * (coordinates / INPUT_RANGE).tanh()
            hidden = self.from_coordinates(squashed) + hidden
        for block, shift in zip(self.blocks, shifts[1:], strict=True):
            hidden = block(hidden, shift)
        return self.last(functional.silu(hidden))
