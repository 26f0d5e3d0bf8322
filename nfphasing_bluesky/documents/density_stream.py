"""The stream `density` of a derived run: events for the scalars, stream datums for the arrays."""

import time
from collections.abc import Callable
from typing import Any

import event_model
import numpy as np

from nfphasing_bluesky.core import DensityInfo, Failure, ModelInfo, Posterior
from nfphasing_bluesky.documents.array_stream import ArrayStream
from nfphasing_bluesky.documents.columns import (
    DEVICE,
    NOT_STORED,
    array_keys,
    array_specs,
    misfit,
    row,
    scalar_keys,
    stacked,
)
from nfphasing_bluesky.documents.sinks import ArrayStore, FileSpec

Results = list[Posterior | Failure]


class DensityStream:
    """Composes the descriptor, then events, stream resources and stream datums block by block.

    Args:
        run: composers of the derived run; its start document has gone out.
        info: the model.
        density: axes and units that every posterior of the run must have.
        store: opens the array file.
        emit: takes documents.
        n_samples: draws to keep, 0 for none.
    """

    def __init__(
        self,
        run: event_model.ComposeRunBundle,
        info: ModelInfo,
        density: DensityInfo,
        store: ArrayStore,
        emit: Callable[[str, Any], None],
        n_samples: int = 0,
    ) -> None:
        self._run, self._info, self._density = run, info, density
        self._emit, self._n_samples = emit, n_samples
        self._source = f"nfphasing:{info.name}"
        start = run.start_doc
        axes = {axis.name: (axis.values, axis.units) for axis in density.axes}
        metadata = {**start["nfphasing"], "raw_uid": start["raw_uid"], "quantity": density.quantity}  # type: ignore[typeddict-item]
        self._file = FileSpec(start["uid"], array_specs(density, n_samples, info.answers), axes, metadata)
        self._stream = self._describe()
        self._arrays = ArrayStream(run, self._file, store, emit, self._stream.descriptor_doc)

    def add(self, results: Results) -> Results:
        """Write one block; returns it with a Failure in place of what could not be kept."""
        results = [self._fitting(result) for result in results]
        results = self._write_arrays(results)
        self._write_events(results)
        return results

    def close(self) -> None:
        """Fill up rows that are still owed and finish the file."""
        self._arrays.close()

    def _describe(self) -> event_model.ComposeDescriptorBundle:
        keys = array_keys(self._file.arrays, self._source) | scalar_keys(self._info, self._source)
        stream = self._run.compose_descriptor(
            name="density",
            data_keys=keys,
            object_keys={DEVICE: list(keys)},
            configuration={DEVICE: self._configuration()},
            hints={DEVICE: {"fields": [p.name for p in self._info.parameters]}},
        )
        self._emit("descriptor", stream.descriptor_doc)
        return stream

    def _configuration(self) -> dict[str, Any]:
        """Axes of the density, values and units, and what the density is."""
        axes = self._density.axes
        data: dict[str, Any] = {axis.name: np.asarray(axis.values).tolist() for axis in axes}
        common = {"source": self._source, "dtype": "array", "dtype_numpy": "<f8"}
        keys: dict[str, Any] = {
            axis.name: {**common, "shape": [axis.values.size], "units": axis.units} for axis in axes
        }
        data["quantity"] = self._density.quantity
        keys["quantity"] = {"source": self._source, "dtype": "string", "shape": []}
        return {"data": data, "timestamps": dict.fromkeys(data, time.time()), "data_keys": keys}

    def _fitting(self, result: Posterior | Failure) -> Posterior | Failure:
        if isinstance(result, Failure):
            return result
        why = misfit(result, self._density, self._n_samples)
        return Failure(result.origin, why) if why else result

    def _write_arrays(self, results: Results) -> Results:
        """Write one block; what cannot be kept becomes a Failure."""
        problem = self._arrays.write(stacked(results, self._file.arrays), len(results))
        if not problem:
            return results
        why = f"{NOT_STORED}: {problem}"
        return [Failure(r.origin, why) if isinstance(r, Posterior) else r for r in results]

    def _write_events(self, results: Results) -> None:
        """Write the block's scalars as one event page; its rows have been counted."""
        rows = [row(result, self._info) for result in results]
        now, count = time.time(), len(rows)
        page = self._stream.compose_event_page(
            data={key: [values[key] for values in rows] for key in rows[0]},
            timestamps={key: [now] * count for key in rows[0]},
            seq_num=list(range(self._arrays.rows - count + 1, self._arrays.rows + 1)),
            time=[now] * count,
            filled={},
            # jsonschema looks at every number of a page: a third of a worker's time; the tests validate
            validate=False,
        )
        self._emit("event_page", page)
