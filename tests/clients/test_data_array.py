import struct

import numpy as np
import pytest

from nfphasing_bluesky.clients.data_array import decode, encode, frame_number
from nfphasing_bluesky.core import TransportError

IMAGE = np.arange(12.0).reshape(3, 4)


def lima(image, header="<IHHIIHHHHHHHHIIIIIIII", kind=2, version=2, tail=(0, 0)):
    """Pack as LimaCCDs does: sizes from the fastest axis on."""
    dims = [*image.shape[::-1], 0, 0, 0, 0]
    steps = [1, image.shape[1], 0, 0, 0, 0]
    size = struct.calcsize(header)
    head = struct.pack(header, 0x44544159, version, size, 2, kind, 0, image.ndim, *dims, *steps, *tail)
    return "DATA_ARRAY", head + image.tobytes()


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4"])
def test_an_image_comes_back(dtype):
    back = decode(encode(IMAGE.astype(dtype)))
    assert back.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back, IMAGE)


def test_doubles_go_as_singles():
    assert decode(encode(IMAGE)).dtype == np.float32


def test_what_lima_sends_is_read_rows_first():
    np.testing.assert_array_equal(decode(lima(IMAGE.astype("u4"))), IMAGE)
    newer = lima(IMAGE.astype("u2"), "<IHHIIHHHHHHHHIIIIIIQ", kind=1, version=3, tail=(7,))
    np.testing.assert_array_equal(decode(newer), IMAGE)


def test_our_header_is_that_of_lima():
    ours, theirs = encode(IMAGE.astype("u4")), lima(IMAGE.astype("u4"))
    assert ours == theirs and struct.calcsize("<IHHIIHHHHHHHHIIIIIIII") == 64


@pytest.mark.parametrize(
    "value, what",
    [
        (("JPEG_GRAY8", b""), "not known"),
        (("VIDEO_IMAGE", b"short"), "fewer than its header"),
        (("VIDEO_IMAGE", bytes(64)), "damaged"),
        (("DATA_ARRAY", b"short"), "fewer than its header"),
        (("DATA_ARRAY", bytes(64)), "damaged"),
        (("DATA_ARRAY", lima(IMAGE.astype("u4"))[1][:-1]), "needs 48 bytes"),
        (("DATA_ARRAY", lima(IMAGE.astype("u4"), kind=77)[1]), "damaged"),
    ],
)
def test_what_is_no_image_is_refused(value, what):
    with pytest.raises(TransportError, match=what):
        decode(value)


def test_a_stack_is_refused():
    name, data = lima(IMAGE.astype("u4"))
    stack = data[:18] + struct.pack("<HHHH", 3, 4, 3, 2) + data[26:]
    with pytest.raises(TransportError, match="stack"):
        decode((name, stack))


def test_only_images_are_sent():
    with pytest.raises(TransportError, match="no DATA_ARRAY image"):
        encode(np.zeros(3))


def video(image, mode=1, number=7, order=0):
    """Pack as LImA's video_last_image does: the header in network order, pixels in the machine's."""
    height, width = image.shape
    return "VIDEO_IMAGE", struct.pack(
        "!IHHqiiHHHH", 0x5644454F, 1, mode, number, width, height, order, 32, 0, 0
    ) + (image.tobytes())


def test_a_video_image_has_its_number():
    sent = video(IMAGE.astype("<u2"))
    np.testing.assert_array_equal(decode(sent), IMAGE)
    assert frame_number(sent) == 7 and frame_number(lima(IMAGE.astype("u4"))) is None
    np.testing.assert_array_equal(decode(video(IMAGE.astype(">i4"), mode=2, order=1)), IMAGE)
    with pytest.raises(TransportError, match="video_mode"):
        decode(video(IMAGE.astype("<u2"), mode=9))
    with pytest.raises(TransportError, match="needs 24 bytes"):
        decode((sent[0], sent[1][:-1]))
