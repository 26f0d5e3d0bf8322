"""What a report is made of, read from a catalog."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from nfphasing_bluesky.core import NFPhasingError, StorageError
from nfphasing_bluesky.storage.catalogs import PROCESSED, RAW, runs_of
from nfphasing_bluesky.storage.queries import density_dataset, object_dataset, reconstructions_of


@dataclass(frozen=True, eq=False)
class Measured:
    """The measured frames: (N, Q) with their q, or (N, H, W)."""

    data_key: str
    values: NDArray[Any]
    q: NDArray[Any] | None = None
    q_unit: str = ""


@dataclass(frozen=True, eq=False)
class Report:
    """One derived run, with the raw run it was made from where the catalog has it.

    Args:
        start, stop: documents of the derived run; `stop` is empty when the run was never ended.
        raw_start: start document of the raw run; empty where it is not in the catalog.
        density: the stream `density`; None when no frame arrived.
        stitched: the stream `object`, or None.
        ledger: its one event; empty when it was never written.
        units: of each parameter.
        measured: the frames, or None where they cannot be read.
        remarks: what is missing, and why.
    """

    start: Mapping[str, Any]
    stop: Mapping[str, Any]
    raw_start: Mapping[str, Any]
    density: xarray.Dataset | None
    stitched: xarray.Dataset | None
    ledger: Mapping[str, float]
    units: Mapping[str, str]
    measured: Measured | None
    remarks: tuple[str, ...] = field(default=())


def read_report(catalog: Any, run: str) -> Report:
    """Read a derived run, or the latest reconstruction of a raw run.

    Args:
        catalog: from `open_catalog`.
        run: uid of either, or the first characters of one.

    Raises:
        StorageError: there is no such run, several, or no reconstruction of it.
    """
    derived = _derived(catalog, run)
    start = derived.metadata["start"]
    remarks: list[str] = [str(remark) for remark in start["nfphasing"].get("remarks") or ()]
    density = _or_none(remarks, lambda: density_dataset(derived))
    stitched = object_dataset(derived) if "object" in derived else None
    raw = _raw(catalog, start["original_run_uid"], remarks)
    return Report(
        start,
        derived.metadata.get("stop") or {},
        {} if raw is None else raw.metadata["start"],
        density,
        stitched,
        _ledger(derived, remarks),
        _units(density),
        None if raw is None else _measured(raw, start["nfphasing"], remarks),
        tuple(remarks),
    )


def _derived(catalog: Any, run: str) -> Any:
    processed = runs_of(catalog, PROCESSED)
    found = [uid for uid in processed if uid.startswith(run)]
    if len(found) > 1:
        raise StorageError(f"{len(found)} derived runs begin with {run!r}; give more of the uid")
    if found:
        return processed[found[0]]
    raw_uids = [uid for uid in runs_of(catalog, RAW) if uid.startswith(run)]
    if len(raw_uids) > 1:
        raise StorageError(f"{len(raw_uids)} raw runs begin with {run!r}; give more of the uid")
    runs = reconstructions_of(catalog, raw_uids[0] if raw_uids else run)
    if not runs:
        where = "has no reconstruction" if raw_uids else "is neither a derived run nor a raw one"
        raise StorageError(f"run {run!r} {where} in {catalog.uri}; is it another catalog's?")
    return runs[-1]


def _or_none(remarks: list[str], read: Any) -> Any:
    try:
        return read()
    except NFPhasingError as error:
        remarks.append(str(error))
        return None


def _raw(catalog: Any, uid: str, remarks: list[str]) -> Any:
    try:
        return runs_of(catalog, RAW)[uid]
    except (KeyError, StorageError):
        remarks.append(f"The raw run {uid} is not in this catalog: what was measured is not shown.")
        return None


def _ledger(derived: Any, remarks: list[str]) -> dict[str, float]:
    if "ledger" not in derived:
        remarks.append("There is no ledger: the run was not ended by the program that made it.")
        return {}
    table = derived["ledger"].read()
    return {str(name): float(np.ravel(table[name].values)[-1]) for name in table.data_vars}


def _units(density: xarray.Dataset | None) -> dict[str, str]:
    if density is None:
        return {}
    names = [str(n) for n in density.data_vars if f"{n}_std" in density and density[n].ndim == 1]
    return {name: str(density[name].attrs.get("units", "")) for name in names}


def _measured(raw: Any, made: Mapping[str, Any], remarks: list[str]) -> Measured | None:
    stream, key = made.get("stream") or "primary", made.get("data_key") or ""
    try:
        table = raw[stream].read()
        values = np.asarray(table[key].values, np.float64)
        q_key = next((name for name in (f"{key}_q", key.replace("_intensity", "_q")) if name in table), None)
        q = None if q_key is None else np.asarray(table[q_key].values, np.float64)
        units = raw[stream].metadata["data_keys"].get(q_key, {}).get("units", "") if q_key else ""
    except Exception as error:  # tiled, HDF5 and the adapters each have their own
        remarks.append(f"The measured frames {key!r} of {stream!r} cannot be read: {error}")
        return None
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (2, 3):
        remarks.append(f"The measured frames {key!r} have shape {values.shape}, no curves and no images.")
        return None
    return Measured(key, values, q, units)
