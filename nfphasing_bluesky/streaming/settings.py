"""Settings of a worker process. They travel to a child as JSON."""

import json
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from nfphasing_bluesky.core import ReconstructionSettings, Settings, SettingsError, StreamSettings
from nfphasing_bluesky.streaming.endpoints import CONTROL, DOCUMENTS, RESULTS, check_local


class WorkerSettings(Settings):
    """What `nfphasing serve` runs with.

    Args:
        model: name or folder of the model; None waits for `load_model`.
        device: torch device, or `auto`.
        documents: where the worker takes documents pushed to it (0MQ PULL, bound).
        proxy: output address of a bluesky 0MQ proxy to subscribe to as well; its publishers must use
            `serializer=nfphasing_bluesky.streaming.wire.pack`.
        results: where it publishes derived documents, frame results and heartbeats (PUB, bound).
        control: where it answers (REP, bound).
        replies: where a parent takes every answer without loss (PUSH, connected); None without a parent.
        catalog: folder, tiled URI or profile that derived runs are written to; None writes none.
        files: folder of the arrays; needed when the catalog is a server, which must be able to read it.
        backup: folder that keeps documents until the catalog has them.
        autostart: reconstruct from the beginning; False waits for `start`.
        parent_pid: the worker ends when its parent is no longer this process.
    """

    model: str | None = None
    device: str = "auto"
    documents: str = DOCUMENTS
    proxy: str | None = None
    results: str = RESULTS
    control: str = CONTROL
    replies: str | None = None
    catalog: str | None = None
    files: Path | None = None
    backup: Path | None = None
    reconstruction: ReconstructionSettings = ReconstructionSettings()
    stream: StreamSettings = StreamSettings()
    autostart: bool = True
    heartbeat_s: Annotated[float, Field(gt=0, le=10)] = 0.25
    parent_pid: int | None = None

    @field_validator("documents", "proxy", "results", "control", "replies")
    @classmethod
    def _local(cls, endpoint: str | None) -> str | None:
        return endpoint if endpoint is None else check_local(endpoint)


def read_settings(source: str) -> WorkerSettings:
    """Settings from a TOML or JSON file, or from a JSON object given as text.

    Raises:
        SettingsError: the file is missing or not what its name says, or a key or value is refused.
    """
    try:
        if source.lstrip().startswith("{"):
            values = json.loads(source)
        elif source.endswith(".toml"):
            values = tomllib.loads(Path(source).read_text())
        else:
            values = json.loads(Path(source).read_text())
        return WorkerSettings(**values)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"worker settings {source[:60]!r}: {error}; see `nfphasing serve --help`"
        ) from None
