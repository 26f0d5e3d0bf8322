"""Frames behind StreamResource and StreamDatum documents: growing HDF5 files and numbered image files."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import DocumentError
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.documents.templates import file_name

_POLL_S = 0.01
_IMAGES = frozenset(f"multipart/related;type={kind}" for kind in ("image/tiff", "image/jpeg", "image/cbf"))

MOST_BYTES = 2**29
"""Of one event's value: as in a message, 512 MB."""

MOST_ROWS = 1_000_000
"""Rows that one stream datum may announce: each becomes a frame, or a failure that takes its time, too."""


def rows_of(doc: Document) -> tuple[range, int]:
    """Return the rows that a stream datum announces, and what makes the sequence number of each.

    Raises:
        DocumentError: it announces what nobody can have written, before anything is kept for it.
    """
    ends = [doc[name][end] for name in ("indices", "seq_nums") for end in ("start", "stop")]
    if not all(isinstance(end, int) for end in ends):
        raise DocumentError(f"stream datum {doc.get('uid')}: rows {ends[:2]}, expected whole numbers")
    first, last, number, end = ends
    if first < 0:
        raise DocumentError(f"stream datum {doc.get('uid')}: row {first}, expected 0 or later")
    if last - first > MOST_ROWS:
        raise DocumentError(
            f"stream datum {doc.get('uid')}: {last - first} rows at once, at most {MOST_ROWS} are taken; is "
            "its `indices` right?"
        )
    return range(first, last), number - first if end - number == last - first else 1


