"""What a plan hears of the reconstruction of its own run."""

import math
import time
from collections.abc import Iterator
from typing import Any, Protocol

import bluesky.plan_stubs as bps

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.streaming.protocol import Counts, FrameResult

_LOOK_EVERY_S = 0.02
HAVE_IT = 0.95
"""Share of the draws in which a quantity exists, at least, for it to be known."""


class Source(Protocol):
    """What a plan needs of a `ReconstructionCallback`."""

    @property
    def raw_uid(self) -> str:
        """Uid of the run that started last."""

    def subscribe_frames(self, func: Any) -> int:
        """Call `func(result)` with every FrameResult."""

    def unsubscribe(self, token: int) -> None:
        """Forget a subscriber."""

    def ledger(self) -> Counts:
        """Count frames so far."""


class Latest:
    """The latest posterior of a run, and how wide its intervals are."""

    def __init__(self, result: FrameResult) -> None:
        self.result = result

    @property
    def trusted(self) -> bool:
        """Whether the verdict is no ALARM: a narrow interval of a wrong model is worth nothing."""
        return self.result.verdict in ("VALID", "WARNING")

    def half_width(self, quantity: str) -> float:
        """Half of the central 95 % of a quantity, in its unit.

        It is infinite where over a twentieth of the draws have no such quantity, as the thickness of a layer
        that may not be there: what the others say of it is no 95 %.

        Raises:
            SettingsError: the model has no such quantity.
        """
        if quantity not in self.result.intervals:
            names = ", ".join(sorted(self.result.intervals))
            raise SettingsError(f"the posterior has no {quantity!r}, expected one of {names}")
        if self.result.shares.get(quantity, 1.0) < HAVE_IT:
            return math.inf
        low, high = self.result.intervals[quantity]
        return 0.5 * (high - low)


class Listening:
    """Hears the results of the run that is under way; a context manager.

    Args:
        source: the callback that reconstructs.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._latest: FrameResult | None = None
        self._token = 0

    def __enter__(self) -> "Listening":
        self._latest = None
        self._token = self._source.subscribe_frames(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        self._source.unsubscribe(self._token)

    def _hear(self, result: FrameResult) -> None:
        known = self._latest
        if result.verdict == "FAILED" or result.raw_uid != self._source.raw_uid:
            return
        if known is None or known.raw_uid != result.raw_uid or known.seq_num < result.seq_num:
            self._latest = result

    def latest(self) -> Latest | None:
        """Return the latest posterior of this run; None before there is one."""
        found = self._latest
        return None if found is None or found.raw_uid != self._source.raw_uid else Latest(found)

    def settle(self, patience_s: float) -> Iterator[Any]:
        """Plan stub: wait until everything measured so far is reconstructed, at most so long."""
        until = time.monotonic() + patience_s
        while self._source.ledger().pending > 0 and time.monotonic() < until:
            yield from bps.sleep(_LOOK_EVERY_S)
