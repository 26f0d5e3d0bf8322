"""Runs of which nothing comes any more: their RunEngine was killed, or their stop document was lost."""

import math
import time

_ALONE = 24
"""How many times longer a silent run is waited for while no other begins."""


class Silence:
    """Since when nothing has come of each run.

    Args:
        patience_s: how long a run may be silent once another has begun; see `StreamSettings`.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._heard: dict[str, float] = {}
        self._last_start = 0.0
        self._given_up: dict[str, tuple[int, str]] = {}

    def hear(self, raw_uid: str, name: str) -> None:
        """Note that a document of a run has come."""
        if name == "stop":
            self._heard.pop(raw_uid, None)
            return
        self._heard[raw_uid] = time.monotonic()
        if name == "start":
            self._last_start = self._heard[raw_uid]

    def too_long(self) -> list[tuple[str, float]]:
        """Return the runs that are not worth waiting for, and for how many seconds they have been silent."""
        now = time.monotonic()
        return [
            (uid, now - heard)
            for uid, heard in self._heard.items()
            if now - heard > self._patience_s * (1 if self._last_start > heard else _ALONE)
        ]

    def give_up(self, raw_uid: str, events: int, remedy: str) -> None:
        """Wait for a run no longer, of which so many events have come; what makes up for others, in words."""
        self._heard.pop(raw_uid, None)
        self._given_up[raw_uid] = events, remedy

    def goes_on(self, raw_uid: str, events: float = math.inf) -> str:
        """Say, once, that a frame, or a stop that tells of so many events, is of a run given up."""
        if raw_uid not in self._given_up:
            return ""
        known, remedy = self._given_up[raw_uid]
        if events <= known:
            return ""
        del self._given_up[raw_uid]
        return f"it went on after it was closed as abandoned; {remedy}"
