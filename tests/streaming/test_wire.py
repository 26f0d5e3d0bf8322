import datetime
import enum
import pickle
import struct
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nfphasing_bluesky.core import TransportError
from nfphasing_bluesky.streaming import wire

NUMBERS = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(sizes=(64, 128)),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def array_message(dtype: str, shape: list, body: bytes) -> bytes:
    head = msgpack.packb([dtype, shape])
    return msgpack.packb(msgpack.ExtType(wire.ARRAY_CODE, head + body))


@given(hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
@settings(max_examples=150)
def test_any_array_comes_back_equal_writable_and_of_the_same_dtype(array):
    back = wire.unpack(wire.pack({"a": array}))["a"]
    assert back.dtype == array.dtype and back.shape == array.shape and back.flags.writeable
    np.testing.assert_array_equal(back, array)


@given(PLAIN)
@settings(max_examples=150)
def test_any_plain_value_comes_back_equal(value):
    assert wire.unpack(wire.pack(value)) == value


def test_strided_and_big_endian_arrays_survive():
    array = np.arange(24, dtype=">f4").reshape(4, 6)[::2, ::3]
    np.testing.assert_array_equal(wire.unpack(wire.pack(array)), array)


def test_scalars_and_the_common_python_types_have_a_plain_form():
    class Colour(enum.Enum):
        RED = "red"

    value = {
        "f": np.float32(0.5), "i": np.int64(7), "b": np.bool_(True), "p": Path("a/b"), "c": Colour.RED,
        "d": datetime.date(2026, 11, 22), "s": {3, 1}, "t": (1, 2), "u": np.array(["ab", "c"]), "z": 1 + 2j,
    }  # fmt: skip
    back = wire.unpack(wire.pack(value))
    assert [back[k] for k in "fibpcdst"] == [0.5, 7, True, "a/b", "red", "2026-11-22", [1, 3], [1, 2]]
    assert back["u"].tolist() == ["ab", "c"] and back["z"] == 1 + 2j


@given(st.binary(max_size=300))
@settings(max_examples=400)
def test_garbage_raises_nothing_but_transport_error(data):
    for read in (wire.unpack, wire.unpack_document):
        try:
            read(data)
        except TransportError:
            pass


@given(st.binary(max_size=80), st.sampled_from([b"", b"x"]))
@settings(max_examples=300)
def test_a_well_framed_garbage_payload_raises_nothing_but_transport_error(data, prefix):
    try:
        name, document = wire.unpack_document(prefix + b" event " + data)
    except TransportError:
        return
    assert name == "event" and isinstance(document, dict)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=300)
def test_a_flipped_byte_in_a_document_raises_nothing_but_transport_error(tail, where, byte):
    message = bytearray(wire.pack({"uid": "abc", "data": {"det": np.arange(12.0).reshape(3, 4)}}) + tail)
    message[where % len(message)] = byte
    try:
        wire.unpack(bytes(message))
    except TransportError:
        pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_refused_and_never_run(protocol, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for payload in (pickle.dumps(Bomb(), protocol), pickle.dumps({"uid": "1"}, protocol)):
        with pytest.raises(TransportError):
            wire.unpack_document(b" start " + payload)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "dtype", ["O", "|O", "<O8", "object", "V8", "f8,O", "", "f", "<U0", "x" * 60, "M8[weird]"]
)
def test_odd_dtypes_are_refused_on_reading(dtype):
    with pytest.raises(TransportError):
        wire.unpack(array_message(dtype, [1], b"\0" * 8))


def test_object_arrays_and_objects_are_refused_on_writing():
    for value in (np.array([object()]), np.array([{}], dtype=object), object(), np.zeros(2, dtype="f8,i4")):
        with pytest.raises(TransportError):
            wire.pack({"x": value})


@pytest.mark.parametrize(
    "message",
    [
        array_message("<f8", [2**40], b""),
        array_message("<f8", [2**20, 2**20], b"\0" * 8),
        array_message("<f8", [-1], b"\0" * 8),
        array_message("<f8", [1.5], b"\0" * 8),
        array_message("<f8", [1] * 100, b"\0" * 8),
        array_message("<f8", [2], b"\0" * 8),
        array_message("<U1000000000", [1], b"\0" * 8),
        b"\xdd" + struct.pack(">I", 2**32 - 1),
        b"\xdf" + struct.pack(">I", 2**32 - 1),
        b"\xc6" + struct.pack(">I", 2**32 - 1),
        b"\xc9" + struct.pack(">I", 2**32 - 1) + bytes([wire.ARRAY_CODE]),
        b"\xdb" + struct.pack(">I", 2**31) + b"a",
        b"\x91" * 100_000,
    ],
)
def test_declared_sizes_that_the_bytes_do_not_bear_out_are_refused_without_allocating(message):
    tracemalloc = pytest.importorskip("tracemalloc")
    tracemalloc.start()
    try:
        with pytest.raises(TransportError):
            wire.unpack(message)
        assert tracemalloc.get_traced_memory()[1] < 20 * 1024**2
    finally:
        tracemalloc.stop()


def test_messages_over_the_limit_are_refused_both_ways(monkeypatch):
    message = wire.pack(np.zeros(2000))
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 10_000)
    with pytest.raises(TransportError, match="at most 10000"):
        wire.unpack(message)
    with pytest.raises(TransportError, match="at most 10000"):
        wire.pack(np.zeros(2000))


def test_documents_are_framed_as_bluesky_frames_them():
    message = wire.pack_document("event", {"seq_num": 3}, prefix=b"sim")
    prefix, name, payload = message.split(b" ", 2)
    assert (prefix, name, wire.unpack(payload)) == (b"sim", b"event", {"seq_num": 3})
    assert wire.unpack_document(message) == ("event", {"seq_num": 3})


@pytest.mark.parametrize(
    "message",
    [b"", b"event", b" event ", b" a-b \x80", b" \xff\xfe \x80", b" event \x01", b" " + b"a" * 99 + b" \x80"],
)
def test_bad_framing_is_refused(message):
    with pytest.raises(TransportError):
        wire.unpack_document(message)


def test_a_document_says_how_long_it_has_waited():
    message = wire.pack_document("event", {"seq_num": 3}, wire.waited(12.5))
    assert wire.waited_s(message) == 12.5 and wire.unpack_document(message) == ("event", {"seq_num": 3})
    for prefix in (b"", b"waited=", b"waited=nan", b"waited=-1.000000", b"waited=" + 30 * b"9" + b".000000"):
        assert wire.waited_s(wire.pack_document("event", {}, prefix)) == 0.0
