"""The wire between processes: msgpack with arrays as (dtype, shape, bytes). Nothing on it can run code.

A message is refused with a TransportError, before anything is allocated for it, when it is larger than
agreed, declares sizes that its bytes do not bear out, or holds a dtype whose items are Python objects.
"""

import datetime
import enum
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgpack
import numpy as np

from nfphasing_bluesky.core import TransportError

MAX_MESSAGE_BYTES = 512 * 1024**2
"""Largest message that is sent or read: a 4k x 4k float64 frame fits four times."""

MAX_ITEMS = 2_000_000
"""Longest list or mapping that is read."""

MAX_DIMS = 32
_HEAD_BYTES = 512
"""No head of an array is longer: 64 characters of dtype and 32 sizes of at most 9 bytes."""
ARRAY_CODE = 0x4E
DTYPE_KINDS = "?biufcSUMm"

Document = Mapping[str, Any]


def pack(value: Any) -> bytes:
    """Serialise documents and messages; numpy scalars and arrays, paths, enums and dates are understood.

    Raises:
        TransportError: for an object dtype, a type with no plain form, or a message over MAX_MESSAGE_BYTES.
    """
    return bytes(_packed(value).bytes())


def _packed(value: Any) -> msgpack.Packer:
    """Pack a value and leave it in the packer, from whose buffer it need not be copied twice."""
    packer = msgpack.Packer(default=_plain, use_bin_type=True, autoreset=False)
    try:
        packer.pack(value)
    except TransportError:
        raise
    except Exception as error:
        raise TransportError(f"cannot serialise {type(value).__name__}: {error}; send plain data") from error
    size = len(packer.getbuffer())
    if size > MAX_MESSAGE_BYTES:
        raise TransportError(
            f"message has {size} bytes, at most {MAX_MESSAGE_BYTES} are sent; write frames to files"
        )
    return packer


def unpack(data: bytes | memoryview) -> Any:
    """Read what `pack` wrote. Arrays are writable copies.

    Raises:
        TransportError: for anything that is not a well-formed message within the bounds.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise TransportError(f"message has {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are read")
    try:
        return msgpack.unpackb(
            data,
            ext_hook=_array_from,
            raw=False,
            strict_map_key=False,
            max_array_len=min(MAX_ITEMS, len(data)),
            max_map_len=min(MAX_ITEMS, len(data)),
        )
    except TransportError:
        raise
    except Exception as error:
        hint = (
            "; it is a pickle, which is refused: set serializer=wire.pack"
            if bytes(data[:1]) == b"\x80"
            else ""
        )
        raise TransportError(f"not a message of this wire: {type(error).__name__}: {error}{hint}") from error


_WAITED = re.compile(rb"waited=(\d{1,7}\.\d{6}) ")


def pack_document(name: str, document: Document, prefix: bytes = b"") -> bytes:
    """Frame a document as bluesky's 0MQ publisher does: `prefix name payload`."""
    return b" ".join([prefix, name.encode(), _packed(document).getbuffer()])


def waited(seconds: float) -> bytes:
    """Prefix of a document that has waited for so long since it arrived."""
    return b"waited=%.6f" % max(0.0, seconds)


def waited_s(message: bytes) -> float:
    """How long a framed document has waited, as its prefix says; 0 where that says something else."""
    found = _WAITED.match(message)
    return float(found[1]) if found else 0.0


def unpack_document(message: bytes) -> tuple[str, dict[str, Any]]:
    """Read a framed document, whatever its prefix.

    Raises:
        TransportError: for anything that is not a name and a mapping.
    """
    first = message.find(b" ")
    second = message.find(b" ", first + 1)
    if first < 0 or second < 0:
        raise TransportError("message has no 'prefix name payload', expected bluesky's framing")
    word = message[first + 1 : second]
    try:
        name = word.decode("ascii")
    except UnicodeDecodeError as error:
        raise TransportError(f"document name {word[:40]!r} is not ASCII") from error
    if not name.isidentifier() or len(name) > 64:
        raise TransportError(f"document name {name[:40]!r} is not a name such as 'event'")
    document = unpack(memoryview(message)[second + 1 :])
    if not isinstance(document, dict):
        raise TransportError(f"{name} holds a {type(document).__name__}, expected a mapping")
    return name, document


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _array_ext(value)
    if isinstance(value, np.generic):
        plain = value.item()
        return _array_ext(np.asarray(value)) if isinstance(plain, (np.generic, complex)) else plain
    if isinstance(value, complex):
        return _array_ext(np.asarray(value))
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "items"):
        return dict(value.items())
    raise TransportError(f"cannot send a {type(value).__name__}; convert it to plain data")


def _array_ext(array: np.ndarray) -> msgpack.ExtType:
    if array.dtype.kind not in DTYPE_KINDS or array.dtype.hasobject:
        raise TransportError(f"array of dtype {array.dtype} is refused; send numbers or fixed-width text")
    head: bytes = msgpack.packb([array.dtype.str, list(array.shape)])
    if array.dtype.itemsize == 0:
        return msgpack.ExtType(ARRAY_CODE, head)
    body = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return msgpack.ExtType(ARRAY_CODE, b"".join((head, body.data)))


def _array_from(code: int, data: bytes) -> np.ndarray:
    if code != ARRAY_CODE:
        raise TransportError(f"extension type {code} is unknown, expected {ARRAY_CODE} (an array)")
    unpacker = msgpack.Unpacker(max_buffer_size=_HEAD_BYTES, max_array_len=MAX_DIMS, max_str_len=64)
    unpacker.feed(memoryview(data)[:_HEAD_BYTES])
    head = unpacker.unpack()
    dtype, shape = _checked_head(head)
    body = memoryview(data)[unpacker.tell() :]
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(body):
        raise TransportError(f"array {shape} of {dtype} needs {expected} bytes, not {len(body)}")
    if expected == 0:
        return np.empty(shape, dtype)
    # a copy that keeps Python's lock: to give it away and wait for it again takes longer in a busy worker
    return np.frombuffer(bytearray(body), dtype).reshape(shape)


def _checked_head(head: Any) -> tuple[np.dtype, tuple[int, ...]]:
    if not (isinstance(head, list) and len(head) == 2 and isinstance(head[0], str)):
        raise TransportError("array has no [dtype, shape] head")
    text, shape = head
    if text.lstrip("<>|=")[:1] not in DTYPE_KINDS.replace("?", "b"):
        raise TransportError(f"array of dtype {text!r} is refused; send numbers or fixed-width text")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= MAX_MESSAGE_BYTES for n in shape):
        raise TransportError("array shape is not a list of sizes within the bounds")
    dtype = np.dtype(text)
    if dtype.hasobject or dtype.itemsize == 0:
        raise TransportError(f"array of dtype {text!r} is refused; send numbers or fixed-width text")
    return dtype, tuple(shape)
