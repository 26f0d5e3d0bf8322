"""Encoders: a curve becomes the context of a flow."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.resample import CHANNELS, resample_curve
from nfphasing_bluesky.flows.settings import EncoderSettings
from nfphasing_bluesky.flows.transforms import full_precision


class EncodedCurve(NamedTuple):
    """Context (B, E) of B curves and their normalisation (B,), in units of the intensity."""

    context: Tensor
    normalisation: Tensor


class NormedBlock(nn.Module):
    """h + W2 silu(W1 layer_norm(h))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply to (B, width)."""
        return hidden + self.second(functional.silu(self.first(self.norm(hidden))))


class CurveNetwork(nn.Module):
    """Residual MLP of channels (B, C, N) and extra scalars (B, K) to a context (B, E).

    Args:
        settings: architecture; `extras` is K, `context` is E.
        channels: C.
        points: N; that of the settings' grid when None.
    """

    def __init__(
        self, settings: EncoderSettings, channels: int = len(CHANNELS), points: int | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.stem: nn.Conv1d | None = None
        points = settings.grid.points if points is None else points
        features = channels * points
        if settings.stem_channels:
            self.stem = nn.Conv1d(channels, settings.stem_channels, kernel_size=5, padding=2)
            features += settings.stem_channels * points
        self.first = nn.Linear(features + settings.extras, settings.width)
        self.blocks = nn.Sequential(*(NormedBlock(settings.width) for _ in range(settings.blocks)))
        self.norm = nn.LayerNorm(settings.width)
        self.last = nn.Linear(settings.width, settings.context)

    def forward(self, channels: Tensor, extras: Tensor | None = None) -> Tensor:
        """Encode; the first layers see float32 even under autocast.

        A curve measured to 0.1 % carries its information below bfloat16's resolution.
        """
        with full_precision(channels):
            hidden = self.first(self._features(channels, extras))
        return self.last(self.norm(self.blocks(hidden)))

    def _features(self, channels: Tensor, extras: Tensor | None) -> Tensor:
        features = [channels.flatten(1)]
        if self.stem is not None:
            features.append(functional.silu(self.stem(channels)).flatten(1))
        given = 0 if extras is None else extras.shape[-1]
        if given != self.settings.extras:
            raise SettingsError(f"got {given} extra scalars per curve, expected {self.settings.extras}")
        if extras is not None:
            features.append(extras.to(channels.dtype))
        return torch.cat(features, dim=-1)


class CurveEncoder(nn.Module):
    """Curves on any q grid to contexts: resampling, then the network."""

    def __init__(self, settings: EncoderSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or EncoderSettings()
        self.network = CurveNetwork(self.settings)

    def forward(
        self,
        q_inv_angstrom: Tensor,
        intensity: Tensor,
        sigma: Tensor,
        mask: Tensor,
        extras: Tensor | None = None,
    ) -> EncodedCurve:
        """Encode (B, Q) curves; arguments as for `resample_curve`, extras (B, K)."""
        curve = resample_curve(q_inv_angstrom, intensity, sigma, mask, self.settings.grid)
        channels = curve.channels.to(self.network.first.weight.dtype)
        return EncodedCurve(self.network(channels, extras), curve.normalisation)
