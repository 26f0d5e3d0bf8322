"""Rows of arrays into a file, and the stream documents that say where they are."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import event_model
import numpy as np

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.core.sparing import Sparing
from nfphasing_bluesky.documents.sinks import ArrayStore, ArrayWriter, FileSpec, Written

log = logging.getLogger(__name__)

_FILLING_BYTES = 2**22
"""Rows of NaN that are made and written at once, for those that are owed."""


class ArrayStream:
    """Writes blocks of rows and announces them in stream resources and stream datums.

    Args:
        run: composers of the derived run; its start document has gone out.
        file: what the file has to hold.
        store: opens the file.
        emit: takes documents.
        descriptor: of the stream; it declares the file's arrays.
    """

    def __init__(
        self,
        run: event_model.ComposeRunBundle,
        file: FileSpec,
        store: ArrayStore,
        emit: Callable[[str, Any], None],
        descriptor: Any,
    ) -> None:
        self._run, self._file, self._store, self._emit = run, file, store, emit
        self._descriptor = descriptor
        self._writer: ArrayWriter | None = None
        self._composers: dict[tuple[str, str], event_model.ComposeStreamResourceBundle] = {}
        self._owed, self._log = 0, Sparing(log)
        self.rows = 0
        """Rows so far, those that are owed too: the sequence number of the last event."""

    def write(self, block: Mapping[str, np.ndarray], count: int) -> str:
        """Write and announce `count` rows; return why they could not be kept, or nothing.

        Rows that cannot be kept are owed and written as NaN later, so that those after them stay in step.
        """
        try:
            self._fill_up()
            written = self._append(block)
        except StorageError as error:
            self._log.error("derived run %s: %s", self._file.uid, error)
            self._owed += count
            self.rows += count
            return str(error)
        self.rows += count
        self._announce(written, self.rows + 1 - count)
        return ""

    def close(self) -> None:
        """Fill up rows that are still owed and finish the file."""
        try:
            self._fill_up()
        except StorageError as error:
            log.error("derived run %s ends %d rows early: %s", self._file.uid, self._owed, error)
        if self._writer is not None:
            self._writer.close()

    def _fill_up(self) -> None:
        """Write NaN for rows that are owed, a few at a time: a disk may have been full for an hour."""
        row_bytes = sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in self._file.arrays)
        while self._owed:
            count = min(self._owed, max(1, _FILLING_BYTES // max(1, row_bytes)))
            block = {a.name: np.full((count, *a.shape), np.nan, dtype=a.dtype) for a in self._file.arrays}
            written = self._append(block)
            first = self.rows + 1 - self._owed
            self._owed -= count
            self._announce(written, first)

    def _append(self, block: Mapping[str, np.ndarray]) -> Written:
        if self._writer is None:
            self._writer = self._store.open(self._file)
        return self._writer.append(block)

    def _announce(self, written: Written, first: int) -> None:
        """Say in stream documents where a block is; a new file gets new stream resources."""
        count = written.stop - written.start
        for spec in self._file.arrays:
            composer = self._composers.get((written.uri, spec.name))
            if composer is None:
                composer = self._composers[(written.uri, spec.name)] = self._resource(
                    written, spec.name, spec.shape
                )
            datum = composer.compose_stream_datum(
                indices={"start": written.start, "stop": written.stop},
                seq_nums={"start": first, "stop": first + count},
                descriptor=self._descriptor,
                # as for pages of events: the tests validate
                validate=False,
            )
            self._emit("stream_datum", datum)

    def _resource(
        self, written: Written, name: str, shape: tuple[int, ...]
    ) -> event_model.ComposeStreamResourceBundle:
        compose = event_model.ComposeStreamResource(self._run.start_doc)
        composer = compose(
            mimetype="application/x-hdf5",
            uri=written.uri,
            data_key=name,
            parameters={"dataset": written.datasets[name], "chunk_shape": [written.chunk_rows, *shape]},
        )
        self._emit("stream_resource", composer.stream_resource_doc)
        return composer
