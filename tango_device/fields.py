"""What an attribute of a frame or of the stitched object is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nfphasing_bluesky.core import Axis

NUMBER_FORMAT, WHOLE_FORMAT, TEXT_FORMAT = "%.6g", "%d", "%s"
DIMENSIONLESS = "dimensionless"
"""Both people and pint, which Taurus reads units with, understand it."""

MOST_PIXELS = 8192
"""Along either side of an image: frames of one model may differ in size, and Tango wants to know before."""


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
        of_object: it is read from the stitched object, an `ObjectResult`, and not from a frame.
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
    of_object: bool = False

    @property
    def format(self) -> str:
        """Tango display format."""
        return {float: NUMBER_FORMAT, int: WHOLE_FORMAT}.get(self.dtype, TEXT_FORMAT)

    @property
    def nothing(self) -> Any:
        """What is there before the first frame."""
        if self.axes:
            return np.zeros(tuple(axis.values.size for axis in self.axes))
        return self.dtype()

    def declaration(self) -> dict[str, Any]:
        """Return the keyword arguments of `tango.server.attribute`, without its reader."""
        dtype: Any = self.dtype
        sizes = {}
        if self.axes:
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
