"""Image encoder: a U-Net whose decoder gives a feature map at every resolution the flow works at."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.image.attention import build_attention, group_norm
from nfphasing_bluesky.flows.image.settings import ImageEncoderSettings
from nfphasing_bluesky.flows.transforms import full_precision


class ImageFeatures(NamedTuple):
    """What a flow is conditioned on, for B images of H x W pixels.

    `maps` are (B, F, h, w), coarse to fine, the last one at H/2 x W/2, each twice as large as the one before.
    `embedding` is (B, E): the maps' means over their pixels, for out-of-distribution scores. `reference` is
    an estimate of the images, (B, C, H, W) in the flow's unbounded coordinates, for flows that follow one.
    """

    maps: tuple[Tensor, ...]
    embedding: Tensor
    reference: Tensor | None = None

    def at(self, rows: Tensor) -> "ImageFeatures":
        """Those of some images."""
        reference = None if self.reference is None else self.reference[rows]
        return ImageFeatures(tuple(m[rows] for m in self.maps), self.embedding[rows], reference)

    @classmethod
    def joined(cls, parts: Sequence["ImageFeatures"]) -> "ImageFeatures":
        """Those of all images, from those of some."""
        first = parts[0]
        if len(parts) == 1:
            return first
        references = [part.reference for part in parts if part.reference is not None]
        return cls(
            tuple(torch.cat(maps) for maps in zip(*(part.maps for part in parts), strict=True)),
            torch.cat([part.embedding for part in parts]),
            None if first.reference is None else torch.cat(references),
        )


class FilmBlock(nn.Module):
    """x + attention(conv(silu(film(norm(conv(silu(norm(x))))))), the film's scale and shift from scalars."""

    def __init__(self, channels: int, scalars: int, attention: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList((group_norm(channels), group_norm(channels)))
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.film = nn.Linear(scalars, 2 * channels) if scalars else None
        self.attention = attention
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, scalars: Tensor | None) -> Tensor:
        """Apply to (B, C, H, W) given embedded scalars (B, K)."""
        hidden = self.convolutions[0](functional.silu(self.norms[0](x)))
        hidden = self.norms[1](hidden)
        if self.film is not None and scalars is not None:
            scale, shift = self.film(scalars)[..., None, None].chunk(2, dim=1)
            hidden = hidden * (1 + scale) + shift
        return x + self.attention(self.convolutions[1](functional.silu(hidden)))


class _Upward(nn.Module):
    """Merge a coarser map, enlarged, into the finer one that was kept on the way down."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.enlarge = nn.Conv2d(coarse, 4 * fine, 1)
        self.merge = nn.Conv2d(2 * fine, fine, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        larger = functional.pixel_shuffle(self.enlarge(coarse), 2)
        return self.merge(torch.cat((larger, fine), dim=1))


class ImageEncoder(nn.Module):
    """U-Net of images (B, C, H, W) and scalars (B, E) to `ImageFeatures`; fully convolutional.

    The stem puts 2 x 2 pixels into channels, as the finest level of the flows works at half resolution. It
    sees float32 even under autocast: contrasts of a per cent are below bfloat16's resolution.

    Args:
        channels: C.
        settings: architecture; `extras` is E.
    """

    def __init__(self, channels: int, settings: ImageEncoderSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or ImageEncoderSettings()
        self.channels = channels
        widths = settings.widths
        known = 2 * max(widths) if settings.extras else 0
        self.scalars: nn.Module | None = None
        if known:
            self.scalars = nn.Sequential(
                nn.Linear(settings.extras, known), nn.SiLU(), nn.Linear(known, known), nn.SiLU()
            )
        self.stem = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.enlarge = nn.ModuleList(_Upward(coarse, fine) for fine, coarse in pairs)
        self.down = nn.ModuleList(self._blocks(level, known) for level in range(len(widths)))
        self.up = nn.ModuleList(self._blocks(level, known) for level in range(len(widths) - 1))

    def _blocks(self, level: int, scalars: int) -> nn.ModuleList:
        width = self.settings.widths[level]
        return nn.ModuleList(
            FilmBlock(width, scalars, build_attention(width, level, self.settings))
            for _ in range(self.settings.blocks)
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels F of the feature maps, coarse to fine."""
        return self.settings.widths[::-1]

    def forward(self, images: Tensor, scalars: Tensor | None = None) -> ImageFeatures:
        """Encode.

        Raises:
            SettingsError: an image that can't be halved often enough, or a wrong number of channels, scalars.
        """
        self._check(images, scalars)
        with full_precision(images):
            hidden = self.stem(functional.pixel_unshuffle(images.to(self.stem.weight.dtype), 2))
        known = None
        if self.scalars is not None and scalars is not None:
            known = self.scalars(scalars.to(self.stem.weight.dtype))
        kept = []
        for level, blocks in enumerate(self.down):
            if level:
                hidden = self.shrink[level - 1](hidden)
            hidden = _run(blocks, hidden, known)
            kept.append(hidden)
        maps = [hidden]
        for level in reversed(range(len(self.up))):
            hidden = self.enlarge[level](hidden, kept[level])
            hidden = _run(self.up[level], hidden, known)
            maps.append(hidden)
        means = [m.mean(dim=(-2, -1), dtype=torch.promote_types(m.dtype, torch.float32)) for m in maps]
        return ImageFeatures(tuple(maps), torch.cat(means, dim=1))

    def _check(self, images: Tensor, scalars: Tensor | None) -> None:
        factor = 2 ** len(self.settings.widths)
        if images.ndim != 4 or images.shape[1] != self.channels or any(n % factor for n in images.shape[2:]):
            raise SettingsError(
                f"images have shape {tuple(images.shape)}, expected (B, C, H, W) with C = {self.channels} "
                f"and H and W multiples of {factor}; pad or cut them"
            )
        given = (images.shape[0], 0) if scalars is None else tuple(scalars.shape)
        if given != (images.shape[0], self.settings.extras):
            raise SettingsError(
                f"scalars have shape {given}, expected (B, E) = {(images.shape[0], self.settings.extras)}"
            )


def _run(blocks: nn.Module, hidden: Tensor, scalars: Tensor | None) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)  # noqa: S101  ModuleList forgets the element type
    for block in blocks:
        hidden = block(hidden, scalars)
    return hidden
