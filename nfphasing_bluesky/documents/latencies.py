"""Latencies of any number of frames in bounded memory, with their percentiles."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

EXACT = 4096
"""As many latencies are kept as they are; with more, all are counted in bins."""

BINS_PER_E_FOLD = 1000
"""Neighbouring bins differ by 0.1 %, so that a percentile is right to 0.05 %."""

_LEAST_S = 1e-7


class Latencies:
    """What `numpy.percentile` would say of latencies, for runs that may last for weeks.

    A week of 10 microseconds to 10 seconds takes at most 14,000 bins.

    Args:
        values: to begin with, s.
    """

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._exact: list[float] = []
        self._bins: Counter[int] = Counter()
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._exact) + self._bins.total()

    def append(self, value: float) -> None:
        """Count one latency, s."""
        if self._bins:
            self._bins[_bin(value)] += 1
            return
        self._exact.append(value)
        if len(self._exact) > EXACT:
            self._bins.update(map(_bin, self._exact))
            self._exact = []

    def percentiles(self, which: Sequence[float]) -> list[float]:
        """Return percentiles, s; NaN when there is no latency. Exact for the first 4096, then to 0.05 %."""
        if not len(self):
            return [math.nan] * len(which)
        if self._exact:
            return [float(value) for value in np.percentile(self._exact, which)]
        bins = sorted(self._bins)
        values = np.exp(np.array(bins) / BINS_PER_E_FOLD)
        last = np.cumsum([self._bins[number] for number in bins]) - 1
        at = np.asarray(which) / 100.0 * last[-1]
        below, above = (values[np.searchsorted(last, side)] for side in (np.floor(at), np.ceil(at)))
        return [float(value) for value in below + (above - below) * (at % 1.0)]


def _bin(value: float) -> int:
    return round(BINS_PER_E_FOLD * math.log(max(value, _LEAST_S)))
