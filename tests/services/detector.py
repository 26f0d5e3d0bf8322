"""A detector as a Tango server: `python detector.py INSTANCE`, device test/detector/1.

`prepare` and `expose(n)` take frames 0 to n, as LImA does; frame k is 100 + k everywhere, or what `spoil`
makes of it. Each is shown as IMAGE `image`, DevEncoded `last_image` and `video`, and by `readImage`.
"""

import struct

import numpy as np
from tango.server import Device, attribute, command

from nfphasing_bluesky.clients.data_array import encode

SHAPE = (6, 8)


class Detector(Device):
    def init_device(self):
        super().init_device()
        self._number, self._frame, self._spoiled = -1, np.zeros(SHAPE, np.uint16), {}
        for name in ("last_image_ready", "image", "last_image", "video"):
            self.set_change_event(name, True, False)

    @attribute(dtype=int)
    def last_image_ready(self):
        return self._number

    @attribute(dtype=int)
    def polled_number(self):
        return self._number

    @attribute(dtype=((np.uint16,),), max_dim_x=64, max_dim_y=64)
    def image(self):
        return self._frame

    @attribute(dtype="DevEncoded")
    def last_image(self):
        return self._encoded(self._frame)

    @attribute(dtype="DevEncoded")
    def video(self):
        return self._video()

    @command(dtype_in=int, dtype_out="DevEncoded")
    def readImage(self, number):  # noqa: N802 (LImA's name)
        return self._encoded(self._made(number))

    @command(dtype_in=[str])
    def spoil(self, how):
        """Spoil frame `how[0]`: shape, bytes."""
        self._spoiled[int(how[0])] = how[1]

    @command
    def prepare(self):
        self._show(-1)

    @command(dtype_in=int)
    def expose(self, last):
        """Take the frames up to number `last`, one after the other, as fast as it goes."""
        for number in range(self._number + 1, last + 1):
            self._show(number)

    @command(dtype_in=int)
    def skip(self, number):
        """Say that frame `number` is ready, without a word about those before."""
        self._show(number)

    def _made(self, number):
        shape = (3, 3) if self._spoiled.get(number) == "shape" else SHAPE
        return np.full(shape, 100 + number, np.uint16)

    def _encoded(self, frame):
        name, data = encode(frame)
        return (name, data[:70]) if self._spoiled.get(self._number) == "bytes" else (name, data)

    def _show(self, number):
        self._number, self._frame = number, self._made(number)
        if number >= 0:
            self.push_change_event("image", self._frame)
            self.push_change_event("last_image", *self._encoded(self._frame))
            self.push_change_event("video", *self._video())
        self.push_change_event("last_image_ready", number)

    def _video(self):
        height, width = self._frame.shape
        head = struct.pack("!IHHqiiHHHH", 0x5644454F, 1, 1, self._number, width, height, 0, 32, 0, 0)
        return "VIDEO_IMAGE", head + self._frame.astype("<u2").tobytes()


if __name__ == "__main__":
    Detector.run_server()
