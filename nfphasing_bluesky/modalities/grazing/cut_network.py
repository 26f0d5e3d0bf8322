"""The network of pairs of cuts: one encoder for both, a class head and a flow for each class."""

from collections.abc import Mapping

from torch import Tensor

from nfphasing_bluesky.flows import EncoderSettings, FlowSettings, LogGrid
from nfphasing_bluesky.flows.resample import CHANNELS
from nfphasing_bluesky.modalities.draws import Anchors
from nfphasing_bluesky.modalities.grazing.particle_prior import CLASSES
from nfphasing_bluesky.modalities.network import (
    CurvePosterior,
    DrawDistribution,
    NetworkSettings,
    Pilots,
)

IN_PLANE_GRID = LogGrid(points=64, q_min_inv_angstrom=0.002, q_max_inv_angstrom=0.27)
OUT_OF_PLANE_GRID = LogGrid(points=112, q_min_inv_angstrom=0.001, q_max_inv_angstrom=0.4)
"""Of the vertical wave vector of what leaves, k sin(exit angle)."""
EXTRAS = 10
SETTINGS = NetworkSettings(
    encoder=EncoderSettings(width=384, blocks=3, context=96, extras=EXTRAS),
    flow=FlowSettings(layers=6, hidden=96, head_hidden=128, head_blocks=1),
)


class CutsDistribution(DrawDistribution):
    """q(class, theta | I) whose class probabilities are the network's own.

    So few of its draws explain a bright frame that one lucky draw would decide what the evidence is.
    """

    def with_classes(
        self, log_probs: Tensor, pilots: Mapping[int, Pilots] | None = None
    ) -> "CutsDistribution":
        """Return the distribution as it is."""
        return self


class CutsPosterior(CurvePosterior):
    """The network of pairs of cuts: its encoder sees both on grids of their own.

    Args:
        settings: architecture.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(CLASSES, settings, [0] * len(CLASSES))
        points = IN_PLANE_GRID.points + OUT_OF_PLANE_GRID.points
        self.encoder = type(self.encoder)(settings.encoder, len(CHANNELS), points)

    def forward(self, channels: Tensor, extra: Tensor, anchors: Anchors) -> CutsDistribution:
        """Condition on (B, C, N) channels and (B, E) scalars; anchors are those of the prior."""
        found = super().forward(channels, extra, anchors)
        return CutsDistribution(found.mixture, found.embedding, found.anchors, found.width)
