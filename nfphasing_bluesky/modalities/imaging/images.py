"""What modalities have in common whose prior is a program that draws images."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import Axis, DensityInfo, Frame, Prediction
from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities.batches import cut_to
from nfphasing_bluesky.modalities.draws import Anchors, Draws

PARTS = Axis("part", np.arange(2.0), "", ("phase", "absorption"))
"""First axis of a u that is both."""


def pixel_axes(shape: tuple[int, int], pixel_m: float | None) -> tuple[Axis, Axis]:
    """Rows and columns of an image (H, W), in m where the size of a pixel is known, else in px."""
    unit = "px" if pixel_m is None else "m"
    y, x = (Axis(name, np.arange(n) * (pixel_m or 1.0), unit) for name, n in zip("yx", shape, strict=True))
    return y, x


def transmission_info(shape: tuple[int, int], pixel_m: float | None) -> DensityInfo:
    """What a u of phase, rad, and absorption mu is, (2, H, W); the transmission is exp(i phase - mu)."""
    return DensityInfo("phase and absorption", "rad", (PARTS, *pixel_axes(shape, pixel_m)))


class Images:
    """No density of the prior, no anchors, no second opinion: estimates are among the network's channels."""

    neighbours = 0
    symmetry = None
    sigma_floor = 0.0
    hopeless_nats = math.inf
    takes_bounds = False
    noise_columns = 0
    has_log_prior = False
    disagreement = ""

    def fit_prior(self, generator: torch.Generator) -> None:
        """Nothing to do."""

    def log_prior(self, draws: Draws) -> Tensor:
        """(N,) NaN: the density of random objects is not known."""
        return draws.theta.new_full((len(draws),), torch.nan)

    def usable(self, batch: Any) -> Tensor:
        """(B,) bool: all of them; a frame without contrast says that there is nothing."""
        return torch.ones(len(batch), dtype=torch.bool, device=batch.intensity.device)

    def anchors(self, batch: Any) -> Anchors:
        """Nothing: the estimates are among the channels, their size among the scalars."""

        def nothing(k: int, frames: Tensor) -> Anchor:
            empty = batch.intensity.new_zeros(len(frames), 0)
            return Anchor(empty, empty[:, :, None], empty)

        return Anchors(len(batch), nothing)

    def on_frame(
        self, frame: Frame, draws: Draws, nuisance: Mapping[str, Tensor], prediction: Prediction
    ) -> Prediction:
        """Prediction at the pixels that the frame has."""
        return cut_to(frame, prediction)

    def agreement(self, batch: Any, anchors: Anchors) -> Tensor:
        """(B,) NaN: the reduced chi-squared is what tells."""
        return batch.intensity.new_full((len(batch),), torch.nan)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the prior is a program."""
        return {}
