"""Questions to a catalog: which reconstructions a raw run has, which raw run a reconstruction is of."""

from typing import Any

import numpy as np
import xarray
from tiled.client.container import Container
from tiled.queries import Key

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.documents.columns import DEVICE
from nfphasing_bluesky.storage.catalogs import PROCESSED, RAW, runs_of


def reconstructions_of(catalog: Container, raw_uid: str) -> list[Any]:
    """Return the derived runs of a raw run, oldest first; empty when there is none.

    Args:
        catalog: from `open_catalog`, or its `processed`.
        raw_uid: full uid of the raw run.
    """
    runs = runs_of(catalog, PROCESSED)
    found = runs.search(Key("original_run_uid") == raw_uid).values()
    return sorted(found, key=lambda run: run.metadata["start"]["time"])


def raw_of(catalog: Container, derived_uid: str) -> Any:
    """Return the raw run that a derived one was made from.

    Args:
        catalog: with both `raw` and `processed`.
        derived_uid: full uid of the derived run.

    Raises:
        StorageError: the derived run is not there or not derived, or its raw run is not in `raw`.
    """
    processed = runs_of(catalog, PROCESSED)
    try:
        start = processed[derived_uid].metadata["start"]
        raw_uid = start["original_run_uid"]
    except KeyError as error:
        raise StorageError(
            f"no derived run {derived_uid!r} in {processed.uri}; is that the raw run's uid?"
        ) from error
    raw = runs_of(catalog, RAW)
    try:
        return raw[raw_uid]
    except KeyError as error:
        raise StorageError(
            f"raw run {raw_uid!r} of {derived_uid!r} is not in {raw.uri}; was it stored?"
        ) from error


def density_dataset(run: Any) -> xarray.Dataset:
    """Read the stream `density` of a derived run with its axes as coordinates and units as attributes.

    Args:
        run: as returned by `reconstructions_of`.

    Returns:
        Dimension `time` and one a density axis. `units` in the attributes of every variable and coordinate.

    Raises:
        StorageError: the run has no stream `density` (no frame arrived).
    """
    return _dataset(run, "density", "no frame arrived")


def object_dataset(run: Any) -> xarray.Dataset:
    """Read the stream `object` of a derived run: states of the stitched object, the last one the whole.

    Args:
        run: as returned by `reconstructions_of`.

    Returns:
        Dimensions `time`, `part` (phase, absorption), `y` and `x`, with units as in `density_dataset`.

    Raises:
        StorageError: the run has no stream `object`: no frame had a place, or none was reconstructed.
    """
    return _dataset(run, "object", "its frames are no patches of one, or none was reconstructed")


def _dataset(run: Any, name: str, why_not: str) -> xarray.Dataset:
    try:
        stream = run[name]
    except KeyError as error:
        raise StorageError(f"run {run.metadata['start']['uid']} has no stream {name!r}; {why_not}") from error
    dataset = _read(stream)
    if not dataset.sizes.get("time"):
        raise StorageError(
            f"stream {name!r} of run {run.metadata['start']['uid']} is empty: its writer ended before a frame"
        )
    for name, key in stream.metadata["data_keys"].items():
        if name not in dataset:
            continue
        if key["dtype"] == "number":
            dataset[name] = dataset[name].astype(key["dtype_numpy"])
        if key.get("units"):
            dataset[name].attrs["units"] = key["units"]
    configuration = stream.metadata["configuration"][DEVICE]
    for name, key in configuration["data_keys"].items():
        if key["dtype"] == "array" and name in dataset.dims:
            coordinate = xarray.DataArray(
                configuration["data"][name], dims=(name,), attrs={"units": key["units"]}
            )
            dataset = dataset.assign_coords({name: coordinate})
    dataset.attrs["quantity"] = configuration["data"]["quantity"]
    return dataset


def _read(stream: Any) -> xarray.Dataset:
    """Read a stream; where a full disk ended its arrays before its events, their last rows are NaN."""
    keys = stream.metadata["data_keys"]
    arrays = [name for name, key in keys.items() if "external" in key]
    try:
        dataset = stream.read()
    except ValueError:
        dataset = stream.read(variables=["time", *sorted(set(keys) - set(arrays))])
    for name in set(arrays) - set(dataset) if "time" in dataset.sizes else ():
        whole = np.full((dataset.sizes["time"], *keys[name]["shape"]), np.nan, keys[name]["dtype_numpy"])
        if name in stream:
            rows = np.asarray(stream[name].read())
            whole[: len(rows)] = rows[: len(whole)]
        dataset[name] = (("time", *keys[name]["dims"]), whole)
    return dataset
