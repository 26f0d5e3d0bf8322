"""The networks of binned frames: one encoder of their map, a class head and a flow for each class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfphasing_bluesky.flows import EncoderSettings, FlowSettings
from nfphasing_bluesky.flows.encoder import NormedBlock
from nfphasing_bluesky.modalities.draws import ClassSpec
from nfphasing_bluesky.modalities.grazing.bin_grid import Shape
from nfphasing_bluesky.modalities.network import CurvePosterior, NetworkSettings

CHANNELS = 4
EXTRAS = 9
PARTICLES = NetworkSettings(
    encoder=EncoderSettings(width=384, blocks=3, context=96, stem_channels=32, extras=EXTRAS),
    flow=FlowSettings(layers=6, hidden=96, head_hidden=128, head_blocks=1),
)
FILMS = NetworkSettings(
    encoder=EncoderSettings(width=352, blocks=3, context=192, stem_channels=24, extras=EXTRAS),
    flow=FlowSettings(layers=6, hidden=128, head_hidden=128, head_blocks=1),
)


class MapNetwork(nn.Module):
    """Two strided convolutions of a map, and a residual MLP of what they leave and of scalars, to a context.

    Args:
        settings: architecture; the encoder's grid is not used.
        shape: of the map, multiples of four.
    """

    def __init__(self, settings: EncoderSettings, shape: Shape) -> None:
        super().__init__()
        self.shape, few, many = shape, settings.stem_channels, settings.stem_channels * 3 // 2
        self.fine = nn.Conv2d(CHANNELS, few, 4, stride=2, padding=1)
        self.coarse = nn.Conv2d(few, many, 3, stride=2, padding=1)
        self.first = nn.Linear(many * shape.bins // 16 + settings.extras, settings.width)
        self.blocks = nn.Sequential(*(NormedBlock(settings.width) for _ in range(settings.blocks)))
        self.norm = nn.LayerNorm(settings.width)
        self.last = nn.Linear(settings.width, settings.context)

    def forward(self, channels: Tensor, extras: Tensor) -> Tensor:
        """Context (B, E) of channels (B, C, Q) and scalars (B, K)."""
        seen = functional.silu(self.fine(channels.unflatten(2, tuple(self.shape))))
        seen = functional.silu(self.coarse(seen)).flatten(1)
        hidden = self.first(torch.cat([seen, extras.to(seen)], 1))
        context: Tensor = self.last(self.norm(self.blocks(hidden)))
        return context


class FramePosterior(CurvePosterior):
    """The network of frames: its encoder sees all bins, whose places its scalars say.

    Args:
        classes: K of them.
        settings: architecture; the encoder's grid is not used.
        shape: of the bins.
    """

    def __init__(self, classes: Sequence[ClassSpec], settings: NetworkSettings, shape: Shape) -> None:
        super().__init__(classes, settings, [0] * len(classes), MapNetwork(settings.encoder, shape))
