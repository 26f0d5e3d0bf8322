"""When the frames of a run arrived: what a latency is counted from."""

from bisect import bisect_right

from nfphasing_bluesky.streaming.frames import FrameSpan

_KEPT = 8192
"""Documents that are remembered at least; frames come soon after theirs."""


class Arrivals:
    """Remembers the arrival of the latest documents with frames, on the monotonic clock, s."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        self._times: list[float] = []

    def add(self, span: FrameSpan, arrived: float) -> None:
        """Note when the document of frames arrived."""
        first = min(span.seq_nums)
        at = bisect_right(self._first, first)
        self._first.insert(at, first)
        self._last.insert(at, max(span.seq_nums))
        self._times.insert(at, arrived)
        if len(self._first) > 2 * _KEPT:
            for values in (self._first, self._last, self._times):
                del values[:_KEPT]

    def of(self, seq_num: int, now: float) -> float:
        """When a frame arrived; `now` where that is not known."""
        at = bisect_right(self._first, seq_num) - 1
        return self._times[at] if at >= 0 and seq_num <= self._last[at] else now
