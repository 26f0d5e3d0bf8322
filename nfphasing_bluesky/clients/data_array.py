"""Images as Tango DevEncoded values in LImA's formats: a header, then the pixels.

DATA_ARRAY is that of LImA's `last_image` and `readImage`, VIDEO_IMAGE that of its `video_last_image`, with
the frame's number in the header (lima1.readthedocs.io, "DevEncoded DATA_ARRAY", "DevEncoded VIDEO_IMAGE"). A
pushed DevEncoded value is copied by Tango; a pushed attribute of 2,048 or more numbers is not, and then one
stopped subscriber holds up the whole server.
"""

import math
import struct

import numpy as np

from nfphasing_bluesky.core import TransportError

FORMAT, VIDEO = "DATA_ARRAY", "VIDEO_IMAGE"
_MAGIC, _VERSION, _IMAGE = 0x44544159, 2, 2
_HEADER = struct.Struct("<IHHIIHHHHHHHHIIIIIIII")
_START = struct.Struct("<IHHIIHHHHHHHH")
_MOST_DIMS = 6
_TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
_VIDEO_HEADER = struct.Struct("!IHHqiiHHHH")
_VIDEO_MAGIC = 0x5644454F
_VIDEO_TYPES = ("u1", "u2", "i4", "i8")
"""Modes Y8, Y16, Y32, Y64: grey values. Colours come behind them and are no counts."""


def encode(image: np.ndarray) -> tuple[str, bytes]:
    """Return format and bytes of a (H, W) image; float64 goes as float32.

    Raises:
        TransportError: for another shape, or pixels that are no numbers.
    """
    image = image.astype(np.float32) if image.dtype == np.float64 else image
    kind = f"{image.dtype.kind}{image.dtype.itemsize}"
    if image.ndim != 2 or kind not in _TYPES:
        raise TransportError(f"{image.shape} of {image.dtype} is no {FORMAT} image; expected (H, W) numbers")
    height, width = image.shape
    head = _HEADER.pack(
        _MAGIC, _VERSION, _HEADER.size, _IMAGE, _TYPES.index(kind), 0, 2,
        *(width, height, 0, 0, 0, 0), *(1, width, 0, 0, 0, 0), 0, 0,
    )  # fmt: skip
    return FORMAT, head + np.ascontiguousarray(image).astype(f"<{kind}", copy=False).tobytes()


def decode(encoded: tuple[str, bytes]) -> np.ndarray:
    """Return the (H, W) image of a DevEncoded value.

    Raises:
        TransportError: for another format, a damaged header, a stack of images, colours, or too few bytes.
    """
    name, data = encoded
    if name == VIDEO:
        return _video(data)
    if name != FORMAT:
        raise TransportError(
            f"DevEncoded format {name!r} is not known, expected {FORMAT!r} (LImA's last_image) or {VIDEO!r}"
        )
    if len(data) < _START.size:
        raise TransportError(f"{FORMAT} has {len(data)} bytes, fewer than its header")
    magic, _, header, _, kind, big, dims, *shape = _START.unpack_from(data)
    if magic != _MAGIC or kind >= len(_TYPES) or not 2 <= dims <= _MOST_DIMS or header < _START.size:
        raise TransportError(f"{FORMAT} has a damaged header; expected LImA's, an image of two dimensions")
    if any(size > 1 for size in shape[2:dims]):
        raise TransportError(f"{FORMAT} holds a stack {tuple(shape[:dims])}, expected one image")
    width, height = shape[:2]
    dtype = np.dtype(f"{'>' if big else '<'}{_TYPES[kind]}")
    return _pixels(FORMAT, data, header, (height, width), dtype)


def frame_number(encoded: tuple[str, bytes]) -> int | None:
    """Return the frame's number from the header of a VIDEO_IMAGE, -1 before the first; None of others."""
    name, data = encoded
    if name != VIDEO or len(data) < _VIDEO_HEADER.size:
        return None
    return int(_VIDEO_HEADER.unpack_from(data)[3])


def _video(data: bytes) -> np.ndarray:
    if len(data) < _VIDEO_HEADER.size:
        raise TransportError(f"{VIDEO} has {len(data)} bytes, fewer than its header")
    magic, _, mode, _, width, height, big, header, *_ = _VIDEO_HEADER.unpack_from(data)
    if magic != _VIDEO_MAGIC or width < 1 or height < 1 or header < _VIDEO_HEADER.size:
        raise TransportError(f"{VIDEO} has a damaged header, or there is no image yet")
    if mode >= len(_VIDEO_TYPES):
        raise TransportError(f"{VIDEO} is in mode {mode}, expected grey values: set video_mode to Y16 or Y32")
    dtype = np.dtype(f"{'>' if big else '<'}{_VIDEO_TYPES[mode]}")
    return _pixels(VIDEO, data, header, (height, width), dtype)


def _pixels(name: str, data: bytes, header: int, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    needed = math.prod(shape) * dtype.itemsize
    if len(data) - header < needed:
        raise TransportError(
            f"{name} of {shape[0]} x {shape[1]} {dtype} needs {needed} bytes after its header"
        )
    return np.frombuffer(data, dtype, math.prod(shape), header).reshape(shape)
