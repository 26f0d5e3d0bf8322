"""What every NeXus file written here is made of."""

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from nfphasing_bluesky.core import ModelInfo, ReconstructionSettings, StorageError


def write_whole(path: str | Path, write: Callable[[h5py.File], None]) -> Path:
    """Write a file whole or not at all: a reader never sees half of it. Its folder is created.

    Raises:
        StorageError: disk full, no permission and the like; an earlier file of that name is then untouched.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            write(file)
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error}); check space and permissions, or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def new_group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    """Create a group of a NeXus class."""
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def new_dataset(group: h5py.Group, name: str, values: object, units: str) -> h5py.Dataset:
    """Create a dataset with its units."""
    dataset = group.create_dataset(name, data=values)
    dataset.attrs["units"] = units
    return dataset


def say_plot(group: h5py.Group, signal: str, axes: tuple[str, ...]) -> None:
    """Say which dataset is drawn over which axes."""
    group.attrs["signal"] = signal
    if axes:
        group.attrs["axes"] = np.array(axes, dtype=h5py.string_dtype())
    for dimension, axis in enumerate(axes):
        group.attrs[f"{axis}_indices"] = dimension


def write_process(
    entry: h5py.Group, latency_s: float, info: ModelInfo, settings: ReconstructionSettings
) -> None:
    """Write what made this, so that it can be made again."""
    group = new_group(entry, "process", "NXprocess")
    group["program"] = "nfphasing-bluesky"
    group["version"] = version("nfphasing-bluesky")
    group["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    for name in ("name", "modality", "version", "sha256"):
        group["model" if name == "name" else f"model_{name}"] = getattr(info, name)
    group["settings"] = settings.model_dump_json()
    group["settings_sha256"] = settings.digest()
    group["seed"] = settings.seed
    new_dataset(group, "latency", latency_s, "s")
