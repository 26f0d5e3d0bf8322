"""Settings of a worker process. They travel to a child as JSON."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from nfphasing_bluesky.core import (
    ReconstructionSettings,
    Settings,
    SettingsError,
    StreamSettings,
    TransportError,
)
from nfphasing_bluesky.core.secrets import redacted
from nfphasing_bluesky.streaming.curve import CurveSettings
from nfphasing_bluesky.streaming.endpoints import CONTROL, DOCUMENTS, RESULTS, check_endpoint, check_local


class SecretError(TransportError):
    """Settings with a secret in them; no ValueError, or pydantic would show the value."""


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
        catch_up_days: raw runs of so many days that `catalog` has, and frames of them that were lost or
            dropped, are reconstructed while nothing comes in live; None leaves them to `nfphasing replay`.
            Let one worker of a catalog do it.
        catch_up_every_s: time between two looks into the catalog.
        curve: keys; needed for endpoints that other machines can reach, and used for these alone.
        metrics: HOST:PORT of this machine for Prometheus to scrape; None serves none.
        log: `json` for log lines that programs read.
        autostart: reconstruct from the beginning; False waits for `start`.
        drain_s: how long it goes on with what has arrived when it is told to end.
        parent_pid: the worker ends when its parent is no longer this process.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

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
    catch_up_days: Annotated[float, Field(gt=0)] | None = None
    catch_up_every_s: Annotated[float, Field(gt=0)] = 60.0
    curve: CurveSettings | None = None
    metrics: str | None = None
    log: Literal["text", "json"] = "text"
    autostart: bool = True
    heartbeat_s: Annotated[float, Field(gt=0, le=10)] = 0.25
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    parent_pid: int | None = None

    @field_validator("replies")
    @classmethod
    def _local(cls, endpoint: str | None) -> str | None:
        return endpoint if endpoint is None else check_local(endpoint)

    @field_validator("catalog")
    @classmethod
    def _no_secret(cls, catalog: str | None) -> str | None:
        if catalog is not None and redacted(catalog) != catalog:
            raise SecretError(
                f"catalog {redacted(catalog)!r} holds a secret, expected none in settings, which are shown; "
                "put the key into the environment variable TILED_API_KEY"
            )
        return catalog

    @field_validator("metrics")
    @classmethod
    def _here(cls, address: str | None) -> str | None:
        if address is not None:
            check_local(f"tcp://{address}")
        return address

    @model_validator(mode="after")
    def _private(self) -> "WorkerSettings":
        for endpoint in (self.documents, self.results, self.control):
            check_endpoint(endpoint, self.curve is not None)
        if self.proxy is not None:
            check_endpoint(self.proxy, self.curve is not None and self.curve.proxy is not None)
        if self.catch_up_days is not None and self.catalog is None:
            raise ValueError("catch_up_days without catalog, expected the catalog that has the raw runs")
        return self


def read_settings(source: str) -> WorkerSettings:
    """Settings from a TOML or JSON file, or from a JSON object given as text.

    Raises:
        SettingsError: the file is missing or not what its name says, or a key or value is refused. It names
            the key and what was expected, and never the value, which may be a secret at a wrong place.
    """
    is_text = source.lstrip().startswith("{")
    try:
        if is_text:
            values = json.loads(source)
        elif source.endswith(".toml"):
            values = tomllib.loads(Path(source).read_text())
        else:
            values = json.loads(Path(source).read_text())
        return WorkerSettings(**values)
    except ValidationError as error:
        problem = _refused(error)
    except (OSError, ValueError, TypeError) as error:
        problem = str(error)
    where = "{...}" if is_text else redacted(source)
    raise SettingsError(f"worker settings {where!r}: {redacted(problem)}; see `nfphasing serve --help`")


def _refused(error: ValidationError) -> str:
    """Say which keys are refused and why, without their values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'all together'}: {_why(one)}" for one in found)


def _why(one: ErrorDetails) -> str:
    return "there is no such key" if one["type"] == "extra_forbidden" else one["msg"]
