"""Catalogs: embedded in this process (SQLite and files, no server), or any tiled server."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRunV3
from tiled.client import from_context, from_profile, from_uri
from tiled.client.container import Container
from tiled.client.context import Context
from tiled.profiles import list_profiles
from tiled.structures.core import Spec
from tiled.utils import OneShotCachedMap

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.core.secrets import redacted
from nfphasing_bluesky.storage.tables import make_tables

RAW, PROCESSED = "raw", "processed"
DATABASE = "catalog.db"
RUNS = Spec("CatalogOfBlueskyRuns", "3.0")
MEDIA_TYPES = {
    "BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"},
}


def embedded_config(path: Path, readable: Sequence[Path | str] = ()) -> dict[str, Any]:
    """Return the tiled configuration of a catalog in a folder.

    Tables are SQLite too: DuckDB lets only one process open a file, and here the acquisition and the
    worker share the catalog. No API key is set: tiled keeps one per process, and a second catalog with
    a key of its own would lock the first one's clients out.

    Args:
        path: folder of the catalog; may be read from any of its processes.
        readable: further folders whose files runs may refer to.
    """
    storage = [f"file://localhost{quote(str(path / 'files'))}", f"sqlite:///{path / 'tables.db'}"]
    folders = [path, *(Path(folder).resolve() for folder in readable)]
    return {
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": f"sqlite:///{path / DATABASE}",
                    "writable_storage": storage,
                    "readable_storage": [f"file://localhost{quote(str(folder))}" for folder in folders],
                    # else tiled starts a process for it at every opening, needed or not
                    "init_if_not_exists": not (path / DATABASE).exists(),
                },
            }
        ],
        "media_types": MEDIA_TYPES,
    }


def embedded_catalog(path: Path | str, readable: Sequence[Path | str] = (), make: bool = True) -> Container:
    """Open, or create, a catalog in a folder; no server runs and nothing listens.

    Args:
        path: folder of the catalog.
        readable: further folders whose files runs may refer to (where detectors write).
        make: create what is missing; False opens a catalog that is there, as it is.

    Returns:
        A tiled client with the containers `raw` and `processed`. Close it with `close_catalog`.

    Raises:
        StorageError: it cannot be written, holds something else, or no catalog where `make` is False.
    """
    folder = Path(path).expanduser().resolve()
    if not make and not (folder / DATABASE).exists():
        raise StorageError(f"no catalog in {folder}: {DATABASE} is not there; name the folder of the runs")
    try:
        if make:
            (folder / "files").mkdir(parents=True, exist_ok=True)
            make_tables(folder / DATABASE)
        client = _in_process(embedded_config(folder, readable))
        return prepare(client) if make else client
    except Exception as error:  # tiled, SQLAlchemy and the file system each have their own
        raise StorageError(
            f"catalog in {folder} cannot be opened: {error}; check the folder and its disk"
        ) from error


def open_catalog(spec: str | Path, readable: Sequence[Path | str] = (), make: bool = True) -> Container:
    """Open a catalog by URI, by the name of a tiled profile, or by folder.

    The API key of a server is read from TILED_API_KEY by tiled itself.

    Args:
        spec: `http(s)://...`, a profile's name, or a folder; `./name` is always a folder.
        readable: for a folder, further folders whose files runs may refer to.
        make: create what is missing in it; False opens it as it is.

    Raises:
        StorageError: it cannot be reached or opened.
    """
    text = str(spec)
    if text.startswith(("http://", "https://")):
        return _connect(text, lambda: from_uri(text), make)
    if isinstance(spec, str) and "/" not in text and text in list_profiles():
        return _connect(f"profile {text!r}", lambda: _from_profile(text), make)
    return embedded_catalog(spec, readable, make)


def close_catalog(client: Container) -> None:
    """Close a client, and the catalog with it when it is embedded."""
    with suppress(Exception):
        client.context.close()


def prepare(client: Container) -> Container:
    """Create `raw` and `processed` where they are missing; returns the client.

    Two processes may do this at once: who comes second finds them made.
    """
    for key in (RAW, PROCESSED):
        if key in client:
            continue
        try:
            client.create_container(key, specs=[RUNS])
        except Exception:
            if key not in client:
                raise
    return client


def runs_of(client: Container, key: str) -> Container:
    """Return the sub-catalog `raw` or `processed`, or the catalog itself when it is one of runs.

    Its runs are clients of version 3, whatever else looks at the catalog.

    Raises:
        StorageError: it has no such sub-catalog.
    """
    if any(spec.name == RUNS.name for spec in client.specs):
        return _with_clients_of_its_own(client)
    try:
        return _with_clients_of_its_own(client[key])
    except KeyError as error:
        raise StorageError(
            f"catalog {client.uri} has no container {key!r}; "
            "make it with nfphasing_bluesky.storage.catalogs.prepare"
        ) from error


def _with_clients_of_its_own(runs: Container) -> Container:
    """Return the same catalog with a table of client classes of its own.

    tiled keeps one table for the whole process, and databroker's `Broker` (or `.v2`) changes it: from then on
    every run that anybody opens is a client of version 2, which reads in another way.
    """
    shared = runs.structure_clients
    own = OneShotCachedMap({name: partial(shared.__getitem__, name) for name in shared})
    own.set("BlueskyRun", lambda: BlueskyRunV3)
    return runs.new_variation(structure_clients=own)


def _in_process(config: Mapping[str, Any]) -> Container:
    from tiled.server.app import build_app_from_config

    with warnings.catch_warnings():
        # starlette's test client, which tiled uses in process, announces a successor of httpx.
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        context = Context.from_app(build_app_from_config(config))
    return from_context(context)


def _from_profile(name: str) -> Container:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        return from_profile(name)


def _connect(what: str, connect: Callable[[], Container], make: bool) -> Container:
    try:
        return prepare(connect()) if make else connect()
    except Exception as error:  # httpx, tiled and configuration errors have no common root
        problem = redacted(f"catalog {what} cannot be opened: {error}")
        raise StorageError(f"{problem}; is the server up, and TILED_API_KEY set?") from None
