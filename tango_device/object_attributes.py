"""The attributes of the object that the frames of a ptychographic scan are stitched to."""

import numpy as np

from nfphasing_bluesky.core import Axis
from tango_device.fields import DIMENSIONLESS, FrameField, Source

_PIXEL = (Axis("y", np.zeros(1), ""), Axis("x", np.zeros(1), ""))

OBJECT_FIELDS = (
    FrameField(
        "object_phase",
        "Phase of the object that the frames of the run are stitched to, NaN where nothing was seen. Its "
        "global phase is free.",
        "Phase of the object",
        lambda o: o.phase.astype(np.float64),
        "rad",
        judged=False,
        axes=_PIXEL,
        grows=True,
        source=Source.OBJECT,
    ),
    FrameField(
        "object_std",
        "Standard deviation of the object's transmission over its modulus, NaN where nothing was seen.",
        "Standard deviation of the object",
        lambda o: o.std.astype(np.float64),
        DIMENSIONLESS,
        judged=False,
        axes=_PIXEL,
        grows=True,
        source=Source.OBJECT,
    ),
    FrameField(
        "object_axis_y",
        "Coordinate of the object's rows, in object_axis_unit.",
        "Rows of the object",
        lambda o: np.asarray(o.axes[0].values, np.float64),
        DIMENSIONLESS,
        judged=False,
        axes=_PIXEL[:1],
        grows=True,
        source=Source.OBJECT,
    ),
    FrameField(
        "object_axis_x",
        "Coordinate of the object's columns, in object_axis_unit.",
        "Columns of the object",
        lambda o: np.asarray(o.axes[1].values, np.float64),
        DIMENSIONLESS,
        judged=False,
        axes=_PIXEL[:1],
        grows=True,
        source=Source.OBJECT,
    ),
    FrameField(
        "object_axis_unit",
        "Unit of the object's coordinates, m or px.",
        "Unit of the object's coordinates",
        lambda o: o.axes[0].units,
        dtype=str,
        judged=False,
        source=Source.OBJECT,
    ),
    FrameField(
        "object_frames",
        "How many frames the object is stitched of.",
        "Frames in the object",
        lambda o: o.frames,
        "count",
        int,
        judged=False,
        source=Source.OBJECT,
    ),
    FrameField(
        "object_components",
        "How many parts of the object have no overlap; between them the phase is unknown.",
        "Parts of the object",
        lambda o: o.components,
        "count",
        int,
        judged=False,
        source=Source.OBJECT,
    ),
)
