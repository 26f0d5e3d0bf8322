"""Protocols at the border to storage and transport."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.documents.keys import Document


class DocumentSink(Protocol):
    """Takes Bluesky documents, in order."""

    def __call__(self, name: str, doc: Document) -> None:
        """Take one document."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a derived run, a row per frame.

    Args:
        name: data key.
        shape: of one row.
        dims: name of each axis of a row.
        dtype: numpy dtype string, `<f4` or `<f8`.
        units: of the values.
    """

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: str
    units: str


@dataclass(frozen=True, eq=False)
class FileSpec:
    """What a derived run's array file has to hold.

    Args:
        uid: of the derived run; names the file.
        arrays: its arrays; the first is the signal, `<signal>_std` its errors.
        axes: axis name -> (values, units).
        metadata: who computed what from what, for NXprocess.
        group: NXdata that holds the arrays; their names begin with it and an underscore.
        least_rows_per_chunk: for few and large rows 1, so that a chunk is no larger than what is in it.
    """

    uid: str
    arrays: tuple[ArraySpec, ...]
    axes: Mapping[str, tuple[NDArray[Any], str]]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    group: str = "density"
    least_rows_per_chunk: int = 8


@dataclass(frozen=True)
class Written:
    """Where a block of rows went.

    Args:
        uri: of the file.
        datasets: array name -> path of its dataset in the file.
        start, stop: rows of the file.
        chunk_rows: rows per chunk.
    """

    uri: str
    datasets: Mapping[str, str]
    start: int
    stop: int
    chunk_rows: int


class ArrayWriter(Protocol):
    """Appends blocks of rows to a file."""

    def append(self, block: Mapping[str, np.ndarray]) -> Written:
        """Write (B, *shape) rows of every array and return where they are; readable when this returns.

        Raises:
            StorageError: nothing of the block could be kept.
        """

    def close(self) -> None:
        """Finish the file."""


class ArrayStore(Protocol):
    """Opens the array file of a derived run."""

    def open(self, spec: FileSpec) -> ArrayWriter:
        """Create the file that `spec` describes.

        Raises:
            StorageError: it could not be created.
        """
