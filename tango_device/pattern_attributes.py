"""The attributes of a frame beside what is predicted for it, and of a model that gives several answers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from nfphasing_bluesky.core import Axis, ModelInfo
from nfphasing_bluesky.streaming.pattern import PatternResult
from tango_device.fields import DIMENSIONLESS, FrameField, Source

_POINTS = (Axis("point", np.zeros(1), ""),)
_PIXELS = (Axis("y", np.zeros(1), ""), Axis("x", np.zeros(1), ""))
_PARTS = (
    ("measured", "The measured frame, NaN where it is masked", "Measured"),
    ("predicted", "Posterior-predictive mean of the frame", "Predicted"),
    ("predicted_lower", "Lower end of the 95 % band of the prediction", "Predicted, lower end"),
    ("predicted_upper", "Upper end of the 95 % band of the prediction", "Predicted, upper end"),
)
_ATTRIBUTES = {"predicted_lower": "lower", "predicted_upper": "upper"}
_WHEN = "Of a frame that is chosen four times a second: see pattern_seq_num."


def pattern_fields(info: ModelInfo, image: bool) -> tuple[FrameField, ...]:
    """Return what is shown of a frame: curves with their band for a model of curves, or two images."""
    fields = [
        _field(
            name,
            f"{doc}, in the unit of its intensity. {_WHEN}",
            label,
            _array(_ATTRIBUTES.get(name, name), image),
            image,
        )
        for name, doc, label in (_PARTS[:2] if image else _PARTS)
    ]
    fields.append(
        FrameField(
            "pattern_seq_num",
            "Sequence number in its raw run of the frame whose measurement and prediction are shown.",
            "Frame that is compared",
            lambda p: p.seq_num,
            "count",
            int,
            judged=False,
            source=Source.PATTERN,
        )
    )
    if not image:
        fields.append(
            FrameField(
                "q",
                "Momentum transfer of the points of the measured and the predicted curve.",
                "Momentum transfer",
                lambda p: np.asarray(p.q_inv_angstrom, np.float64),
                "1/angstrom",
                judged=False,
                axes=_POINTS,
                grows=True,
                source=Source.PATTERN,
            )
        )
    return tuple(fields) + (_answers(info) if info.answers else ())


def _field(name: str, doc: str, label: str, value: Callable[[PatternResult], Any], image: bool) -> FrameField:
    return FrameField(
        name,
        doc,
        label,
        value,
        DIMENSIONLESS,
        judged=False,
        axes=_PIXELS if image else _POINTS,
        grows=True,
        source=Source.PATTERN,
    )


def _array(part: str, image: bool) -> Callable[[PatternResult], np.ndarray]:
    def value(pattern: PatternResult) -> np.ndarray:
        array = np.asarray(getattr(pattern, part), np.float64)
        return array if array.ndim == (2 if image else 1) else np.full((1, 1) if image else 1, np.nan)

    return value


def _answers(info: ModelInfo) -> tuple[FrameField, ...]:
    """Weights of the answers, and the heaviest: the mean over all of them looks like none."""
    axes = info.density.axes
    return (
        FrameField(
            "mode_weight",
            f"Share of the draws of each of the frame's {info.answers} heaviest answers, the heaviest first. "
            f"{_WHEN}",
            "Weight of the answers",
            lambda p: np.pad(np.asarray(p.mode_weights), (0, info.answers - len(p.mode_weights))),
            DIMENSIONLESS,
            judged=False,
            axes=(Axis("mode", np.arange(float(info.answers)), ""),),
            source=Source.PATTERN,
        ),
        FrameField(
            "mode_1_mean",
            f"Mean of {info.density.quantity} over the draws of the heaviest answer alone; density_mean is "
            f"the mean over all answers and looks like none of them. {_WHEN}",
            f"{info.density.quantity}, heaviest answer",
            lambda p: _mean(p, len(axes)),
            info.density.units or DIMENSIONLESS,
            judged=False,
            axes=axes if len(axes) == 1 else _PIXELS,
            grows=len(axes) == 2,
            source=Source.PATTERN,
        ),
    )


def _mean(pattern: PatternResult, dims: int) -> np.ndarray:
    mean = pattern.mode_mean
    return np.full((1,) * dims, np.nan) if mean is None else np.asarray(mean, np.float64)
