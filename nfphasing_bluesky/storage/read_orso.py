"""Reflectivity curves from ORSO files, text (.ort) or HDF5 (.orb), through orsopy.

ORSO orders its columns: momentum transfer, reflectivity, its error, the resolution; each has its unit, and
errors say whether they are standard deviations or full widths at half maximum. https://www.reflectometry.org
"""

import warnings
from io import StringIO
from pathlib import Path

import numpy as np
from orsopy.fileio import Column, ErrorColumn, OrsoDataset, load_nexus, load_orso

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.storage.curves import Columns, ReadOptions
from nfphasing_bluesky.storage.units import required_q_scale

SUFFIXES = frozenset({".ort", ".orb"})
_HEADER = b"ORSO reflectivity data file"


def is_orso(path: Path, start: bytes) -> bool:
    """Return whether a file is one of ORSO's, by its name or its first bytes."""
    return path.suffix.lower() in SUFFIXES or _HEADER in start[:200]


def read_orso(path: Path, options: ReadOptions) -> list[Columns]:
    """Read every curve of an ORSO file.

    Raises:
        StorageError: it cannot be read, or its first two columns are not q and a reflectivity.
        GeometryError: its unit of q is none.
    """
    try:
        with warnings.catch_warnings():
            # orsopy warns of header entries that it does not know
            warnings.simplefilter("ignore")
            if path.suffix.lower() == ".orb":
                found = load_nexus(str(path))
            else:
                # opened here, because orsopy leaves what it opens open when it fails
                found = load_orso(StringIO(path.read_text(encoding="utf-8")))
    except Exception as error:  # whatever a damaged file makes the parsers raise
        raise StorageError(
            f"{path}: not an ORSO file that orsopy can read ({error}); copy it again, or save its columns as "
            "plain text"
        ) from error
    return [_columns(dataset, number, path, options) for number, dataset in enumerate(found)]


def _columns(dataset: OrsoDataset, number: int, path: Path, options: ReadOptions) -> Columns:
    described, data = dataset.info.columns, np.asarray(dataset.data, dtype=np.float64)
    names = [column.name for column in described]
    if len(names) < 2 or names[0] != "Qz" or data.ndim != 2 or data.shape[1] < 2:
        raise StorageError(
            f"{path}: columns are {', '.join(map(str, names))}, expected Qz, R, sR, sQz; reduce the data "
            "to a reflectivity over Qz first"
        )
    errors = {c.error_of: i for i, c in enumerate(described) if isinstance(c, ErrorColumn)}
    unit = described[0].unit if isinstance(described[0], Column) else None

    def sigma(name: str) -> np.ndarray | None:
        place = errors.get(name)
        return None if place is None else data[:, place] * described[place].to_sigma

    return Columns(
        q=data[:, 0],
        intensity=data[:, 1],
        sigma=sigma(names[1]),
        dq=sigma(names[0]),
        q_scale=None if unit is None else required_q_scale(unit, path, "its header"),
        number=number,
    )
