"""Where derived runs go: arrays into files, documents into a catalog."""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.core.secrets import redacted
from nfphasing_bluesky.documents.sinks import ArrayStore, DocumentSink
from nfphasing_bluesky.storage.hdf5 import DerivedFiles, has_room

if TYPE_CHECKING:
    from tiled.client.container import Container

    from nfphasing_bluesky.storage.sink import CatalogSink

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Outputs:
    """Sinks that are open, and what must be closed after them.

    Args:
        arrays: takes the arrays.
        sinks: take the documents.
    """

    arrays: ArrayStore
    sinks: Sequence[DocumentSink] = ()
    catalog_sink: "CatalogSink | None" = None
    owned_catalog: "Container | None" = None
    scratch: Path | None = None
    files: Path | None = None

    def has_room(self) -> bool:
        """Whether the folder of the arrays takes another file; True where there is none."""
        return self.files is None or has_room(self.files)

    @property
    def problem(self) -> str:
        """What last went wrong with the catalog; empty when nothing did."""
        problems = self.catalog_sink.problems if self.catalog_sink else ()
        return problems[-1] if problems else ""

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until everything taken is stored or in the backup; False after the timeout."""
        return self.catalog_sink is None or self.catalog_sink.flush(timeout_s)

    def close(self, timeout_s: float = 60.0) -> None:
        """Finish writing, for as long as this; close the catalog when it was opened here."""
        if self.catalog_sink is not None and not self.catalog_sink.close(timeout_s):
            logger.error("the catalog did not take everything in time; the backup folder has it")
        if self.owned_catalog is not None:
            from nfphasing_bluesky.storage.catalogs import close_catalog

            close_catalog(self.owned_catalog)
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def open_outputs(
    catalog: "str | Path | Container | None" = None, files: Path | None = None, backup: Path | None = None
) -> Outputs:
    """Open what derived runs are written to, and store what an earlier process left in the backup folder.

    Args:
        catalog: a folder (embedded catalog), URI, profile or client; None keeps documents nowhere.
        files: folder of the arrays, which the catalog's server must be able to read; by default a folder
            inside an embedded catalog, and a scratch folder without a catalog.
        backup: folder for documents until the catalog has them; by default beside `files`.

    Raises:
        StorageError: the catalog cannot be opened, or is a server and `files` is not given.
    """
    if catalog is None:
        scratch = Path(tempfile.mkdtemp(prefix="nfphasing-arrays-")) if files is None else None
        return Outputs(DerivedFiles(files or scratch or Path()), scratch=scratch)
    from nfphasing_bluesky.storage.catalogs import open_catalog
    from nfphasing_bluesky.storage.sink import CatalogSink

    folder = catalog_folder(catalog)
    if files is None and folder is None:
        raise StorageError(
            f"catalog {redacted(str(catalog))!r} is not a folder; "
            "pass files=, a folder that its server may read"
        )
    files = files or Path(folder or "") / "derived"
    backup = backup or files.parent / "backup"
    owned = open_catalog(catalog, readable=[files]) if isinstance(catalog, (str, Path)) else None
    sink = CatalogSink(owned if isinstance(catalog, (str, Path)) else catalog, backup)
    sink.recover()
    return Outputs(DerivedFiles(files, fallback=backup), [sink], sink, owned, files=files)


def catalog_folder(catalog: "str | Path | Container") -> Path | None:
    """Return the folder of an embedded catalog, as `open_catalog` understands the word; None for others."""
    if not isinstance(catalog, (str, Path)):
        return None
    text = str(catalog)
    if text.startswith(("http://", "https://")):
        return None
    if isinstance(catalog, str) and "/" not in text:
        from tiled.profiles import list_profiles

        if text in list_profiles():
            return None
    return Path(catalog).expanduser().resolve()