class StreamAssets:
    """The stream resources of one run, opened when first read.

    Args:
        wait_s: how long to wait for a file to appear and grow, since documents can be ahead of the file
            system; after one wait in vain the next reads of that resource do not wait again until it grows.
        root_map: path prefix in the documents -> prefix on this machine.
    """

    def __init__(self, wait_s: float = 5.0, root_map: Mapping[str, str] | None = None) -> None:
        self._wait_s = wait_s
        self._root_map = dict(root_map or {})
        self._documents: dict[str, Document] = {}
        self._readers: dict[str, _HDF5 | _Images] = {}

    def add(self, doc: Document) -> None:
        """Remember a stream resource."""
        self._documents[doc["uid"]] = doc

    def data_key(self, resource_uid: str) -> str:
        """Return the data key that a stream resource serves."""
        return str(self._documents[resource_uid]["data_key"])

    def read(self, resource_uid: str, index: int, shape: Sequence[int | None]) -> NDArray[Any]:
        """Return row `index` of a resource.

        Args:
            resource_uid: of the StreamResource.
            index: as in the StreamDatum, from 0 in each resource.
            shape: of one event's value, from the descriptor.

        Raises:
            DocumentError: the file is missing, truncated, too short after the wait, or of an unknown kind.
        """
        doc = self._documents[resource_uid]
        reader = self._readers.get(resource_uid)
        if reader is None:
            reader = self._readers[resource_uid] = self._reader(doc)
        return reader.read(index, tuple(shape))

    def close(self) -> None:
        """Close every file."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _reader(self, doc: Document) -> "_HDF5 | _Images":
        mimetype, parameters = doc["mimetype"], doc.get("parameters", {})
        path = self._path(doc["uri"])
        if mimetype == "application/x-hdf5" and "template" not in parameters:
            return _HDF5(path, parameters, self._wait_s)
        if mimetype in _IMAGES and "template" in parameters:
            return _Images(path, parameters["template"], self._wait_s)
        raise DocumentError(
            f"{doc['data_key']}: files of type {mimetype!r} cannot be read here; expected application/x-hdf5 "
            f"or one of {', '.join(sorted(_IMAGES))} with a template"
        )

    def _path(self, uri: str) -> str:
        parsed = urlparse(uri)
        if parsed.scheme not in ("file", ""):
            raise DocumentError(f"{uri}: only file:// resources can be read here, not {parsed.scheme}://")
        path = unquote(parsed.path)
        for theirs, ours in self._root_map.items():
            if path == theirs or path.startswith(theirs.rstrip("/") + "/"):
                return ours.rstrip("/") + path[len(theirs.rstrip("/")) :]
        return path


def _check_size(what: str, *nbytes: int) -> None:
    if max(nbytes) > MOST_BYTES:
        raise DocumentError(
            f"{what}: one event needs {max(nbytes) / 2**20:.0f} MB, at most {MOST_BYTES // 2**20} are read"
        )


def _check_kind(path: Path) -> None:
    """Refuse what is there and no file: a pipe or a device may be waited for, or read, for ever."""
    if path.exists() and not path.is_file():
        raise DocumentError(f"{path} is no regular file; is the path in the document right?")


class _HDF5:
    """One dataset of an HDF5 file that may still be written (single writer, multiple readers)."""

    def __init__(self, path: str, parameters: Document, wait_s: float) -> None:
        self._path = path
        self._name = parameters.get("dataset") or parameters.get("path") or ""
        self._multiplier = parameters.get("multiplier") or parameters.get("frame_per_point")
        self._wait_s = self._patience = wait_s
        self._file: h5py.File | None = None
        self._rows = 0

    def read(self, index: int, shape: tuple[int | None, ...]) -> NDArray[Any]:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                dataset = self._dataset()
                count = self._rows_per_event(dataset, shape)
                self._check(dataset, count)
                if dataset.shape[0] >= (index + 1) * count:
                    self._rows, self._patience = dataset.shape[0], self._wait_s
                    value = dataset[index * count : (index + 1) * count]
                    return np.asarray(value if count > 1 else value[0])
                problem = f"has {dataset.shape[0]} rows, expected at least {(index + 1) * count}"
                self._revive(dataset.shape[0])
            except (OSError, KeyError, RuntimeError) as error:
                problem = f"cannot be read: {error}"
                self.close()
            if time.monotonic() >= deadline:
                self._patience = 0.0
                raise DocumentError(
                    f"{self._path}:{self._name} {problem}; the file may be truncated or not yet written"
                )
            time.sleep(_POLL_S)

    def _check(self, dataset: h5py.Dataset, count: int) -> None:
        """Look at what would be read: a sparse or well compressed file is small whatever it says it holds."""
        if count < 1 or dataset.dtype.hasobject:
            raise DocumentError(
                f"{self._path}:{self._name} has {dataset.dtype}, {count} rows an event, "
                "expected numbers and 1 or more"
            )
        row = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        packed = dataset.id.get_create_plist().get_nfilters() and dataset.chunks
        chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize if packed else 0
        _check_size(f"{self._path}:{self._name}", count * row, chunk)

    def _revive(self, rows: int) -> None:
        if rows > self._rows:
            self._rows, self._patience = rows, self._wait_s

    def _dataset(self) -> h5py.Dataset:
        if self._file is None:
            _check_kind(Path(self._path))
            try:
                self._file = h5py.File(self._path, "r", libver="latest", swmr=True)
            except (OSError, ValueError):
                self._file = h5py.File(self._path, "r")
        dataset = self._file[self._name]
        dataset.id.refresh()
        return dataset

    def _rows_per_event(self, dataset: h5py.Dataset, shape: tuple[int | None, ...]) -> int:
        """Rows of the file in one event: the leading axis counts them where the ranks are equal."""
        if self._multiplier:
            return int(self._multiplier)
        if len(shape) == dataset.ndim and len(shape) > 0 and shape[0]:
            return int(shape[0])
        return 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Images:
    """A numbered sequence of image files, one frame in each."""

    def __init__(self, folder: str, template: str, wait_s: float) -> None:
        # a sixth of the time that a worker takes to start, and few read images from files
        import fabio

        self._folder, self._template, self._wait_s = folder, template, wait_s
        self._open, self._header = fabio.open, fabio.openheader

    def read(self, index: int, shape: tuple[int | None, ...]) -> NDArray[Any]:
        name = file_name(self._template, index)
        path = (
            Path(self._folder) / name.lstrip("/") if self._folder.endswith("/") else Path(self._folder + name)
        )
        deadline = time.monotonic() + self._wait_s
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        _check_kind(path)
        try:
            _check_size(f"{path}", math.prod(self._header(path).shape) * 4, path.stat().st_size)
            with self._open(path) as image:
                return np.array(image.data)
        except DocumentError:
            raise
        except Exception as error:  # fabio's codecs raise their own errors on bad files
            raise DocumentError(
                f"{path} cannot be read: {error}; the file may be truncated or missing"
            ) from error

    def close(self) -> None:
        """Nothing is held open."""
