"""Frames that bring a number of their own become the documents of a run, where nobody else makes any."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import event_model
import numpy as np
from numpy.typing import NDArray

ExitStatus = Literal["success", "abort", "fail"]
Emit = Callable[[str, dict[str, Any]], None]


class NumberedRun:
    """One run: start at once, then a descriptor and an event for each frame, a stop at the end.

    Gaps in the numbers stay gaps in the sequence numbers, which tell whoever follows the run what was lost.

    Args:
        emit: takes each document.
        data_key: of the frames.
        first: number of the frame that has sequence number 1.
        stream: of the frames.
        metadata: for the start document.
    """

    def __init__(
        self,
        emit: Emit,
        data_key: str,
        first: int,
        stream: str = "primary",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._emit, self._key, self._first, self._stream = emit, data_key, first, stream
        self._run = event_model.compose_run(metadata={"detectors": [data_key], **(metadata or {})})
        self._bundle: event_model.ComposeDescriptorBundle | None = None
        self._like: tuple[tuple[int, ...], np.dtype] | None = None
        self._last = 0
        self.taken = 0
        emit("start", dict(self._run.start_doc))

    @property
    def uid(self) -> str:
        """Of the run."""
        return str(self._run.start_doc["uid"])

    @property
    def lost(self) -> int:
        """Frames before the last one that never came."""
        return self._last - self.taken

    def take(self, number: int, frame: NDArray[Any] | str, time: float) -> None:
        """Take one frame; a number that is not behind the last one's is left out.

        Args:
            number: of the frame.
            frame: its pixels, or why there are none; one of another shape or dtype than the first fails, too.
            time: s since the epoch.
        """
        seq_num = number - self._first + 1
        if seq_num <= self._last:
            return
        self._last, self.taken = seq_num, self.taken + 1
        value = frame if isinstance(frame, str) else self._checked(frame)
        if self._bundle is None:
            self._bundle = self._described(value)
        event = self._bundle.compose_event(
            data={self._key: value}, timestamps={self._key: time}, seq_num=seq_num, time=time, validate=False
        )
        self._emit("event", dict(event))

    def stop(self, exit_status: ExitStatus = "success", reason: str = "", last: int | None = None) -> None:
        """End the run.

        Args:
            exit_status: for the stop document.
            reason: for the stop document.
            last: number of the last frame that there was, where it is known and may not have come.
        """
        stop = dict(self._run.compose_stop(exit_status=exit_status, reason=reason))
        there = self._last if last is None else max(self._last, last - self._first + 1)
        self._emit("stop", {**stop, "num_events": {self._stream: there} if self._bundle else {}})

    def _checked(self, frame: NDArray[Any]) -> NDArray[Any] | str:
        if frame.dtype.kind not in "biuf" or frame.ndim not in (1, 2) or frame.size == 0:
            return f"the source gave {frame.shape} of {frame.dtype}, expected an image or a curve of numbers"
        like = self._like = self._like or (frame.shape, frame.dtype)
        if (frame.shape, frame.dtype) != like:
            return (
                f"the source gave {frame.shape} of {frame.dtype}, expected {like[0]} of {like[1]} as "
                "in the run's first frame; Stop and Start begin another run"
            )
        return frame

    def _described(self, value: NDArray[Any] | str) -> event_model.ComposeDescriptorBundle:
        key: dict[str, Any] = {"source": "tango", "dtype": "array", "shape": [None, None]}
        if not isinstance(value, str):
            key |= {"shape": list(value.shape), "dtype_numpy": value.dtype.str}
        bundle = self._run.compose_descriptor(name=self._stream, data_keys={self._key: key})
        self._emit("descriptor", dict(bundle.descriptor_doc))
        return bundle
