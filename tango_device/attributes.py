"""The attributes of the device, as data: one row each, from which static and dynamic ones are made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from nfphasing_bluesky.core import Axis, DensityInfo, ModelInfo, is_transmission
from nfphasing_bluesky.streaming.protocol import Counts, FrameResult, WorkerStatus
from tango_device.fields import DIMENSIONLESS, TEXT_FORMAT, WHOLE_FORMAT, FrameField, with_encoded
from tango_device.link import WorkerLink
from tango_device.object_attributes import OBJECT_FIELDS
from tango_device.pattern_attributes import pattern_fields
from tango_device.taking import Taking

T = TypeVar("T")

FRAME_FIELDS = (
    FrameField(
        "reduced_chi2",
        "Reduced chi-squared of the posterior-predictive curve against the frame; about 1 for a good fit.",
        "Reduced chi-squared",
        lambda f: f.reduced_chi2,
        DIMENSIONLESS,
    ),
    FrameField(
        "ess_fraction",
        "Importance-sampling effective sample size over the number of draws; NaN where the prior density is "
        "intractable.",
        "Effective sample size",
        lambda f: f.ess_fraction,
        DIMENSIONLESS,
    ),
    FrameField(
        "ood_score",
        "Distance of the frame from the training set; above 1 the model has not seen its like.",
        "Out-of-distribution score",
        lambda f: f.ood_score,
        DIMENSIONLESS,
    ),
    FrameField(
        "verdict",
        "How far to trust the last frame: VALID, WARNING or ALARM; FAILED when it was not reconstructed.",
        "Verdict",
        lambda f: f.verdict,
        dtype=str,
        judged=False,
    ),
    FrameField(
        "reason",
        "Why the verdict is not VALID; empty when it is.",
        "Reason",
        lambda f: f.reason,
        dtype=str,
        judged=False,
    ),
    FrameField(
        "density_unit",
        "Unit of the last frame's density; it depends on what is known of the frame.",
        "Unit of the density",
        lambda f: f.units,
        dtype=str,
        judged=False,
    ),
    FrameField(
        "density_quantity",
        "What the last frame's density is; it depends on what is known of the frame.",
        "Quantity",
        lambda f: f.quantity,
        dtype=str,
        judged=False,
    ),
    FrameField(
        "axis_unit",
        "Unit of the coordinates of the last frame's density; it depends on what is known of the frame.",
        "Unit of the coordinates",
        lambda f: f.axes[-1].units if f.axes else "",
        dtype=str,
        judged=False,
    ),
    FrameField(
        "frame_id",
        "Running number of the last frame over all runs; read the arrays when it changes.",
        "Frame",
        lambda f: f.frame_id,
        "count",
        int,
        judged=False,
    ),
    FrameField(
        "seq_num",
        "Sequence number of the last frame in its raw run.",
        "Sequence number",
        lambda f: f.seq_num,
        "count",
        int,
        judged=False,
    ),
    FrameField(
        "raw_uid",
        "Uid of the raw Bluesky run that the last frame belongs to.",
        "Raw run",
        lambda f: f.raw_uid,
        dtype=str,
        judged=False,
    ),
    FrameField(
        "latency",
        "Time from a frame's arrival at the worker to its reconstruction.",
        "Latency",
        lambda f: f.latency_s,
        "s",
        judged=False,
    ),
)


@dataclass(frozen=True)
class _Field(Generic[T]):
    name: str
    doc: str
    label: str
    value: Callable[[T], Any]
    unit: str = ""
    dtype: type = int

    def declaration(self) -> dict[str, Any]:
        """Return the keyword arguments of `tango.server.attribute`, without its reader."""
        return {
            "dtype": self.dtype,
            "label": self.label,
            "unit": self.unit,
            "format": WHOLE_FORMAT if self.dtype is int else TEXT_FORMAT,
            "doc": self.doc,
        }


class StatusField(_Field[WorkerStatus]):
    """An attribute that a heartbeat of the worker gives a new value."""


class SourceField(_Field[Taking]):
    """An attribute about the frame source."""


SOURCE_FIELDS = (
    SourceField(
        "source_state",
        "What the frame source does: none, waiting for Start, taking frames, or away and why.",
        "Frame source",
        lambda taking: taking.word,
        dtype=str,
    ),
    SourceField(
        "source_taken",
        "Frames taken from the source in the present run.",
        "Frames taken",
        lambda taking: taking.taken,
        "count",
    ),
    SourceField(
        "source_lost",
        "Frames of the present run that the source numbered and that could not be taken.",
        "Frames lost",
        lambda taking: taking.lost,
        "count",
    ),
)


class LinkField(_Field[WorkerLink]):
    """An attribute about what this server hears of the worker."""


LINK_FIELDS = (
    LinkField(
        "frames_not_shown",
        "Frames that were reconstructed and came faster than this server could show them, since Init; the "
        "derived run has them.",
        "Frames not shown",
        lambda link: link.not_shown,
        "count",
    ),
)


def _count(name: str, what: str) -> StatusField:
    def value(status: WorkerStatus) -> int:
        counts: Counts = status.counts
        return int(getattr(counts, name))

    doc = f"Frames {what}, since the worker started or Reset."
    return StatusField(f"frames_{name}", doc, f"Frames {name}", value, "count")


STATUS_FIELDS = (
    StatusField(
        "model",
        "Name of the loaded model; empty without one.",
        "Model",
        lambda s: "" if s.model is None else s.model.name,
        dtype=str,
    ),
    StatusField(
        "model_sha256",
        "Digest of the loaded model's weights, as in the derived run's start document.",
        "Model digest",
        lambda s: "" if s.model is None else s.model.sha256,
        dtype=str,
    ),
    _count("received", "that arrived"),
    _count("reconstructed", "that were reconstructed, whatever the verdict"),
    _count("dropped", "that were dropped because the queue was full or the device stopped"),
    _count("failed", "that could not be reconstructed"),
)


def model_fields(info: ModelInfo) -> tuple[FrameField, ...]:
    """Return the attributes that a model brings: density, parameters, class probabilities, frame."""
    density = info.density
    parts = is_transmission(density)
    axes = density.axes[1:] if parts else density.axes
    image = len(axes) == 2
    fields = [
        _density_field(density, name, quantity, part, words, layer)
        for name, quantity, layer in (_PARTS if parts else (("density", density.quantity, None),))
        for part, words in (("mean", "mean"), ("std", "standard deviation"))
    ]
    if parts and info.neighbours:
        # frames of a scan are stitched to an object
        fields.extend(OBJECT_FIELDS)
    for index, axis in enumerate(axes, start=len(density.axes) - len(axes)):
        name = "axis" if len(axes) == 1 else f"axis_{axis.name}"
        fields.append(
            FrameField(
                name,
                f"Coordinate {axis.name} of the density's points.",
                axis.name,
                _axis(index, axis, image),
                axis.units or DIMENSIONLESS,
                judged=False,
                axes=(axis,),
                grows=image,
            )
        )
    for parameter in info.parameters:
        for suffix, column, words in (("", 0, "median"), ("_std", 1, "standard deviation")):
            fields.append(
                FrameField(
                    f"{parameter.name}{suffix}",
                    f"Posterior {words} of {parameter.label}.",
                    f"{parameter.label}{', standard deviation' if column else ''}",
                    _parameter(parameter.name, column),
                    parameter.unit or DIMENSIONLESS,
                )
            )
    for name in info.classes:
        fields.append(
            FrameField(
                f"probability_{name}",
                f"Posterior probability that the sample is of the class {name}.",
                f"Probability of {name}",
                _probability(name),
                DIMENSIONLESS,
            )
        )
    fields.extend(pattern_fields(info, image))
    return with_encoded(tuple(fields))


_PARTS = (("density", "phase", 0), ("absorption", "absorption", 1))
"""Phase and absorption, each is an image: attribute, quantity, layer of the density."""


def _density_field(
    density: DensityInfo, name: str, quantity: str, part: str, words: str, layer: int | None
) -> FrameField:
    axes = density.axes if layer is None else density.axes[1:]
    shape, image = tuple(axis.values.size for axis in axes), len(axes) == 2
    return FrameField(
        f"{name}_{part}",
        f"Posterior {words} of {quantity}, "
        f"{'pixels' if image else ' x '.join(map(str, shape)) + ' points'} "
        f"along {', '.join(axis.name for axis in axes)}.",
        f"{quantity} {words}",
        _array(part, shape, layer),
        density.units or DIMENSIONLESS if layer != 1 else DIMENSIONLESS,
        axes=axes,
        grows=image,
    )


def _array(part: str, shape: tuple[int, ...], layer: int | None) -> Callable[[FrameResult], Any]:
    def value(frame: FrameResult) -> np.ndarray:
        array = getattr(frame, part)
        array = array if array is None or layer is None else array[layer]
        fits = array is not None and (array.shape == shape or array.ndim == len(shape) == 2)
        return np.ascontiguousarray(array, np.float64) if fits else np.full(shape, np.nan)

    return value


def _axis(index: int, axis: Axis, image: bool) -> Callable[[FrameResult], Any]:
    def value(frame: FrameResult) -> np.ndarray:
        there = len(frame.axes) > index
        fits = there and (image or frame.axes[index].values.size == axis.values.size)
        return np.asarray(frame.axes[index].values if fits else axis.values, np.float64)

    return value


def _parameter(name: str, column: int) -> Callable[[FrameResult], Any]:
    return lambda frame: frame.parameters.get(name, (float("nan"), float("nan")))[column]


def _probability(name: str) -> Callable[[FrameResult], Any]:
    return lambda frame: frame.classes.get(name, float("nan"))
