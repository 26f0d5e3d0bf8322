"""Which sequence numbers have come, so that the missing ones show."""

from bisect import bisect_right
from collections.abc import Iterable


class Seen:
    """A set of sequence numbers from 1, kept as intervals: a million frames in order take no room."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []

    def add(self, numbers: Iterable[int]) -> None:
        """Note numbers, in any order; twice is once."""
        for number in numbers:
            self._add(number)

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._firsts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number < self._ends[at]

    def missing(self, up_to: int = 0, start: int = 1) -> tuple[range, ...]:
        """Return the gaps from `start` to the largest number seen or `up_to`, whichever is larger."""
        gaps, begin = [], start
        for first, end in zip(self._firsts, self._ends, strict=True):
            if first > begin:
                gaps.append(range(begin, first))
            begin = max(begin, end)
        if up_to >= begin:
            gaps.append(range(begin, up_to + 1))
        return tuple(gaps)

    def _add(self, number: int) -> None:
        at = bisect_right(self._firsts, number) - 1
        if at >= 0 and number < self._ends[at]:
            return
        joins_left = at >= 0 and self._ends[at] == number
        joins_right = at + 1 < len(self._firsts) and self._firsts[at + 1] == number + 1
        if joins_left and joins_right:
            self._ends[at] = self._ends.pop(at + 1)
            del self._firsts[at + 1]
        elif joins_left:
            self._ends[at] += 1
        elif joins_right:
            self._firsts[at + 1] = number
        else:
            self._firsts.insert(at + 1, number)
            self._ends.insert(at + 1, number + 1)


def in_words(gaps: Iterable[range], most: int = 5) -> str:
    """Say which numbers are in some ranges, as `3, 7 to 9 and 12 more`."""
    gaps = list(gaps)
    words = [str(gap[0]) if len(gap) == 1 else f"{gap[0]} to {gap[-1]}" for gap in gaps[:most]]
    more = sum(map(len, gaps[most:]))
    return ", ".join(words) + (f" and {more} more" if more else "")
