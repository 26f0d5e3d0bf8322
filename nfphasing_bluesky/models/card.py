"""The card of a model: what it is, where it may be used, and how well it was measured to do."""

import math
from typing import Annotated, Any

from pydantic import Field, field_validator

from nfphasing_bluesky.core import Settings

FORMAT_VERSION = 1


class Thresholds(Settings):
    """Where trust ends.

    Args:
        chi2_warning, chi2_alarm: upper limits of the reduced chi-squared, whatever the flow usually reaches.
        chi2_small: lower limit of it.
        ood_distance: Mahalanobis distance of the embedding that counts as 1: the 99.9 % quantile over
            simulated frames.
        ess_warning: lower limit of the effective sample size fraction; 0 where it is not used.
        agreement_warning: lower limit of the probability of one part of a frame given the rest of it; so many
            simulated frames fall below it.
    """

    chi2_warning: Annotated[float, Field(gt=0)] = 1.5
    chi2_alarm: Annotated[float, Field(gt=0)] = 3.0
    chi2_small: Annotated[float, Field(ge=0)] = 0.3
    ood_distance: Annotated[float, Field(gt=0)] = math.inf
    ess_warning: Annotated[float, Field(ge=0, le=1)] = 0.0
    agreement_warning: Annotated[float, Field(ge=0, le=1)] = 1e-4


class Card(Settings):
    """What `card.json` holds.

    Args:
        name: of the model; its folder may be called otherwise.
        modality: that the weights belong to.
        network: settings of the network, as the modality's settings class dumps them.
        ranges: feature -> (lowest, highest) in which the model was calibrated.
        training: how it was trained: steps, seconds, seed, hardware, loss, settings.
        metrics: the calibration certificate; empty for a model that was not evaluated.
        sha256: of `weights.safetensors`.
        parent: sha256 of the weights that this model was adapted from, or None.
    """

    format_version: int = FORMAT_VERSION
    name: str
    modality: str
    code_version: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    network: dict[str, Any]
    ranges: dict[str, tuple[float, float]]
    thresholds: Thresholds = Thresholds()
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    parent: str | None = None

    @field_validator("ranges")
    @classmethod
    def _in_order(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if wrong := [name for name, (low, high) in ranges.items() if not low <= high]:
            raise ValueError(f"{wrong[0]} from {ranges[wrong[0]][0]} to {ranges[wrong[0]][1]}")
        return ranges
