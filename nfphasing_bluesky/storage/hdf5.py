"""Arrays of derived runs in HDF5: one growing NeXus file a run, readable while it is written."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import h5py
import numpy as np

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.core.sparing import Sparing
from nfphasing_bluesky.documents.sinks import ArraySpec, FileSpec, Written
from nfphasing_bluesky.storage.rows import ChunkedRows, Trail, growing_dataset

log = logging.getLogger(__name__)

_CHUNK_BYTES = 2**20
_MOST_CHUNK_ROWS = 64
_METADATA_BYTES = 2**16
_ROOM_BYTES = 2**26


class DerivedFiles:
    """Opens the array files of derived runs in a folder.

    Args:
        folder: where the files go; made when the first one does.
        fallback: where a file goes on when the folder's disk is full or gone, or None.
    """

    def __init__(self, folder: Path | str, fallback: Path | str | None = None) -> None:
        self._folders = [Path(folder)] + ([] if fallback is None else [Path(fallback)])

    def open(self, spec: FileSpec) -> "DerivedFile":
        """Prepare the file of one derived run; it is created with its first block."""
        return DerivedFile(self._folders, spec)


class DerivedFile:
    """Array file of one derived run. When a folder fails, its block begins a new file in the next."""

    def __init__(self, folders: list[Path], spec: FileSpec) -> None:
        self._folders, self._log = list(folders), Sparing(log)
        self._spec = spec
        self._part: _Part | None = None

    def append(self, block: Mapping[str, np.ndarray]) -> Written:
        """Write (B, *shape) rows of every array and return where they are.

        Raises:
            StorageError: no folder could take them.
        """
        problems = []
        for folder in list(self._folders):
            try:
                if self._part is None:
                    self._part = _Part(folder, self._spec)
                return self._part.append(block)
            except (OSError, RuntimeError, ValueError) as error:
                problems.append(f"{folder}: {error}")
                self._log.error("arrays of derived run %s cannot go to %s: %s", self._spec.uid, folder, error)
                self.close()
                if folder is not self._folders[-1]:
                    self._folders.remove(folder)
        raise StorageError(
            f"arrays of derived run {self._spec.uid} could not be written: {'; '.join(problems)}"
        )

    def close(self) -> None:
        """Finish the file."""
        part, self._part = self._part, None
        if part is not None:
            part.close()


class _Part:
    """One HDF5 file: NXentry with the arrays as NXdata and their origin as NXprocess."""

    def __init__(self, folder: Path, spec: FileSpec) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._spec = spec
        ending = "" if spec.group == "density" else f"-{spec.group}"
        self._file, self.path = _create(folder, safe_name(spec.uid) + ending)
        self.chunk_rows = min(_rows_per_chunk(array, spec.least_rows_per_chunk) for array in spec.arrays)
        self._rows = 0
        self._handle = os.open(self.path, os.O_RDWR)
        self._trail = Trail(self._handle)
        try:
            self._datasets = self._lay_out()
            self._file.swmr_mode = True
            self._rows_of = {n: ChunkedRows(d) for n, d in self._datasets.items()}
        except (OSError, RuntimeError):
            self.close()
            raise

    def append(self, block: Mapping[str, np.ndarray]) -> Written:
        count = len(next(iter(block.values())))
        start, stop = self._rows, self._rows + count
        self._reserve(sum(self._growth(name, stop) for name in block))
        for name, rows in block.items():
            self._rows_of[name].append(rows)
            self._datasets[name].flush()
        self._rows = stop
        self._trail.grown_to(self._file.id.get_filesize())
        paths = {name: dataset.name for name, dataset in self._datasets.items()}
        return Written(f"file://localhost{quote(str(self.path))}", paths, start, stop, self.chunk_rows)

    def close(self) -> None:
        """Close the file; one that never got a row is removed."""
        os.close(self._handle)
        with contextlib.suppress(OSError, RuntimeError):
            self._file.close()
        if self._rows == 0:
            self.path.unlink(missing_ok=True)

    def _growth(self, name: str, stop: int) -> int:
        """Bytes of the chunks that rows up to `stop` add to one dataset."""
        dataset = self._datasets[name]
        chunks = -(-stop // self.chunk_rows) - -(-self._rows // self.chunk_rows)
        return chunks * int(np.prod(dataset.chunks)) * dataset.dtype.itemsize

    def _reserve(self, nbytes: int) -> None:
        """Claim disk space before HDF5 does: a disk that fills up under it leaves the whole file unreadable.

        Raises:
            OSError: disk, quota or file size limit have no room; the file is as it was.
        """
        try:
            os.posix_fallocate(self._handle, self._file.id.get_filesize(), nbytes + _METADATA_BYTES)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise

    def _lay_out(self) -> dict[str, h5py.Dataset]:
        entry = self._file.create_group("entry")
        data = entry.create_group(self._spec.group)
        self._file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": "nfphasing-bluesky"})
        entry.attrs.update({"NX_class": "NXentry", "default": self._spec.group})
        entry["title"] = (
            f"{self._spec.metadata.get('quantity', 'density')} of run {_get(self._spec, 'raw_uid')}"
        )
        entry["entry_identifier_uuid"] = self._spec.uid
        first = self._spec.arrays[0]
        data.attrs.update(
            {"NX_class": "NXdata", "signal": self._short(first.name), "axes": [".", *first.dims]}
        )
        for index, (name, (values, units)) in enumerate(self._spec.axes.items()):
            data[name] = np.asarray(values, dtype=np.float64)
            data[name].attrs["units"] = units
            data.attrs[f"{name}_indices"] = index + 1
        datasets = {array.name: self._dataset(data, array) for array in self._spec.arrays}
        if "std" in data and data["std"].shape == data[self._short(first.name)].shape:
            data[f"{self._short(first.name)}_errors"] = h5py.SoftLink(data["std"].name)
        self._process(entry)
        return datasets

    def _dataset(self, group: h5py.Group, array: ArraySpec) -> h5py.Dataset:
        dataset = growing_dataset(group, self._short(array.name), array.shape, array.dtype, self.chunk_rows)
        dataset.attrs["units"] = array.units
        dataset.attrs["long_name"] = f"{array.name} ({array.units})" if array.units else array.name
        return dataset

    def _short(self, name: str) -> str:
        return name.removeprefix(f"{self._spec.group}_")

    def _process(self, entry: h5py.Group) -> None:
        process = entry.create_group("process")
        process.attrs["NX_class"] = "NXprocess"
        process["program"] = "nfphasing-bluesky"
        process["version"] = str(_get(self._spec, "version"))
        process["date"] = datetime.now(UTC).isoformat()
        note = process.create_group("settings")
        note.attrs["NX_class"] = "NXnote"
        note["type"] = "application/json"
        note["data"] = json.dumps(dict(self._spec.metadata), sort_keys=True)


def has_room(folder: Path) -> bool:
    """Return whether a folder can be made or is there, and takes a file of 64 MB."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM_BYTES)
    except OSError as error:
        return error.errno in (errno.EOPNOTSUPP, errno.EINVAL)
    return True


def safe_name(uid: str) -> str:
    """Return a file name for a uid, whatever it says: no separators, no leading dot, no two the same."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", uid)[:80]
    if name != uid or not name:
        name = f"{name}-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"
    return name


def _create(folder: Path, stem: str) -> tuple[h5py.File, Path]:
    """Create a file that was not there before; a taken name gets a number."""
    number = 1
    while True:
        path = (folder / (f"{stem}.h5" if number == 1 else f"{stem}-{number}.h5")).resolve()
        try:
            return h5py.File(path, "x", libver="latest"), path
        except FileExistsError:
            number += 1


def _rows_per_chunk(array: ArraySpec, least: int) -> int:
    row = max(1, int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize)
    return int(np.clip(_CHUNK_BYTES // row, least, _MOST_CHUNK_ROWS))


def _get(spec: FileSpec, key: str) -> object:
    return spec.metadata.get(key, "unknown")
