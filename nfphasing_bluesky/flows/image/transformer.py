"""Transformers that give token couplings their parameters."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfphasing_bluesky.flows.image.attention import grid_positions, rotate
from nfphasing_bluesky.flows.image.networks import Given, add_context, limited, repeat_draws, start_at_zero


class TokenBlock(nn.Module):
    """Transformer block of tokens (N, T, D), which attend to each other and to (B, M, D) of context."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.context_norm, self.second_norm = (nn.LayerNorm(width) for _ in range(3))
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.merge = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor, places: Tensor, context_places: Tensor) -> Tensor:
        """Attend, then transform each token; places are (T, 2) and (M, 2) in steps of a token."""
        normed = self.norm(x)
        query = rotate(self._heads(self.query(normed)), places)
        key, value = (self._heads(v) for v in self.key_value(normed).chunk(2, dim=-1))
        others = self.key_value(self.context_norm(context)).chunk(2, dim=-1)
        more_keys, more_values = (self._heads(v) for v in others)
        key = torch.cat((rotate(key, places), repeat_draws(rotate(more_keys, context_places), x)), dim=2)
        value = torch.cat((value, repeat_draws(more_values, x)), dim=2)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.merge(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.second_norm(x))


class TokenConditioner(nn.Module):
    """Tokens (N, n, h, w), zero where they move, and a hidden map to parameters (N, outputs, h, w).

    The context tokens are the pixels of the encoder's coarsest map. The last layer starts at zero.

    Args:
        inputs: n, values a token.
        outputs: parameters a token.
        coarsest: channels of the encoder's coarsest map.
        width, heads, layers: of the transformer.
    """

    def __init__(self, inputs: int, outputs: int, coarsest: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.from_fixed = nn.Conv2d(inputs, width, 1, bias=False)
        self.from_hidden = nn.Conv2d(width, width, 1)
        self.from_coarsest = nn.Conv2d(coarsest, width, 1)
        self.blocks = nn.ModuleList(TokenBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, outputs)
        start_at_zero(self.last)

    def forward(self, fixed: Tensor, given: Given) -> Tensor:
        """Predict, in the dtype that autocast chooses for linear layers."""
        seen = self.from_fixed(limited(fixed, self.from_fixed.weight.dtype))
        tokens = add_context(seen, self.from_hidden(functional.silu(given.hidden)))
        coarsest = given.maps[0]
        context = self.from_coarsest(coarsest).flatten(2).transpose(1, 2)
        places = grid_positions(tokens)
        context_places = grid_positions(coarsest, spacing=tokens.shape[-1] / coarsest.shape[-1])
        x = tokens.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, context, places, context_places)
        return self.last(self.norm(x)).transpose(1, 2).unflatten(2, tuple(fixed.shape[-2:]))
