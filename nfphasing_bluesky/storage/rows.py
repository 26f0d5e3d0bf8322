"""Rows appended to a chunked, uncompressed HDF5 dataset as they lie in memory, each byte written once.

HDF5's own path copies rows into its chunk cache and writes the whole chunk at every flush: eight times the
bytes where rows come one by one, and three times the processor time where they come by the dozen. A dataset
without a cache, whose chunks have their places before their rows, takes them as they are.
"""

import os

import h5py
import numpy as np

_KEPT_BYTES = 64 * 2**20


def growing_dataset(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str, chunk_rows: int
) -> h5py.Dataset:
    """Make an empty dataset for `ChunkedRows`: (0, *shape), in chunks of whole rows that have no cache.

    A chunk has its place in the file as soon as the dataset reaches into it, and nothing is written there:
    its bytes are 0 until its rows come.
    """
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    return group.create_dataset(
        name,
        shape=(0, *shape),
        maxshape=(None, *shape),
        chunks=(chunk_rows, *shape),
        dtype=dtype,
        fill_time="never",
        rdcc_nbytes=0,
        rdcc_nslots=1,
        dcpl=plan,
    )


class ChunkedRows:
    """Appends rows to one dataset.

    Args:
        dataset: made by `growing_dataset`, without rows.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset, self._dtype = dataset, dataset.dtype
        self._before = (0,) * (dataset.ndim - 1)
        self._count = 0

    def append(self, rows: np.ndarray) -> None:
        """Write (B, *shape) rows after those before.

        Raises:
            OSError, RuntimeError: they could not be written; the dataset is as it was.
        """
        rows = np.ascontiguousarray(rows, dtype=self._dtype)
        self._dataset.resize(self._count + len(rows), axis=0)
        try:
            self._put(rows)
        except (OSError, RuntimeError):
            self._dataset.resize(self._count, axis=0)
            raise
        self._count += len(rows)

    def _put(self, rows: np.ndarray) -> None:
        """Write rows that the dataset has room for: past what h5py does to find out what they mean."""
        if not len(rows):
            return
        place = self._dataset.id.get_space()
        place.select_hyperslab((self._count, *self._before), rows.shape)
        self._dataset.id.write(h5py.h5s.create_simple(rows.shape), place, rows)


class Trail:
    """Lets the system forget what was written a while ago, so that a long scan does not fill its memory.

    By default it keeps everything that is written until no memory is left, and where memory is fetched from
    a host page by page, as in virtual machines, that took longer than all else: 1.8 ms a frame of 512 KB.

    Args:
        handle: file descriptor of the file.
        kept_bytes: about as many at its end stay in memory, for readers.
    """

    def __init__(self, handle: int, kept_bytes: int = _KEPT_BYTES) -> None:
        self._handle, self._kept = handle, kept_bytes
        self._mark = 0

    def grown_to(self, size: int) -> None:
        """Hear how long the file is now."""
        while size >= self._mark + self._kept:
            # begins to write the last stretch to the disk, and forgets the one before, which is there by now
            first = max(0, self._mark - self._kept)
            os.posix_fadvise(self._handle, first, self._mark + self._kept - first, os.POSIX_FADV_DONTNEED)
            self._mark += self._kept
