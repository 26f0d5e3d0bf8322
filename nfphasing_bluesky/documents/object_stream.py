"""The stream `object` of a derived run: the object that the frames' posteriors are put together to."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import event_model
import numpy as np

from nfphasing_bluesky.core import (
    Axis,
    Failure,
    ModelInfo,
    NFPhasingError,
    Posterior,
    StitchedObject,
    Stitcher,
    Window,
    is_transmission,
)
from nfphasing_bluesky.documents.array_stream import ArrayStream
from nfphasing_bluesky.documents.columns import DEVICE, array_keys
from nfphasing_bluesky.documents.sinks import ArraySpec, ArrayStore, FileSpec

log = logging.getLogger(__name__)

QUANTITY = "phase and absorption of the object"
MOST_PIXELS = 2**24
"""Objects larger than this are written once, at the end, whatever is known of their size."""

_NUMBERS = (
    "object_frames",
    "object_left_out",
    "object_components",
    "object_doubtful",
    "object_row",
    "object_column",
)
_SHARE = "object_doubtful_share"


def makes_object(result: Posterior | Failure) -> bool:
    """Return whether a result is a patch of an object."""
    return isinstance(result, Posterior) and result.place is not None and is_transmission(result.density)


class ObjectStream:
    """Stitches posteriors and writes the object so far: now and then, and at the end.

    Where the object's rectangle is known beforehand the stream has a row for each state of it, the last one
    the whole; otherwise it has one row, at the end. `object_mean` is (2, Y, X), phase and absorption;
    `object_std` (Y, X) is that of the transmission over its modulus; both are NaN where nothing was seen.

    Args:
        run: composers of the derived run; its start document has gone out.
        info: the model.
        store: opens the array file.
        emit: takes documents.
        window: rectangle that the scan will cover, where that is known.
        every_s: least time between two rows, s.
    """

    def __init__(
        self,
        run: event_model.ComposeRunBundle,
        info: ModelInfo,
        store: ArrayStore,
        emit: Callable[[str, Any], None],
        window: Window | None = None,
        every_s: float = 2.0,
    ) -> None:
        self._run, self._info, self._store, self._emit = run, info, store, emit
        if window is not None and window.rows * window.columns > MOST_PIXELS:
            window = None
        self._window, self._every_s = window, every_s
        self._stitcher = Stitcher(info.neighbours, window)
        self._source = f"nfphasing:{info.name}"
        self._stream: event_model.ComposeDescriptorBundle | None = None
        self._arrays: ArrayStream | None = None
        self._written_at = time.monotonic()
        self._changed = False
        self.latest: StitchedObject | None = None
        """The object as it was last looked at, written or not."""

    def add(self, results: Iterable[Posterior | Failure]) -> None:
        """Take posteriors; write a row when one is due."""
        for result in results:
            if isinstance(result, Posterior) and makes_object(result):
                self._stitch(result)
        if time.monotonic() - self._written_at >= self._every_s:
            self._write() if self._window is not None else self._look()

    def close(self) -> None:
        """Write what has changed since the last row, and finish the file."""
        self._write()
        if self._arrays is not None:
            self._arrays.close()

    def _stitch(self, patch: Posterior) -> None:
        try:
            self._stitcher.add(patch)
            self._changed = True
        except NFPhasingError as error:
            log.error("derived run %s, frame %d: %s", self._uid, patch.origin.seq_num, error)

    def _look(self) -> StitchedObject | None:
        """Bring `latest` up to date; None where there is no object."""
        self._written_at = time.monotonic()
        try:
            self.latest = self._stitcher.result() or self.latest
        except NFPhasingError as error:
            log.error("derived run %s: %s", self._uid, error)
            return None
        return self.latest

    def _write(self) -> None:
        found = self._look() if self._changed else None
        self._written_at = time.monotonic()
        if found is None:
            return
        self._changed = False
        if self._stream is None or self._arrays is None:
            self._stream, self._arrays = self._begin(found)
        block = {
            "object_mean": found.parts[None].astype("<f4"),
            "object_std": found.std[None].astype("<f4"),
        }
        problem = self._arrays.write(block, 1)
        if problem:
            log.error("derived run %s: the object could not be stored: %s", self._uid, problem)
        self._write_event(found)

    def _write_event(self, found: StitchedObject) -> None:
        assert self._stream is not None and self._arrays is not None  # noqa: S101 - _write has begun them
        values = (found.frames, found.left_out, found.components, found.doubtful, *found.place)
        page = self._stream.compose_event_page(
            data={
                **{name: [int(value)] for name, value in zip(_NUMBERS, values, strict=True)},
                _SHARE: [found.doubtful_share],
            },
            timestamps={name: [time.time()] for name in (*_NUMBERS, _SHARE)},
            seq_num=[self._arrays.rows],
            time=[time.time()],
            filled={},
        )
        self._emit("event_page", page)

    def _begin(self, found: StitchedObject) -> tuple[event_model.ComposeDescriptorBundle, ArrayStream]:
        start = self._run.start_doc
        shape = found.mean.shape
        arrays = (
            ArraySpec("object_mean", (2, *shape), ("part", "y", "x"), "<f4", "rad"),
            ArraySpec("object_std", shape, ("y", "x"), "<f4", "1"),
        )
        axes = (Axis("part", np.array([0.0, 1.0]), ""), *found.axes)
        metadata = {
            **start["nfphasing"],  # type: ignore[typeddict-item]
            "raw_uid": start["raw_uid"],  # type: ignore[typeddict-item]
            "quantity": QUANTITY,
        }
        file = FileSpec(
            start["uid"],
            arrays,
            {axis.name: (axis.values, axis.units) for axis in axes},
            metadata,
            group="object",
            least_rows_per_chunk=1,
        )
        stream = self._describe(arrays, axes)
        return stream, ArrayStream(self._run, file, self._store, self._emit, stream.descriptor_doc)

    def _describe(
        self, arrays: tuple[ArraySpec, ...], axes: tuple[Axis, ...]
    ) -> event_model.ComposeDescriptorBundle:
        common: dict[str, Any] = {"source": self._source, "shape": [], "object_name": DEVICE}
        keys = array_keys(arrays, self._source)
        keys |= {name: {**common, "dtype": "integer", "dtype_numpy": "<i8"} for name in _NUMBERS}
        keys[_SHARE] = {**common, "dtype": "number", "dtype_numpy": "<f8"}
        stream = self._run.compose_descriptor(
            name="object",
            data_keys=keys,
            object_keys={DEVICE: list(keys)},
            configuration={DEVICE: self._configuration(axes)},
            hints={DEVICE: {"fields": ["object_frames"]}},
        )
        self._emit("descriptor", stream.descriptor_doc)
        return stream

    def _configuration(self, axes: tuple[Axis, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {axis.name: np.asarray(axis.values).tolist() for axis in axes}
        common = {"source": self._source, "dtype": "array", "dtype_numpy": "<f8"}
        keys: dict[str, Any] = {
            axis.name: {**common, "shape": [axis.values.size], "units": axis.units} for axis in axes
        }
        data["quantity"] = QUANTITY
        keys["quantity"] = {"source": self._source, "dtype": "string", "shape": []}
        return {"data": data, "timestamps": dict.fromkeys(data, time.time()), "data_keys": keys}

    @property
    def _uid(self) -> str:
        return str(self._run.start_doc["uid"])
