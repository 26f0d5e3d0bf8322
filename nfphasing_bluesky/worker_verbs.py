"""`nfphasing` verbs about a worker, its Tango server and what it stored: serve, register, replay, ..."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nfphasing_bluesky import options
from nfphasing_bluesky.core import NFPhasingError
from nfphasing_bluesky.options import Json, finite, print_json
from nfphasing_bluesky.spoken import stderr

app = typer.Typer()


@app.command()
def serve(
    settings: Annotated[
        str, typer.Argument(help="TOML or JSON file of WorkerSettings, or a JSON object")
    ] = "{}",
    check: Annotated[bool, typer.Option("--check", help="validate the settings and exit")] = False,
) -> None:
    """Run the worker: documents in, derived documents and results out, until it is told to stop."""
    from nfphasing_bluesky.streaming.logs import write_text_lines
    from nfphasing_bluesky.streaming.serve import serve as run
    from nfphasing_bluesky.streaming.settings import read_settings

    made = read_settings(settings)
    if check:
        print_json(made.model_dump(mode="json"))
        return
    write_text_lines()
    run(made)


@app.command()
def register(
    device: Annotated[list[str], typer.Option(help="domain/family/member; repeat it for several")],
    server: Annotated[str, typer.Option(help="NfPhasing/INSTANCE, which runs as `NfPhasing INSTANCE`")],
    properties: Annotated[
        list[str] | None, typer.Option("--property", help="NAME=VALUE, as model_name=saxs1d-pr; repeat it")
    ] = None,
    tango_host: Annotated[str | None, typer.Option(help="HOST:PORT; TANGO_HOST by default")] = None,
) -> None:
    """Write a Tango server, its devices and their properties to the Tango database."""
    from nfphasing_bluesky.clients.registration import register as write

    values = options.properties(properties)
    for name in device:
        write(name, server, values, tango_host)
        stderr.print(f"{name} of {server} is registered", highlight=False)
    stderr.print(f"start it: NfPhasing {server.partition('/')[2]}", highlight=False)


@app.command()
def status(
    endpoint: Annotated[str, typer.Option(help="control socket of the worker")] = "tcp://127.0.0.1:5579",
    secret: Annotated[
        Path | None, typer.Option(help="our certificate, NAME.key_secret, for a worker elsewhere")
    ] = None,
    server: Annotated[Path | None, typer.Option(help="public key of that worker, worker.key")] = None,
    load: Annotated[str | None, typer.Option(help="model to switch to, for the runs that start next")] = None,
    as_json: Json = False,
) -> None:
    """Ask a running worker how it is, or to switch to another model."""
    from nfphasing_bluesky.streaming.client import ask, ask_with_keys
    from nfphasing_bluesky.streaming.curve import client_keys
    from nfphasing_bluesky.streaming.protocol import Verb

    if (secret is None) != (server is None):
        raise typer.BadParameter("--secret and --server go together")
    verb, asked = (Verb.HEALTH, {}) if load is None else (Verb.LOAD_MODEL, {"model": load})
    if secret is None or server is None:
        answer = ask(verb, endpoint, 5.0, **asked)
    else:
        answer = ask_with_keys(verb, endpoint, client_keys(secret, server), 5.0, **asked)
    found = {
        "state": str(answer.state),
        "reason": answer.reason,
        "model": answer.model.name if answer.model else None,
        **{name: getattr(answer.counts, name) for name in ("received", "reconstructed", "dropped", "failed")},
        **answer.statistics,
        "pid": answer.pid,
    }
    if as_json:
        print_json(finite(found))
        return
    for name, value in found.items():
        print(f"{name:18} {value:.4g}" if isinstance(value, float) else f"{name:18} {value}")


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(help="where the keys go; made for its owner alone")],
    client: Annotated[
        list[str] | None, typer.Option(help="name of somebody who may connect; repeat it")
    ] = None,
) -> None:
    """Make CURVE keys for a worker that other machines reach, and for its clients; keeps what is there."""
    from nfphasing_bluesky.streaming.curve import make_keys

    for path in make_keys(folder, tuple(client or ())):
        stderr.print(f"wrote {path}", highlight=False, soft_wrap=True)
    print(f'[curve]\nsecret = "{folder / "worker.key_secret"}"\nclients = "{folder / "clients"}"')


@app.command()
def replay(
    target: Annotated[
        str,
        typer.Argument(help="backup folder of derived documents; with --missing the uid of a run"),
    ],
    catalog: Annotated[str | None, typer.Option(help="folder, tiled URI or profile")] = None,
    missing: Annotated[
        bool,
        typer.Option("--missing", help="reconstruct what was lost, dropped or failed, from the raw catalog"),
    ] = False,
    settings: Annotated[
        str, typer.Option(help="with --missing: the worker's settings file, for geometry, mask and files")
    ] = "{}",
    model: Annotated[
        str | None, typer.Option(help="with --missing: folder of the model, where its name is not enough")
    ] = None,
    as_json: Json = False,
) -> None:
    """Store derived runs that a backup folder kept, or make up for the missing frames of a run."""
    if missing:
        from nfphasing_bluesky.streaming.replay import replay_missing
        from nfphasing_bluesky.streaming.settings import read_settings

        made = replay_missing(target, read_settings(settings), catalog, model)
        stderr.print(made.in_words(), highlight=False, soft_wrap=True)
        if as_json:
            print_json(finite(vars(made)))
        sys.exit(1 if made.failed else 0)
    if catalog is None:
        raise typer.BadParameter("needs --catalog, where to store what the backup folder holds")
    if not Path(target).is_dir():
        raise typer.BadParameter(f"{target!r} is no folder; for the uid of a run add --missing")
    _replay_folder(Path(target), catalog, as_json)


def _replay_folder(backup: Path, catalog: str, as_json: bool) -> None:
    from nfphasing_bluesky.storage.backup import replay_backup
    from nfphasing_bluesky.storage.catalogs import close_catalog, open_catalog

    client = open_catalog(catalog)
    try:
        done = replay_backup(backup, client)
    finally:
        close_catalog(client)
    for item in done:
        stderr.print(f"{item.path}: run {item.run_uid} {item.outcome}", highlight=False, soft_wrap=True)
    if not done:
        stderr.print(f"{backup} holds no backup files; nothing to store", highlight=False, soft_wrap=True)
    if as_json:
        print_json({"runs": [finite(vars(item)) for item in done]})
    sys.exit(1 if any(item.outcome.startswith("failed") for item in done) else 0)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="uid of a derived or a raw run, or its first characters")],
    catalog: Annotated[str, typer.Option(help="folder, tiled URI or profile")],
    output: Annotated[Path | None, typer.Option(help="HTML file; report-UID.html by default")] = None,
) -> None:
    """Write one HTML page of a run: what was measured, u with its band, trust, ledger, model card."""
    from nfphasing_bluesky.models import locate, read_card
    from nfphasing_bluesky.storage.catalogs import close_catalog, open_catalog
    from nfphasing_bluesky.views.report import write_report
    from nfphasing_bluesky.views.report_data import read_report

    client = open_catalog(catalog, make=False)
    try:
        found = read_report(client, run)
        try:
            card = read_card(locate(found.start["nfphasing"]["model"])).model_dump(mode="json")
        except NFPhasingError:
            card = None
        path = write_report(found, output or Path(f"report-{found.start['uid'][:8]}.html"), card)
    finally:
        close_catalog(client)
    stderr.print(f"report {path}", highlight=False, soft_wrap=True)
