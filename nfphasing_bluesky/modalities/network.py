"""The network of the 1-D modalities: one encoder, a class head, one bounded flow per class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Settings
from nfphasing_bluesky.flows import (
    CurveNetwork,
    EncoderSettings,
    FlowAndFits,
    FlowDistribution,
    FlowSettings,
    LocalFits,
    MixtureDistribution,
    MixtureOfFlows,
    build_flow,
)
from nfphasing_bluesky.modalities.draws import Anchors, ClassSpec, Draws


class NetworkSettings(Settings):
    """Architecture of a 1-D model.

    `own` are the flows of classes, by name, that differ from `flow`.
    """

    encoder: EncoderSettings = EncoderSettings(width=384, blocks=4)
    flow: FlowSettings = FlowSettings(layers=5, hidden=96, head_hidden=128, head_blocks=1)
    own: dict[str, FlowSettings] = {}


class Pilots(NamedTuple):
    """Draws of one class that were made before, P of each of F frames.

    `frames` (F,), theta (F, P, D), and log_q (F, P) of class and theta.
    """

    frames: Tensor
    theta: Tensor
    log_q: Tensor


@dataclass(frozen=True)
class DrawDistribution:
    """q(class, theta | I) for B frames.

    Args:
        mixture: class probabilities and flows.
        embedding: (B, E) context, also what the out-of-distribution score looks at.
        anchors: where the physics puts each class's posterior.
        width: D of the padded theta.
        pilots: class -> draws of it that there are already; `draw` begins with them.
        fits: class -> fits of every frame that begin at draws of its flow, where they were made.
    """

    mixture: MixtureDistribution
    embedding: Tensor
    anchors: Anchors
    width: int
    pilots: Mapping[int, Pilots] = field(default_factory=dict, kw_only=True)
    fits: Mapping[int, LocalFits] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        return self.embedding.shape[0]

    @property
    def class_log_probs(self) -> Tensor:
        """(B, K)."""
        return self.mixture.class_log_probs

    def with_classes(
        self, log_probs: Tensor, pilots: Mapping[int, Pilots] | None = None
    ) -> "DrawDistribution":
        """Return the distribution with other class probabilities (B, K), and draws that found them."""
        own = self.mixture
        mixture = MixtureDistribution(own.mixture, own.context, log_probs.to(own.class_log_probs))
        return replace(self, mixture=mixture, pilots=self.pilots if pilots is None else pilots)

    def with_fits(self, fits: Mapping[int, LocalFits]) -> "DrawDistribution":
        """Return the distribution with fits beside the flows of some classes."""
        return replace(self, fits=fits)

    def without_fits(self) -> "DrawDistribution":
        """Return the flows alone, with the same class probabilities."""
        return replace(self, fits={}, pilots={}) if self.fits else self

    def prepare(self, wanted: Mapping[int, Tensor]) -> None:
        """Find what classes need, each for some frames, in one go."""
        self.anchors.prepare(wanted)

    def of_class(self, k: int, frames: Tensor) -> FlowDistribution | FlowAndFits:
        """q(theta | class, I) of some frames."""
        flow = self.flow_of_class(k, frames)
        return FlowAndFits(flow, self.fits[k].at(frames)) if k in self.fits else flow

    def flow_of_class(self, k: int, frames: Tensor) -> FlowDistribution:
        """Its flow alone."""
        return self.mixture.class_distribution(k, frames, self.anchors.get(k, frames))

    def log_prob(self, draws: Draws) -> Tensor:
        """(N,) joint log density of class and theta; fastest when all draws belong to one frame."""
        out = draws.theta.new_full((len(draws),), -torch.inf)
        shared = len(draws) > 0 and bool((draws.frame == draws.frame[0]).all())
        for k in range(self.class_log_probs.shape[1]):
            chosen = (draws.label == k).nonzero()[:, 0]
            if not chosen.numel():
                continue
            frame = draws.frame[chosen]
            theta = draws.theta[chosen, : self.mixture.mixture.flow(k).dimension]
            if shared:
                value = self.of_class(k, frame[:1]).log_prob(theta[:, None])[:, 0]
            else:
                value = self.of_class(k, frame).log_prob(theta)
            out = out.index_copy(0, chosen, value + self.class_log_probs[frame, k])
        return out

    def draw(self, noise: Tensor) -> tuple[Draws, Tensor]:
        """Draws of every frame and their joint log density, differentiable.

        Args:
            noise: (B, S, 1 + D) standard normal; the first column chooses the class.

        Returns:
            B*S draws, those of one frame together, and (B*S,) log q.
        """
        if self.class_log_probs.shape[1] == 1 and not self.pilots:
            return self._draw_alike(noise)
        b, s = noise.shape[:2]
        label = stratified(noise[..., 0], self.class_log_probs.detach().exp())
        theta = noise.new_zeros(b * s, self.width)
        log_q = noise.new_zeros(b * s)
        for k in range(self.class_log_probs.shape[1]):
            member = label == k
            if k in self.pilots:
                member = member & ~self._take_pilots(k, member, theta, log_q)
            frames = member.any(1).nonzero()[:, 0]
            if not frames.numel():
                continue
            width = self.mixture.mixture.flow(k).dimension
            most = int(member.sum(1).max())
            order = (~member[frames]).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
            kept = member[frames].gather(1, order)
            latent = noise[frames[:, None], order, 1 : 1 + width]
            values, log_prob = self.of_class(k, frames).from_latent(latent.transpose(0, 1))
            flat = (frames[:, None] * s + order)[kept]
            padded = nn.functional.pad(values.transpose(0, 1), (0, self.width - width))
            log_prob = log_prob.transpose(0, 1) + self.class_log_probs[frames, k][:, None]
            theta = theta.index_copy(0, flat, padded[kept].to(theta.dtype))
            log_q = log_q.index_copy(0, flat, log_prob[kept].to(log_q.dtype))
        frame = torch.arange(b, device=noise.device).repeat_interleave(s)
        return Draws(label.reshape(-1), theta, frame), log_q

    def _draw_alike(self, noise: Tensor) -> tuple[Draws, Tensor]:
        """`draw` where there is one class: every row of noise is of it."""
        b, s = noise.shape[:2]
        everyone = torch.arange(b, device=noise.device)
        theta, log_q = self.of_class(0, everyone).from_latent(noise[..., 1 : 1 + self.width].transpose(0, 1))
        log_q = (log_q + self.class_log_probs[:, 0]).T.reshape(-1)
        label = torch.zeros(b * s, dtype=torch.long, device=noise.device)
        flat = theta.transpose(0, 1).reshape(b * s, self.width)
        return Draws(label, flat.to(noise.dtype), everyone.repeat_interleave(s)), log_q.to(noise.dtype)

    def _take_pilots(self, k: int, member: Tensor, theta: Tensor, log_q: Tensor) -> Tensor:
        """Put pilots of class k in their places of theta and log_q; (B, S) bool, which draws these are."""
        pilots = self.pilots[k]
        row = pilots.frames.new_full((len(member),), -1)
        row[pilots.frames] = torch.arange(len(pilots.frames), device=row.device)
        rank = member.cumsum(1) - 1
        taken = member & (rank < pilots.theta.shape[1]) & (row >= 0)[:, None]
        frame, draw = taken.nonzero(as_tuple=True)
        place, pilot = frame * member.shape[1] + draw, rank[taken]
        theta[place, : pilots.theta.shape[2]] = pilots.theta[row[frame], pilot].to(theta)
        log_q[place] = pilots.log_q[row[frame], pilot].to(log_q)
        return taken


def stratified(normal: Tensor, probabilities: Tensor) -> Tensor:
    """(B, S) choices among K of probabilities (B, K), from standard normals (B, S).

    One stratified uniform per draw, so that shares follow the probabilities.
    """
    s = normal.shape[1]
    rank = normal.argsort(1).argsort(1)
    u = (rank + torch.special.ndtr(normal[:, :1])) / s
    cdf = probabilities.cumsum(1)
    return torch.searchsorted(cdf / cdf[:, -1:], u.contiguous()).clamp_max(cdf.shape[1] - 1)


class CurvePosterior(nn.Module):
    """Encoder, class head and flows.

    Args:
        classes: K of them.
        settings: architecture.
        features: of the anchors of each class.
        encoder: of channels and scalars to a context as wide as the settings say; that of curves if None.
    """

    def __init__(
        self,
        classes: Sequence[ClassSpec],
        settings: NetworkSettings,
        features: Sequence[int],
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = CurveNetwork(settings.encoder) if encoder is None else encoder
        self.width = max(len(c.free) for c in classes)
        width = settings.encoder.context
        flows = {
            c.name: build_flow(
                len(c.free), width + extra, c.lower, c.upper, settings.own.get(c.name, settings.flow)
            )
            for c, extra in zip(classes, features, strict=True)
        }
        self.mixture = MixtureOfFlows(flows, width)

    def forward(self, channels: Tensor, extra: Tensor, anchors: Anchors) -> DrawDistribution:
        """Condition on (B, C, N) channels, (B, K) extra scalars and the anchors of the same frames."""
        embedding = self.encoder(channels, extra)
        return DrawDistribution(self.mixture(embedding), embedding, anchors, self.width)
