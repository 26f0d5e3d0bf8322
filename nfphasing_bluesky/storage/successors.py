"""The derived runs that together reconstruct one raw run: the live one, and those that made up for it."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray
from tiled.client.container import Container
from tiled.queries import Key

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.documents.columns import NOT_STORED
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.storage.catalogs import PROCESSED, RAW, runs_of
from nfphasing_bluesky.storage.queries import density_dataset, reconstructions_of


@dataclass(frozen=True, eq=False)
class Chain:
    """Derived runs of one raw run by the same model with the same settings, oldest first.

    Args:
        raw_uid: of the raw run.
        runs: as the catalog returns them; empty when there is none yet.
        reconstructed: sequence numbers that one of them holds a reconstruction of.
        given_up: those that failed when they were made up for; trying again would give the same.
    """

    raw_uid: str
    runs: tuple[Any, ...] = ()
    reconstructed: frozenset[int] = frozenset()
    given_up: frozenset[int] = frozenset()
    made: Mapping[str, Any] = field(default_factory=dict)
    """What the start documents say under `nfphasing`; empty without runs."""

    @property
    def uid(self) -> str:
        """Of the first derived run; empty without one."""
        return str(self.runs[0].metadata["start"]["uid"]) if self.runs else ""

    @property
    def stitches(self) -> bool:
        """Whether the frames are patches of one object, which only all of them together show."""
        return any("object" in run for run in self.runs)


def chain_of(catalog: Container, uid: str) -> Chain:
    """Find what was derived so far.

    Args:
        catalog: with `raw` and `processed`.
        uid: of the raw run, or of a derived run of it; of several chains a raw run's newest is taken.

    Raises:
        StorageError: there is no such run, or the newest derived run is not closed yet.
    """
    derived = _get(runs_of(catalog, PROCESSED), uid)
    if derived is None:
        raw = _get(runs_of(catalog, RAW), uid)
        if raw is None:
            raise StorageError(
                f"no run {uid!r} in {catalog.uri}; expected the uid of a raw run, or of a derived one"
            )
        raw_uid = str(raw.metadata["start"]["uid"])
    else:
        raw_uid = str(derived.metadata["start"]["original_run_uid"])
    every = reconstructions_of(catalog, raw_uid)
    if not every:
        return Chain(raw_uid)
    kind = _kind(derived or every[-1])
    runs = [run for run in every if _kind(run) == kind]
    for run in runs:
        if not run.metadata.get("stop"):
            raise StorageError(
                f"derived run {run.metadata['start']['uid']} has no stop document: is it still written? "
                "`nfphasing replay BACKUP_FOLDER` closes what a killed worker left"
            )
    reconstructed, given_up = set(), set()
    for run in runs:
        done, failed = _frames(run)
        reconstructed |= done
        given_up |= failed if _made(run).get("successor_of") else set()
    return Chain(
        raw_uid, tuple(runs), frozenset(reconstructed), frozenset(given_up - reconstructed), _made(runs[0])
    )


def raw_documents(catalog: Container, raw_uid: str) -> list[tuple[str, Document]]:
    """Read the documents of a raw run back, in an order that can be processed.

    Raises:
        StorageError: the run is not in `raw`, or the catalog does not give its documents.
    """
    run = _get(runs_of(catalog, RAW), raw_uid)
    if run is None:
        raise StorageError(f"raw run {raw_uid!r} is not in {catalog.uri}; was it stored?")
    try:
        return [(name, doc) for name, doc in run.documents() if doc]
    except Exception as error:  # tiled, httpx and the file system each have their own
        raise StorageError(
            f"documents of run {raw_uid!r} cannot be read: {error}; the catalog needs the exporter "
            "application/json-seq under media_types, as in profiles/tiled/"
        ) from error


def raw_runs_between(catalog: Container, since: float, until: float) -> list[str]:
    """Return the uids of the raw runs that began and ended between two times, s since the epoch.

    The oldest is first.
    """
    found = runs_of(catalog, RAW).search(Key("start.time") >= since)
    metadata = [run.metadata for run in found.values()]
    starts = [one["start"] for one in metadata if one.get("stop") and one["stop"]["time"] <= until]
    return [str(start["uid"]) for start in sorted(starts, key=lambda start: start["time"])]


def whole_density_dataset(catalog: Container, uid: str) -> xarray.Dataset:
    """Read the stream `density` of a raw run over its whole chain of derived runs, by `raw_seq_num`.

    Every frame is there once; where one run failed and a later one did not, it is the later one's.

    Args:
        catalog: with `raw` and `processed`.
        uid: of the raw run, or of a derived run of it.

    Raises:
        StorageError: as for `chain_of`, or no run of the chain has a frame.
    """
    chain = chain_of(catalog, uid)
    parts = []
    for run in chain.runs:
        with suppress(StorageError):  # it has no frame; others have
            parts.append(density_dataset(run))
    if not parts:
        raise StorageError(f"run {uid!r} has no reconstructed frame in {catalog.uri}")
    together = xarray.concat(parts, dim="time", combine_attrs="override") if len(parts) > 1 else parts[0]
    numbers = np.asarray(together["raw_seq_num"]).astype(int)
    failed = np.isnan(np.asarray(together["latency_s"], float))
    best: dict[int, int] = {}
    for row in np.lexsort((np.arange(len(numbers)), ~failed, numbers)):
        best[int(numbers[row])] = int(row)
    return together.isel(time=[best[number] for number in sorted(best)])


def _get(runs: Container, uid: str) -> Any:
    try:
        return runs[uid]
    except (KeyError, ValueError):
        return None


def _made(run: Any) -> Mapping[str, Any]:
    return run.metadata["start"]["nfphasing"]


def _kind(run: Any) -> tuple[Any, ...]:
    made = _made(run)
    return tuple(made[key] for key in ("model_sha256", "settings_sha256", "stream", "data_key"))


def _frames(run: Any) -> tuple[set[int], set[int]]:
    """Sequence numbers that were reconstructed, and that failed for another reason than a full disk."""
    if "density" not in run:
        return set(), set()
    table = run["density"].read(variables=["raw_seq_num", "latency_s", "reason"])
    if "raw_seq_num" not in table:
        return set(), set()
    numbers, latencies = np.asarray(table["raw_seq_num"]), np.asarray(table["latency_s"], float)
    done, failed = set(), set()
    for number, latency, reason in zip(numbers, latencies, np.asarray(table["reason"]), strict=True):
        if not math.isnan(latency):
            done.add(int(number))
        elif not str(reason).startswith(NOT_STORED):
            failed.add(int(number))
    return done, failed - done
