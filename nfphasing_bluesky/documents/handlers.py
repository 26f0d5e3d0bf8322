"""Frames behind Resource and Datum documents, through event-model's Filler and the installed handlers."""

import contextlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import event_model
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import DocumentError
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.documents.templates import check_widths

RETRIES_S = (0.05, 0.1, 0.2, 0.5)


class AnnouncedHandler:
    """A handler that a package announces, imported when the first resource asks for it.

    The usual ones bring pandas, dask and numba: two seconds of every worker's start.
    """

    def __init__(self, entry: EntryPoint) -> None:
        self._entry = entry

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """Open a resource; what is wrong with the package shows here, and takes no other handler away."""
        return self._entry.load()(*arguments, **more)


def discover_handlers() -> dict[str, AnnouncedHandler]:
    """Return the handlers that installed packages announce under `databroker.handlers`, by spec."""
    return {entry.name: AnnouncedHandler(entry) for entry in entry_points(group="databroker.handlers")}


class ResourceAssets:
    """The Resource and Datum documents of one run, and the handlers that read what they point to.

    Args:
        handlers: spec -> handler class.
        root_map: root in the documents -> root on this machine.
    """

    def __init__(self, handlers: Mapping[str, Any], root_map: Mapping[str, str] | None = None) -> None:
        self._open: dict[Any, Any] = {}
        self._filler = event_model.Filler(
            dict(handlers),
            handler_cache=self._open,
            root_map=dict(root_map or {}),
            inplace=False,
            retry_intervals=list(RETRIES_S),
        )
        self._datum: dict[str, str] = {}
        self._specs: dict[str, str] = {}

    def descriptor(self, doc: Document) -> None:
        """Remember a descriptor."""
        self._filler("descriptor", dict(doc))

    def resource(self, doc: Document) -> None:
        """Remember a resource.

        Raises:
            DocumentError: its template would make a name of hundreds of characters.
        """
        template = (doc.get("resource_kwargs") or {}).get("template")
        if isinstance(template, str):
            check_widths(template)
        self._specs[doc["uid"]] = doc["spec"]
        self._filler("resource", dict(doc))

    def datum(self, doc: Document) -> None:
        """Remember a datum."""
        self._datum[doc["datum_id"]] = doc["resource"]
        self._filler("datum", dict(doc))

    def knows(self, datum_id: object) -> bool:
        """Return True when the datum, and so its resource, has arrived."""
        return datum_id in self._datum

    def read(self, descriptor_uid: str, data_key: str, datum_id: str) -> NDArray[Any]:
        """Return the array that a datum points to.

        Raises:
            DocumentError: its handler is not installed, or the handler could not read it.
        """
        spec = self._specs.get(self._datum[datum_id], "unknown")
        event = {
            "descriptor": descriptor_uid,
            "uid": datum_id,
            "data": {data_key: datum_id},
            "filled": {data_key: False},
        }
        try:
            array = self._fill(event, data_key)
        except event_model.UndefinedAssetSpecification as error:
            raise DocumentError(
                f"{data_key}: no handler for asset spec {spec!r}; install the package that brings it "
                "(area-detector-handlers has the AD_ ones) or pass handlers={...}"
            ) from error
        except Exception as error:  # handlers are other people's code and raise anything
            self._filler.retry_intervals = []
            raise DocumentError(
                f"{data_key}: handler {spec!r} could not read {datum_id}: {_cause(error)}"
            ) from error
        self._filler.retry_intervals = list(RETRIES_S)
        return array

    def _fill(self, event: dict[str, Any], data_key: str) -> NDArray[Any]:
        """Fill one event, with a fresh handler if the cached one does not see what the file has got since."""
        cached = bool(self._open)
        try:
            return np.asarray(self._filler.fill_event(event, include={data_key})["data"][data_key])
        except event_model.UndefinedAssetSpecification:
            raise
        except Exception:  # handlers are other people's code and raise anything
            if not cached:
                raise
            self._forget_handlers()
            return np.asarray(self._filler.fill_event(event, include={data_key})["data"][data_key])

    def _forget_handlers(self) -> None:
        for handler in self._open.values():
            with contextlib.suppress(Exception):
                handler.close()
        self._open.clear()

    def close(self) -> None:
        """Drop handlers and the files they hold open."""
        self._forget_handlers()
        self._filler.close()


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
