"""The network of the imaging modalities: a U-Net, a bounded image flow, tiles for large frames."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import Settings, SettingsError
from nfphasing_bluesky.flows.image import (
    ImageBox,
    ImageEncoder,
    ImageEncoderSettings,
    ImageFeatures,
    ImageFlow,
    ImageFlowDistribution,
    WaveletFlowSettings,
    build_image_flow,
)
from nfphasing_bluesky.modalities.draws import Anchors, Draws
from nfphasing_bluesky.modalities.imaging.tiles import Tiling, tiling

PIXELS_AT_ONCE, ON_GPU = 2**19, 2**22
"""Pixels of tiles, times draws, that go through encoder or flow together, on the processor and on a GPU.

On its way a U-Net holds hundreds of bytes a pixel, and every pixel of a large frame is in four tiles.
"""


class ImageNetworkSettings(Settings):
    """Architecture of an imaging model; `tile` is the side of the frames that it is trained on."""

    encoder: ImageEncoderSettings = ImageEncoderSettings()
    flow: WaveletFlowSettings = WaveletFlowSettings()
    tile: int = 64


def tiles_at_once(tiles: Tensor) -> int:
    """Of tiles (..., h, w), how many times draws go through the network together."""
    most = PIXELS_AT_ONCE if tiles.device.type == "cpu" else ON_GPU
    return max(1, most // (tiles.shape[-2] * tiles.shape[-1]))


@dataclass(frozen=True)
class ImageDistribution:
    """q(u | I) for B frames of H x W pixels. There is one class.

    Args:
        network: that made it.
        features: of B T tiles.
        log_scale: (B, C) logarithm of the scale of u's channels that the flow is free of.
        reference: (B T, C, h, w) where the flow has its origin, in unbounded coordinates.
        tiles: of a frame.
    """

    network: "ImagePosterior"
    features: ImageFeatures
    log_scale: Tensor
    reference: Tensor
    tiles: Tiling

    def __len__(self) -> int:
        return len(self.log_scale)

    @property
    def class_log_probs(self) -> Tensor:
        """(B, 1) zeros."""
        return self.log_scale.new_zeros(len(self), 1)

    @property
    def embedding(self) -> Tensor:
        """(B, E) mean over the tiles of what the out-of-distribution score looks at."""
        return self.features.embedding.unflatten(0, (len(self), -1)).mean(1)

    def log_prob(self, draws: Draws) -> Tensor:
        """(N,) log density of draws (N, C H W). Raises SettingsError for frames of several tiles."""
        if not self.tiles.single:
            raise SettingsError(
                f"frames of {self.tiles.shape} pixels are put together from tiles of {self.tiles.size}: "
                "their density is not known; ask for that of single tiles"
            )
        u = draws.theta.unflatten(1, (-1, *self.tiles.shape))
        frame = draws.frame
        y, log_det = self.network.unbounded(u, self.log_scale[frame], self.reference[frame])
        return self._of(frame).log_prob(y) + log_det

    def draw(self, noise: Tensor) -> tuple[Draws, Tensor]:
        """Draws of every frame and their log density, differentiable.

        Tiles share the noise where they overlap, so that their draws match there.

        Args:
            noise: (B, S, 1 + C H W) standard normal; the first column is not used.

        Returns:
            B S draws, those of one frame together, and (B S,) log q; NaN for frames of several tiles.
        """
        b, s = noise.shape[:2]
        z = noise[..., 1:].unflatten(-1, (-1, *self.tiles.shape)).transpose(0, 1)
        most = max(1, tiles_at_once(self.reference) // len(self.reference))
        parts = [self._drawn(part) for part in z.split(most)]
        u, log_q = (torch.cat([p[i] for p in parts]).transpose(0, 1) for i in (0, 1))
        frame = torch.arange(b, device=noise.device).repeat_interleave(s)
        return Draws(torch.zeros_like(frame), u.reshape(b * s, -1), frame), log_q.reshape(-1)

    def _drawn(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(S, B, C, H, W) images of noise, and their log densities (S, B)."""
        s, b = z.shape[:2]
        count = len(self.tiles.corners)
        y, log_prob = self._from_latent(self.tiles.cut(z).movedim(-3, 2).flatten(1, 2))
        scale = self.log_scale.repeat_interleave(count, 0)
        u, log_det = self.network.bounded(y, scale, self.reference)
        log_q = (log_prob - log_det).unflatten(1, (b, count))
        if self.tiles.single:
            return u, log_q[..., 0]
        whole = self.tiles.blend(u.unflatten(1, (b, count)).movedim(2, -3))
        return whole, torch.full_like(log_q[..., 0], torch.nan)

    def _from_latent(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What the flow makes of noise (S, B T, C, h, w) of all tiles, some of them at a time."""
        most = tiles_at_once(z)
        if z.shape[1] <= most:
            return self.network.flow(self.features).from_latent(z)
        rows = torch.arange(z.shape[1], device=z.device).split(most)
        made = [self.network.flow(self.features.at(some)).from_latent(z[:, some]) for some in rows]
        y, log_prob = zip(*made, strict=True)
        return torch.cat(y, 1), torch.cat(log_prob, 1)

    def _of(self, frame: Tensor) -> ImageFlowDistribution:
        """One context a draw."""
        if len(frame) == len(self) and bool((frame == torch.arange(len(self), device=frame.device)).all()):
            return self.network.flow(self.features)
        return self.network.flow(self.features.at(frame))


class ImagePosterior(nn.Module):
    """Encoder and flow of images, in coordinates in which the bounds and the frame's scale are taken away.

    Args:
        channels: of the encoder's input.
        extras: scalars beside it, the first of them the logarithms of the scales of u's channels.
        lower: (C,) lower bounds of u.
        upper: (C,) upper bounds of u.
        settings: architecture.
        reference: channels of the encoder's input that are estimates of u's channels, over their scales; none
            for 0. The flow's origin, so that it has the difference to learn, or what it follows where that is
            good (`WaveletFlowSettings.referred`).
    """

    def __init__(
        self,
        channels: int,
        extras: int,
        lower: Sequence[float],
        upper: Sequence[float],
        settings: ImageNetworkSettings,
        reference: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self._reference, self._followed = tuple(reference), settings.flow.referred
        encoder = settings.encoder.model_copy(update={"extras": extras})
        self.encoder = ImageEncoder(channels, encoder)
        self.flow: ImageFlow = build_image_flow(
            len(lower), self.encoder.widths, settings.flow, side=settings.tile
        )
        self.box = ImageBox(torch.tensor(lower), torch.tensor(upper))
        self.tile, self.scaled = settings.tile, len(lower)
        for weight in self.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, channels: Tensor, extra: Tensor, anchors: Anchors | None = None) -> ImageDistribution:
        """Condition on (B, C, H, W) channels and (B, E) scalars."""
        tiles = tiling((channels.shape[-2], channels.shape[-1]), self.tile)
        cut = tiles.cut(channels).movedim(-3, 1).flatten(0, 1)
        scalars = extra.repeat_interleave(len(tiles.corners), 0)
        some = tiles_at_once(cut)
        parts = [self._encoded(*part) for part in zip(cut.split(some), scalars.split(some), strict=True)]
        origins, features = zip(*parts, strict=True)
        return ImageDistribution(
            self, ImageFeatures.joined(features), extra[:, : self.scaled], torch.cat(origins), tiles
        )

    def _encoded(self, tiles: Tensor, extra: Tensor) -> tuple[Tensor, ImageFeatures]:
        """Where the flow has its origin, and features, of tiles (N, C, h, w)."""
        tiles = tiles.contiguous(memory_format=torch.channels_last)
        origin, features = self.origin(tiles, extra), self.encoder(tiles, extra)
        if self._followed:
            features = features._replace(reference=self._from_origin(tiles, extra, origin))
        return origin, features

    def origin(self, channels: Tensor, extra: Tensor) -> Tensor:
        """(B, C, H, W) coordinates of the reference."""
        if self._reference and not self._followed:
            return self._estimate(channels, extra)
        return self.box(channels.new_zeros(len(channels), self.scaled, *channels.shape[-2:]))[0]

    def _estimate(self, channels: Tensor, extra: Tensor) -> Tensor:
        u = channels[:, list(self._reference)] * extra[:, : self.scaled].exp()[..., None, None]
        return self.box(self.box.clamped(u))[0]

    def _from_origin(self, channels: Tensor, extra: Tensor, origin: Tensor) -> Tensor:
        """The reference in the flow's coordinates."""
        return (self._estimate(channels, extra) - origin) * (-extra[:, : self.scaled]).exp()[..., None, None]

    def unbounded(self, u: Tensor, log_scale: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        """The flow's coordinates of u (B, C, H, W), and log|det| (B,); `log_scale` is (B, C)."""
        y, log_det = self.box(u)
        y = (y - origin) * (-log_scale).exp()[..., None, None]
        return y, log_det - log_scale.sum(-1) * (y.shape[-2] * y.shape[-1])

    def bounded(self, y: Tensor, log_scale: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `unbounded`; `log_scale` is (B, C) for y (S, B, C, H, W)."""
        u, log_det = self.box.inverse(y * log_scale.exp()[:, :, None, None] + origin)
        return u, log_det + log_scale.sum(-1) * (y.shape[-2] * y.shape[-1])

    @torch.no_grad()
    def settle(self, frames: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Fit the flow's noise to fresh frames: channels, scalars and true images (n, C, tile, tile)."""
        embeddings: list[Tensor] = []
        noise: list[list[Tensor]] = [[] for _ in self.flow.levels]
        for channels, extra, u in frames:
            distribution = self(channels, extra)
            y, _ = self.unbounded(u, distribution.log_scale, distribution.reference)
            embeddings.append(distribution.features.embedding)
            for parts, (z, _) in zip(noise, self.flow(distribution.features).coloured(y), strict=True):
                parts.append(z)
        self.flow.settle([torch.cat(parts) for parts in noise], torch.cat(embeddings))

    @torch.no_grad()
    def initialise(self, channels: Tensor, extra: Tensor, u: Tensor) -> None:
        """Start the flow from means and scales of true images u (n, C, H, W) of frames."""
        origin = self.origin(channels, extra)
        self.flow.initialise(self.unbounded(u, extra[:, : self.scaled], origin)[0])
