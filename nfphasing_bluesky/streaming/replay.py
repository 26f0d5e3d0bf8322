"""What `nfphasing replay RUN --missing` does: open catalog and model, and make up for a run's frames."""

from typing import TYPE_CHECKING

from nfphasing_bluesky.core import ReconstructionSettings, SettingsError, StorageError
from nfphasing_bluesky.core.secrets import redacted
from nfphasing_bluesky.storage.successors import chain_of
from nfphasing_bluesky.streaming.makeup import MadeUp, make_up
from nfphasing_bluesky.streaming.outputs import open_outputs
from nfphasing_bluesky.streaming.processor import ReconstructorLike
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.streaming.worker import Loader, load_reconstructor

if TYPE_CHECKING:
    from tiled.client.container import Container

_STORING_S = 600.0


def replay_missing(
    uid: str,
    settings: WorkerSettings,
    catalog: str | None = None,
    model: str | None = None,
    load: Loader = load_reconstructor,
) -> MadeUp:
    """Make up for the frames of a run that were lost, dropped or failed; see `make_up`.

    What a killed worker left in the backup folder is stored first.

    Args:
        uid: of the raw run, or of a derived run of it.
        settings: of the worker that reconstructed live.
        catalog: over that of the settings.
        model: name or folder; None for that of the derived run, or else of the settings.
        load: makes a reconstructor of a model's name.

    Raises:
        SettingsError: no catalog, or no model, is named.
        StorageError, ModelError: as for `make_up`.
    """
    where = catalog or settings.catalog
    if where is None:
        raise SettingsError("no catalog is named; pass --catalog, or --settings with a `catalog` in it")
    outputs = open_outputs(where, settings.files, settings.backup)
    try:
        client = outputs.owned_catalog
        if client is None or not outputs.flush(_STORING_S):
            raise StorageError(
                f"catalog {redacted(where)!r} does not take what is in the backup folder; is it up?"
            )

        def get(wanted: ReconstructionSettings | None) -> ReconstructorLike:
            name = model or settings.model or _model_of(client, uid)
            return load(name, settings.device, wanted or settings.reconstruction)

        return make_up(client, uid, outputs, get, settings.stream)
    finally:
        outputs.close()


def _model_of(client: "Container", uid: str) -> str:
    made = chain_of(client, uid).made
    if not made:
        raise SettingsError(f"no derived run of {uid} names a model; pass --model")
    return str(made["model"])
