"""What was measured beside what the posterior predicts, for displays; at a limited rate."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nfphasing_bluesky.core import CurveGeometry, Frame, GrazingCutsGeometry, Posterior, TransportError
from nfphasing_bluesky.streaming.protocol import UNREADABLE

logger = logging.getLogger(__name__)

PATTERNS_A_SECOND = 4.0


@dataclass(frozen=True, eq=False)
class PatternResult:
    """One frame, its posterior-predictive pattern and the answers of a model that has several.

    Args:
        raw_uid, seq_num: the raw frame.
        measured: (Q,) or (H, W) intensity, NaN where it is masked; float32, as the others.
        predicted, lower, upper: posterior-predictive mean and 95 % band, the same shape.
        q_inv_angstrom: (Q,) of a curve; of two cuts q_y of the first, then q_z; empty for an image.
        mode_weights: (K,) share of the draws of each answer, the heaviest first; empty where there is one.
        mode_mean: mean of the heaviest answer's draws, the density's shape; None where there is one.
    """

    raw_uid: str
    seq_num: int
    measured: np.ndarray
    predicted: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    q_inv_angstrom: np.ndarray = field(default_factory=lambda: np.empty(0))
    mode_weights: tuple[float, ...] = ()
    mode_mean: np.ndarray | None = None

    @classmethod
    def of(cls, frame: Frame, posterior: Posterior, answers: int = 0) -> "PatternResult":
        """Put a frame beside its posterior; `answers` is how many modes are told, 0 for none."""
        band = posterior.prediction
        geometry = frame.geometry
        modes = posterior.modes()[:answers] if answers else ()
        return cls(
            frame.origin.raw_uid,
            frame.origin.seq_num,
            measured=np.where(frame.usable, frame.intensity, np.nan).astype(np.float32),
            predicted=np.asarray(band.mean, np.float32),
            lower=np.asarray(band.lower, np.float32),
            upper=np.asarray(band.upper, np.float32),
            q_inv_angstrom=geometry.q_inv_angstrom
            if isinstance(geometry, CurveGeometry | GrazingCutsGeometry)
            else np.empty(0),
            mode_weights=tuple(float(mode.weight) for mode in modes),
            mode_mean=np.real(modes[0].mean).astype(np.float32) if modes else None,
        )

    def to_message(self) -> dict[str, Any]:
        """Return the plain form; arrays stay arrays."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "PatternResult":
        """Read the plain form.

        Raises:
            TransportError: when it is not one.
        """
        try:
            return cls(**{**message, "mode_weights": tuple(map(float, message["mode_weights"]))})
        except UNREADABLE as error:
            raise TransportError(f"not a frame's pattern: {error}; versions differ") from error


class Patterns:
    """Hands on the latest frame and its posterior, at most `PATTERNS_A_SECOND`.

    Args:
        publish: takes the plain form of a pattern.
        heard: whether anybody listens; until then the latest waits.
    """

    def __init__(
        self, publish: Callable[[dict[str, Any]], None], heard: Callable[[], bool] = lambda: True
    ) -> None:
        self._publish, self._heard = publish, heard
        self._owed: tuple[Frame, Posterior, int] | None = None
        self._due = 0.0

    def take(self, frame: Frame, posterior: Posterior, answers: int) -> None:
        """Remember this one in place of any that waits."""
        self._owed = (frame, posterior, answers)
        self.poll()

    def poll(self) -> None:
        """Publish what waits when it is time."""
        if self._owed is not None and time.monotonic() >= self._due and self._heard():
            owed, self._owed = self._owed, None
            self._due = time.monotonic() + 1.0 / PATTERNS_A_SECOND
            try:
                self._publish(PatternResult.of(*owed).to_message())
            except Exception:
                logger.exception(
                    "frame %d cannot be shown; it is stored all the same", owed[0].origin.seq_num
                )
