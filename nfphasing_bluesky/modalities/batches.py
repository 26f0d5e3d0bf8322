"""What batches have in common: tensors with one row a frame, of which some are picked, on some device."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from nfphasing_bluesky.core import Frame, Prediction

Made = TypeVar("Made")


class Rows:
    """Base of frozen dataclasses: tensors of N rows each, such dataclasses; what is neither is for all."""

    def once(self, name: str, make: Callable[[Self], Made]) -> Made:
        """Return what a function makes of these rows: made when first asked for by this name, then kept."""
        kept = self.__dict__.setdefault("_kept", {})
        if name not in kept:
            kept[name] = make(self)
        made: Made = kept[name]
        return made

    def at(self, index: Tensor) -> Self:
        """Return the rows that an index or a boolean mask picks."""
        return self.each(lambda value: value.at(index) if isinstance(value, Rows) else value[index])

    def to(self, device: torch.device | str) -> Self:
        """Return them on another device."""
        return self.each(lambda value: value.to(device))

    def each(self, change: Callable[[Any], Any]) -> Self:
        """Return them with every tensor, and whatever else has rows, changed by a function."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        return type(self)(**{n: change(v) if isinstance(v, Tensor | Rows) else v for n, v in values})


class Measured(Rows):
    """Base of batches: what was measured, with its errors.

    Attributes:
        intensity, sigma: (B, ...), sigma a standard deviation.
        mask: (B, ...) bool, True = do not use.
    """

    intensity: Tensor
    sigma: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.intensity)

    @property
    def weight(self) -> Tensor:
        """(B, ...) 1/sigma^2, zero where masked."""
        return torch.where(self.mask, 0.0, self.sigma.clamp_min(1e-30).reciprocal() ** 2)

    @property
    def root_weight(self) -> Tensor:
        """(B, ...) 1/sigma, float64, zero where masked."""
        return torch.where(self.mask, 0.0, self.sigma.double().clamp_min(1e-30).reciprocal())


def gaussian_chi2(batch: Any, predicted: Tensor) -> Tensor:
    """(B,) mean squared residual over sigma of (B, ...) patterns, over the points that are not masked.

    Infinite for a prediction that is not finite, which fits nothing.
    """
    usable = ~batch.mask
    pull = torch.where(usable, (batch.intensity - predicted) / batch.sigma, 0.0).double()
    chi2 = (pull**2).flatten(1).sum(1) / usable.flatten(1).sum(1).clamp_min(1)
    return chi2.nan_to_num(torch.inf)


def noise_channels(mean: Tensor, noise: Tensor, filled: Tensor) -> Tensor:
    """(B, 4, N) what a network sees of maps: logarithms of value and noise over the mean, their ratio, mask.

    Args:
        mean: (B, N) of each point.
        noise: (B, N) its standard deviation.
        filled: (B, N) bool, points that count.
    """
    share = filled.to(mean)
    scale = ((share * mean).sum(1) / share.sum(1).clamp_min(1)).abs().clamp_min(1e-300)[:, None]
    ratio = mean / noise
    log_noise = (noise / scale).log()
    images = [(log_noise + torch.asinh(ratio / 2)) / 4, log_noise / 4, torch.asinh(ratio / 2) / 4]
    return torch.stack([torch.where(filled, image, 0.0) for image in images] + [share], 1).float()


def cut_to(frame: Frame, prediction: Prediction) -> Prediction:
    """Take off what a batch was padded with."""
    shape = tuple(slice(0, n) for n in frame.intensity.shape)
    return Prediction(prediction.mean[shape], prediction.lower[shape], prediction.upper[shape])
