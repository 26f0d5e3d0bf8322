"""Attention for feature maps (B, C, H, W): NAM, GAM, and multi-head self-attention with rotary positions."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.image.settings import Attention, ImageEncoderSettings

LONGEST_WAVE = 64.0


def group_norm(channels: int, most: int = 8) -> nn.GroupNorm:
    """Group normalisation with at most so many groups."""
    return nn.GroupNorm(max(g for g in range(1, most + 1) if channels % g == 0), channels)


class ChannelNAM(nn.Module):
    """NAM's channel attention (arXiv:2111.12419, eq. 2): x sigmoid(w GN(x)), w_c = |gamma_c| / sum|gamma|.

    The paper takes gamma from a batch normalisation; here it is that of a group normalisation, which does the
    same at batch 1 as in training. The paper's L1 penalty on gamma is left to the loss.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Gate every channel and pixel."""
        size = self.norm.weight.abs()
        weight = (size / size.sum()).view(-1, 1, 1)
        return x * torch.sigmoid(weight * self.norm(x)).to(x.dtype)


class PixelNAM(nn.Module):
    """NAM's spatial attention (equation 3): x sigmoid(v PN(x)), v_p = |lambda_p| / sum|lambda| over pixels p.

    PN normalises each pixel over its channels (the paper: over the batch too) and scales it by lambda_p. The
    scales are a grid stretched to the feature map, hence any size of image is accepted.

    Args:
        grid: side of the grid of lambda; maps of that size have the paper's one scale a pixel.
    """

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 1, grid, grid))
        self.shift = nn.Parameter(torch.zeros(1, 1, grid, grid))

    def forward(self, x: Tensor) -> Tensor:
        """Gate every channel and pixel."""
        scale, shift = (self._stretch(v, x) for v in (self.scale, self.shift))
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        normed = scale * (x - mean) * torch.rsqrt(variance + 1e-5) + shift
        size = scale.abs()
        return x * torch.sigmoid(size / size.sum() * normed).to(x.dtype)

    @staticmethod
    def _stretch(grid: Tensor, x: Tensor) -> Tensor:
        if grid.shape[-2:] == x.shape[-2:]:
            return grid
        return functional.interpolate(grid, size=x.shape[-2:], mode="bilinear")


class GAM(nn.Module):
    """Global attention (arXiv:2112.05561): channel attention, then spatial attention, without pooling.

    F2 = F1 sigmoid(MLP(F1)), the MLP C -> C/r -> C acting on the channel axis, moved last, of every pixel;
    F3 = F2 sigmoid(N(conv7(relu(N(conv7(F2)))))), C -> C/r -> C. N is a group normalisation, the paper's a
    batch normalisation.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, hidden, 7, padding=3),
            group_norm(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 7, padding=3),
            group_norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Gate twice."""
        x = x * torch.sigmoid(self.channel(x.movedim(1, -1)).movedim(-1, 1)).to(x.dtype)
        return x * torch.sigmoid(self.spatial(x)).to(x.dtype)


def grid_positions(x: Tensor, spacing: float = 1.0) -> Tensor:
    """(H W, 2) row and column of the pixels' centres of (..., H, W), in steps of `spacing`."""
    rows, columns = ((torch.arange(n, device=x.device) + 0.5) * spacing for n in x.shape[-2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turn pairs of components of (..., T, D) by angles that grow along rows and columns, D a multiple of 4.

    Dot products of turned vectors depend on differences of positions alone (arXiv:2104.09864), so that what
    was learnt on small images holds on large ones. Wavelengths reach from 4 to 256 steps.
    """
    count = x.shape[-1] // 4
    powers = torch.arange(count, device=x.device) / max(1, count - 1)
    angles = (positions.unsqueeze(-1) * (0.5 * math.pi * LONGEST_WAVE**-powers)).flatten(-2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class SelfAttention(nn.Module):
    """x + attention(norm(x)) over all pixels, multi-head, with rotary positions."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        if channels % (4 * heads):
            raise SettingsError(
                f"self-attention has {channels} channels, expected a multiple of 4 x heads = {4 * heads}"
            )
        self.heads = heads
        self.norm = group_norm(channels)
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.last = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        tokens = self.project(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-2, -1)
        query, key, value = tokens.unbind(1)
        positions = grid_positions(x)
        query, key = rotate(query, positions), rotate(key, positions)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return x + self.last(mixed.transpose(-2, -1).reshape(x.shape))


def build_attention(channels: int, level: int, settings: ImageEncoderSettings) -> nn.Module:
    """Attention of a block at a resolution; `level` counts from the finest, 0."""
    kind = settings.attention
    from_coarsest = len(settings.widths) - level
    reach = settings.attention_levels
    if reach is None:
        reach = 1 if kind is Attention.SELF else len(settings.widths)
    if kind is Attention.NONE or from_coarsest > reach:
        return nn.Identity()
    if kind is Attention.SELF:
        return SelfAttention(channels, settings.heads)
    if kind is Attention.GAM:
        return GAM(channels, settings.reduction)
    if kind is Attention.NAM:
        return ChannelNAM(channels)
    return nn.Sequential(ChannelNAM(channels), PixelNAM(settings.pixel_grid))
