"""What an attribute of a frame, of its pattern or of the stitched object is made of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from nfphasing_bluesky.clients.data_array import FORMAT, encode
from nfphasing_bluesky.core import Axis

NUMBER_FORMAT, WHOLE_FORMAT, TEXT_FORMAT = "%.6g", "%d", "%s"
DIMENSIONLESS = "dimensionless"
"""Both people and pint, which Taurus reads units with, understand it."""

MOST_PIXELS = 8192
"""Along either side of an image: frames of one model may differ in size, and Tango wants to know before."""

MOST_PUSHED = 2047
"""Numbers that Tango copies when they are pushed; from 2,048 on it waits for every subscriber."""

MOST_ENCODED = 2**17
"""Pixels of a pushed image. Tango keeps up to 1,000 events for a subscriber that does not read: at most
512 MiB. With fewer (TANGO_DS_EVENT_BUFFER_HWM) a busy machine loses scalars, which come in bursts of some
forty a frame: a third of 1,000 frames' with 100, none with 1,000."""

ENCODED = "_encoded"


class Source(Enum):
    """What a value is read from."""

    FRAME = "frame"
    PATTERN = "pattern"
    OBJECT = "object"


@dataclass(frozen=True)
class FrameField:
    """An attribute that every frame gives a new value.

    Args:
        name, doc, label, unit: as Tango shows them.
        dtype: float, int or str.
        value: reads it from a frame.
        judged: its quality follows the verdict; True for what the reconstruction says.
        axes: of an array; empty for a scalar.
        grows: whether the array may be larger than the axes say, as images may.
        source: what `value` is given: a FrameResult, a PatternResult or an ObjectResult.
        encoded: the image goes as DevEncoded (LImA's DATA_ARRAY).
    """

    name: str
    doc: str
    label: str
    value: Callable[[Any], Any]
    unit: str = ""
    dtype: type = float
    judged: bool = True
    axes: tuple[Axis, ...] = ()
    grows: bool = False
    source: Source = Source.FRAME
    encoded: bool = False

    @property
    def image(self) -> bool:
        """True of an image that goes as one; it is read and not pushed."""
        return len(self.axes) == 2 and not self.encoded

    @property
    def format(self) -> str:
        """Tango display format."""
        return {float: NUMBER_FORMAT, int: WHOLE_FORMAT}.get(self.dtype, TEXT_FORMAT)

    @property
    def nothing(self) -> Any:
        """What is there before the first frame."""
        if self.encoded:
            return encode(np.zeros((1, 1), np.float32))
        if self.axes:
            return np.zeros(tuple(axis.values.size for axis in self.axes))
        return self.dtype()

    def declaration(self) -> dict[str, Any]:
        """Return the keyword arguments of `tango.server.attribute`, without its reader."""
        dtype: Any = self.dtype
        sizes = {}
        if self.encoded:
            dtype = "DevEncoded"
        elif self.axes:
            shape = tuple(axis.values.size for axis in self.axes)
            dtype = (np.float64,) if len(shape) == 1 else ((np.float64,),)
            most = (MOST_PIXELS,) * len(shape) if self.grows else shape
            sizes = {"max_dim_x": most[-1], **({"max_dim_y": most[0]} if len(shape) == 2 else {})}
        return {
            "dtype": dtype,
            "label": self.label,
            "unit": self.unit,
            "format": self.format,
            "doc": self.doc,
            **sizes,
        }


def pushable(value: Any, field: FrameField) -> bool:
    """Return whether a value can be pushed without any subscriber being able to hold the server up."""
    if field.encoded:
        return len(value[1]) <= 4 * MOST_ENCODED + 64
    return not field.axes or bool(np.size(value) <= MOST_PUSHED)


def with_encoded(fields: tuple[FrameField, ...]) -> tuple[FrameField, ...]:
    """Add to every image its encoded twin, which can be pushed."""
    return tuple(one for field in fields for one in ((field, _twin(field)) if field.image else (field,)))


def _twin(field: FrameField) -> FrameField:
    return replace(
        field,
        name=f"{field.name}{ENCODED}",
        doc=f"The same image as {field.name}, float32 in LImA's format {FORMAT}; this one is pushed, at "
        "image_rate_hz, because a stopped subscriber of it cannot hold up the server.",
        label=f"{field.label}, to subscribe to",
        value=lambda source: encode(np.asarray(field.value(source))),
        encoded=True,
    )
