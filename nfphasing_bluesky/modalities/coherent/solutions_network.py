"""The network of patterns with several solutions: a mixture over them, one flow that starts at each.

q(theta | I) = sum_k w_k flow(theta | I, anchor k). The weights w_k are those of the anchors, of which a
solution may have several; draws are spread over them in those shares.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Settings
from nfphasing_bluesky.flows import (
    Anchor,
    ConditionalFlow,
    CurveNetwork,
    EncoderSettings,
    FlowDistribution,
    build_flow,
)
from nfphasing_bluesky.flows.settings import FlowSettings, Standardiser
from nfphasing_bluesky.modalities.coherent.coherent_frames import CHANNELS, EXTRAS, points
from nfphasing_bluesky.modalities.coherent.solutions import ANSWER, LOG_WEIGHT
from nfphasing_bluesky.modalities.draws import Anchors, Draws
from nfphasing_bluesky.modalities.network import stratified
from nfphasing_bluesky.physics.coherent import pattern_shape


class SolutionsSettings(Settings):
    """Grid, prior, search and architecture of a model of coherent patterns.

    `shape` is that of the object; `correlation_px` 0 makes its pixels independent. `starts` fits of at most
    `steps` steps look for at most `slots` solutions.
    """

    shape: tuple[int, int] = (8, 8)
    correlation_px: float = 1.0
    contrast: float = 1.5
    reach: float = 0.8
    starts: int = 16
    steps: int = 60
    slots: int = 8
    encoder: EncoderSettings = EncoderSettings(width=128, blocks=2, context=32)
    flow: FlowSettings = FlowSettings(
        layers=0, standardiser=Standardiser.AFFINE, head_hidden=64, head_blocks=1
    )


@dataclass(frozen=True)
class SolutionsDistribution:
    """q(theta | I) for B frames.

    Args:
        flow: of one solution.
        embedding: (B, E).
        found: anchors of the frames, slot by slot; asked for when a density or a draw needs them.
    """

    flow: ConditionalFlow
    embedding: Tensor
    found: Anchors

    def __len__(self) -> int:
        return len(self.embedding)

    @cached_property
    def _solutions(self) -> tuple[tuple[Anchor, ...], Tensor]:
        """Anchors of the K slots that are used, and their (B, K) log weights."""
        frames = torch.arange(len(self), device=self.embedding.device)
        each = [self.found.get(k, frames) for k in self.found.kinds]
        log_weights = torch.stack([a.features[:, LOG_WEIGHT] for a in each], 1)
        used = int((log_weights > -torch.inf).any(0).sum())
        return tuple(each[:used]), log_weights[:, :used].to(self.embedding)

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """Those of every slot, (K,) of them for B frames each."""
        return self._solutions[0]

    @property
    def log_weights(self) -> Tensor:
        """(B, K)."""
        return self._solutions[1]

    @cached_property
    def answers(self) -> Tensor:
        """(B, K) int64, solution that an anchor belongs to."""
        return torch.stack([a.features[:, ANSWER] for a in self.anchors], 1).round().long()

    @cached_property
    def _shares(self) -> Tensor:
        """(B, K) weight of the solution that an anchor belongs to."""
        together = self.answers[:, :, None] == self.answers[:, None]
        return (together * self.log_weights.exp()[:, None]).sum(2)

    @property
    def class_log_probs(self) -> Tensor:
        """(B, K) zeros: solutions are no classes of the prior."""
        return self.embedding.new_zeros(len(self), len(self.anchors))

    def log_prob(self, draws: Draws) -> Tensor:
        """(N,) log density, the sum over all solutions."""
        return torch.logsumexp(self.parts(draws), 1)

    def parts(self, draws: Draws) -> Tensor:
        """(N, K) log of the weight and density of every solution."""
        b = len(self)
        each = len(draws) // b
        rows = torch.arange(b, device=draws.frame.device).repeat_interleave(each)
        if len(rows) == len(draws) and bool((draws.frame == rows).all()):
            theta = draws.theta.unflatten(0, (b, each)).transpose(0, 1)
            columns = [
                self._of(k, rows[::each]).log_prob(theta).T.flatten() for k in range(len(self.anchors))
            ]
        else:
            columns = [self._of(k, draws.frame).log_prob(draws.theta) for k in range(len(self.anchors))]
        return torch.stack(columns, 1) + self.log_weights[draws.frame]

    def made_from(self, draws: Draws) -> Tensor:
        """(N,) anchor that each draw is likeliest from."""
        return self.parts(draws).argmax(1)

    def draw(self, noise: Tensor) -> tuple[Draws, Tensor]:
        """Draws of every frame and their log density, differentiable but for the weights.

        Args:
            noise: (B, S, 1 + D) standard normal; the first column chooses the solution.

        Returns:
            B S draws, those of one frame together, their labels the solutions, and (B S,) log q.
        """
        b, s = noise.shape[:2]
        slot = stratified(noise[..., 0], self.log_weights.exp())
        theta = noise.new_zeros(b * s, noise.shape[2] - 1)
        for k in range(len(self.anchors)):
            for frame in (slot == k).any(1).nonzero()[:, 0]:
                member = (slot[frame] == k).nonzero()[:, 0]
                values, _ = self._of(k, frame[None]).from_latent(noise[frame, member, None, 1:])
                theta = theta.index_copy(0, frame * s + member, values[:, 0].to(theta))
        frame = torch.arange(b, device=noise.device).repeat_interleave(s)
        draws = Draws(self.answers.gather(1, slot).flatten(), theta, frame)
        return draws, self.log_prob(draws)

    def _of(self, k: int, frames: Tensor) -> FlowDistribution:
        anchor = self.anchors[k].at(frames)
        features = anchor.features[:, LOG_WEIGHT + 1 : ANSWER].to(self.embedding)
        weight = self._shares[frames, k, None]
        return self.flow(torch.cat([self.embedding[frames], weight, features], 1), anchor)


class SolutionsPosterior(nn.Module):
    """Encoder and flow.

    Args:
        settings: architecture.
    """

    def __init__(self, settings: SolutionsSettings) -> None:
        super().__init__()
        rows, columns = points(pattern_shape(settings.shape))
        encoder = settings.encoder.model_copy(update={"extras": EXTRAS})
        self.encoder = CurveNetwork(encoder, CHANNELS, rows * columns)
        pixels = settings.shape[0] * settings.shape[1]
        self.flow = build_flow(
            pixels, encoder.context + ANSWER, [0.0] * pixels, [1.0] * pixels, settings.flow
        )

    def forward(self, channels: Tensor, extra: Tensor, anchors: Anchors) -> SolutionsDistribution:
        """Condition on (B, C, N) channels, (B, E) scalars and the anchors of the same frames."""
        return SolutionsDistribution(self.flow, self.encoder(channels, extra), anchors)
