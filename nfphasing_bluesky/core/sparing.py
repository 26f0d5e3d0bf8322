"""A log for what may happen a thousand times a second: the first few lines, then how many more there were."""

import logging
import threading
import time


class Sparing:
    """Writes the same message a few times in a while, then says with the next one how many were left out.

    The same message is one of the same words, whatever is filled in.

    Args:
        logger: that writes.
        most: lines of one message in a while.
        every_s: length of a while, s.
    """

    def __init__(self, logger: logging.Logger, most: int = 5, every_s: float = 10.0) -> None:
        self._logger, self._most, self._every_s = logger, most, every_s
        self._counts: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def warning(self, message: str, *values: object) -> None:
        """Write a warning."""
        self._write(logging.WARNING, message, values, False)

    def error(self, message: str, *values: object) -> None:
        """Write an error."""
        self._write(logging.ERROR, message, values, False)

    def exception(self, message: str, *values: object) -> None:
        """Write an error with the traceback of the exception that is handled."""
        self._write(logging.ERROR, message, values, True)

    def _write(self, level: int, message: str, values: tuple[object, ...], traceback: bool) -> None:
        left_out = self._count(message)
        if left_out is None:
            return
        if left_out:
            message, values = f"{message} (%d more like it were left out before)", (*values, left_out)
        self._logger.log(level, message, *values, exc_info=traceback, stacklevel=3)

    def _count(self, message: str) -> int | None:
        """Return how many lines were left out before this one; None where it is left out too."""
        now = time.monotonic()
        with self._lock:
            began, count = self._counts.get(message, (-self._every_s, 0))
            if now - began >= self._every_s:
                self._counts[message] = (now, 1)
                return max(0, count - self._most)
            self._counts[message] = (began, count + 1)
            return None if count >= self._most else 0
