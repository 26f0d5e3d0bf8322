"""The network of oriented particles: angles in the detector's plane are learnt from the pattern's own axis.

A pattern repeats after half a turn, so phi has no edge; the flow sees it from -90 to 90 degrees around an
axis found in the pattern itself, which puts posteriors away from the ends of that interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Settings
from nfphasing_bluesky.flows import (
    Anchor,
    ConditionalFlow,
    CurveNetwork,
    EncoderSettings,
    FlowDistribution,
    FlowSettings,
    MixtureOfFlows,
    build_flow,
)
from nfphasing_bluesky.modalities.draws import Anchors, ClassSpec
from nfphasing_bluesky.modalities.network import DrawDistribution

PHI = 1
"""Column of theta that is an azimuth in the detector's plane, rad."""


class PatternNetworkSettings(Settings):
    """Architecture of a model of oriented particles; the encoder's grid is not used, its map is fixed."""

    encoder: EncoderSettings = EncoderSettings(width=256, blocks=3, context=96)
    flow: FlowSettings = FlowSettings(layers=4, hidden=64, head_hidden=96, head_blocks=1)


def around(phi: Tensor, axis: Tensor) -> Tensor:
    """Phi counted from the axis, -pi/2 to pi/2."""
    return (phi - axis + pi / 2).remainder(pi) - pi / 2


class TurnedFlow(FlowDistribution):
    """A flow over theta whose azimuth is counted from each context's axis (B,); theta has the true one."""

    def __init__(self, flow: ConditionalFlow, context: Tensor, anchor: Anchor | None, axis: Tensor) -> None:
        super().__init__(flow, context, anchor)
        self.axis = axis

    def log_prob(self, theta: Tensor) -> Tensor:
        """Log density (..., B) of theta (..., B, D), the same for azimuths half a turn apart."""
        parts = list(theta.unbind(-1))
        parts[PHI] = around(parts[PHI], self.axis.to(theta))
        return super().log_prob(torch.stack(parts, -1))

    def from_latent(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Theta (..., B, D) of latent noise, azimuths within a quarter turn of the axis, and log density."""
        theta, log_prob = super().from_latent(z)
        parts = list(theta.unbind(-1))
        parts[PHI] = parts[PHI] + self.axis.to(theta)
        return torch.stack(parts, -1), log_prob


@dataclass(frozen=True)
class TurnedDistribution(DrawDistribution):
    """q(class, theta | I) for B frames with axes (B,)."""

    axis: Tensor

    def of_class(self, k: int, frames: Tensor) -> FlowDistribution:
        """q(theta | class, I) of some frames."""
        own = self.flow_of_class(k, frames)
        return TurnedFlow(own.flow, own.context, own.anchor, self.axis[frames])


class PatternPosterior(nn.Module):
    """Encoder, class head and flows.

    Args:
        classes: K of them, their azimuth without bounds.
        settings: architecture.
        points: of the encoder's map.
        channels: of it.
        extras: scalars beside it, but for the axis.
        features: of the anchors of each class.
    """

    def __init__(
        self,
        classes: Sequence[ClassSpec],
        settings: PatternNetworkSettings,
        points: int,
        channels: int,
        extras: int,
        features: Sequence[int],
    ) -> None:
        super().__init__()
        encoder = settings.encoder.model_copy(update={"extras": extras})
        self.encoder = CurveNetwork(encoder, channels, points)
        self.width = max(len(c.free) for c in classes)
        flows = {}
        for c, extra in zip(classes, features, strict=True):
            lower, upper = turned_bounds(c)
            flows[c.name] = build_flow(len(lower), encoder.context + extra, lower, upper, settings.flow)
        self.mixture = MixtureOfFlows(flows, encoder.context)

    def forward(self, channels: Tensor, extra: Tensor, anchors: Anchors) -> TurnedDistribution:
        """Condition on (B, C, N) channels, (B, 1 + E) axis and scalars, and anchors of the same frames."""
        embedding = self.encoder(channels, extra[:, 1:])
        return TurnedDistribution(self.mixture(embedding), embedding, anchors, self.width, extra[:, 0])


def turned_bounds(spec: ClassSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds of the free parameters, the azimuth counted from the pattern's axis."""
    lower, upper = list(spec.lower), list(spec.upper)
    lower[PHI], upper[PHI] = -pi / 2, pi / 2
    return tuple(lower), tuple(upper)
