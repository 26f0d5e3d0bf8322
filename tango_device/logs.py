"""Log lines of this process in a device's own log stream, which Jive and logging targets show."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from tango import EnsureOmniThread

_WAITING_AT_MOST = 1000


class Streams(Protocol):
    """The log streams of a Tango device."""

    def debug_stream(self, line: str) -> None:
        """Log for those who look for an error."""

    def info_stream(self, line: str) -> None:
        """Log what happens."""

    def warn_stream(self, line: str) -> None:
        """Log what is odd."""

    def error_stream(self, line: str) -> None:
        """Log what went wrong."""


class DeviceLog(logging.Handler):
    """Hands what this process logs to a device's streams, in a thread of its own.

    Who logs may be pushing, or hold the device's monitor, which a log consumer may need: it never waits. The
    lines of a server with several devices are in the stream of each.

    Args:
        device: whose streams they are.
    """

    def __init__(self, device: Streams) -> None:
        super().__init__()
        self._streams: dict[int, Callable[[str], None]] = {
            logging.ERROR: device.error_stream,
            logging.WARNING: device.warn_stream,
            logging.INFO: device.info_stream,
            logging.NOTSET: device.debug_stream,
        }
        self._lines: queue.Queue[tuple[int, str] | None] = queue.Queue(_WAITING_AT_MOST)
        self._left_out = 0
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        self._thread = threading.Thread(target=self._run, name="nfphasing-log", daemon=True)
        self._thread.start()
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line; one for which there is no room is counted."""
        try:
            self._lines.put_nowait((record.levelno, self.format(record)))
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Take no more lines, and end the thread once those that wait are handed on."""
        logging.getLogger().removeHandler(self)
        self._lines.put(None)
        self._thread.join(2)
        super().close()

    def _run(self) -> None:
        with EnsureOmniThread():
            while (item := self._lines.get()) is not None:
                self._hand_on(*item)
                left_out, self._left_out = self._left_out, 0
                if left_out:
                    self._hand_on(logging.WARNING, f"{left_out} lines came too fast and are not here")

    def _hand_on(self, level: int, line: str) -> None:
        stream = next(call for least, call in self._streams.items() if level >= least)
        try:
            stream(line)
        except Exception:
            self.handleError(logging.LogRecord(__name__, level, __file__, 0, line, None, None))
