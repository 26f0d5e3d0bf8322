"""`nfphasing`: verbs only. Progress on stderr; `--json` prints one JSON object on stdout."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from nfphasing_bluesky import options, worker_verbs
from nfphasing_bluesky.core import NFPhasingError, keep_freed_memory, sleep_while_waiting
from nfphasing_bluesky.options import Json, finite, print_json, run_settings
from nfphasing_bluesky.spoken import SpokenLines, Verbs, spoken_results, stderr

app = typer.Typer(
    name="nfphasing",
    cls=Verbs,
    help="X-ray scattering reconstruction with error bars, live, at the beamline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(worker_verbs.app)

Device = Annotated[str, typer.Option(help="torch device, or auto")]
Probe = Annotated[
    Path | None,
    typer.Option(help="file with the probe of ptychographic scans; retrieve: find it from the first frames"),
]
PositionsSign = Annotated[
    str | None, typer.Option(help="signs of a scan's rows and columns: 1, -1 or as 1,-1")
]
PositionsOrder = Annotated[
    str | None, typer.Option(help="xy: rows and columns of a scan's positions are exchanged")
]
Turn = Annotated[
    str | None,
    typer.Option(help="what to do to the frames of a scan: transpose, flip-rows, rotate-90, ..."),
]
Model = Annotated[str, typer.Option(help="name or folder of a model; see `nfphasing models`")]


def main() -> None:
    """Run the command line; what goes wrong on purpose, or on disk, ends it with status 1 and one line."""
    lines = logging.StreamHandler()
    lines.setFormatter(SpokenLines("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    # that OpenCL is missing, which nothing here uses
    logging.getLogger("silx.opencl.common").setLevel(logging.ERROR)
    keep_freed_memory()
    sleep_while_waiting()
    try:
        app()
    except (NFPhasingError, OSError) as error:
        stderr.print(f"[bold red]{type(error).__name__}[/]: {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.command()
def models(as_json: Json = False) -> None:
    """List the shipped models and what their cards say."""
    from nfphasing_bluesky.models import locate, read_card, shipped

    cards = [read_card(locate(name)) for name in shipped()]
    if as_json:
        print_json({"models": [finite(card.model_dump(mode="json")) for card in cards]})
        return
    table = Table(title="shipped models")
    for heading in ("model", "modality", "sha256", "gain, nats", "worst KS", "95 % covers", "frames"):
        table.add_column(heading)
    for card in cards:
        m = card.metrics
        row = [m.get("information_gain_nats"), m.get("worst_sbc_ks"), m.get("coverage_95"), m.get("frames")]
        shown = ["not evaluated" if v is None else f"{v:.4g}" for v in row]
        table.add_row(card.name, card.modality, card.sha256[:12], *shown)
    Console().print(table)


@app.command()
def train(
    modality: Annotated[str, typer.Argument(help="modality, such as saxs1d-pr")],
    output: Annotated[
        Path | None, typer.Option(help="folder of checkpoints, learning curve and model")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="about how long; the first steps are timed")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="optimiser steps; instead of --minutes")] = None,
    physics_weight: Annotated[
        float | None, typer.Option(min=0, help="lambda of the physics loss; 0 leaves it out")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="simulated frames a step")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of weights, simulation and noise")] = None,
    start: Annotated[str | None, typer.Option(help="model whose weights to start from")] = None,
    only: Annotated[str | None, typer.Option(help="class whose flow alone is trained")] = None,
    other: Annotated[
        list[str] | None,
        typer.Option("--set", help="any other setting of a run, as companions=16; repeat it"),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a model, or continue where a checkpoint in the output folder ends."""
    from nfphasing_bluesky.views.training import train_with_progress

    if minutes is not None and steps is not None:
        raise typer.BadParameter("got --minutes and --steps, expected one of them")
    folder = output or Path("runs") / modality
    changes: dict[str, object] = {
        "steps": steps,
        "physics_weight": physics_weight,
        "batch": batch,
        "seed": seed,
    }
    changes |= {"start": start, "only": only}
    given = run_settings(other) | {name: value for name, value in changes.items() if value is not None}
    result = train_with_progress(modality, folder, given, minutes=minutes, device=device, console=stderr)
    if as_json:
        print_json(finite(result))
    else:
        stderr.print(f"model {result['model']}; learning curve {result['learning_curve']}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="name or folder of a model")],
    frames: Annotated[int, typer.Option(min=100, help="fresh simulated frames")] = 2000,
    n_samples: Annotated[int, typer.Option(min=100, max=100_000, help="draws of each")] = 500,
    polish_steps: Annotated[int, typer.Option(min=0, max=10_000, help="polish the draws first")] = 0,
    write: Annotated[bool, typer.Option(help="write certificate into the card")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a model's calibration: the certificate of its card."""
    from nfphasing_bluesky.core import ReconstructionSettings
    from nfphasing_bluesky.inference import Reconstructor
    from nfphasing_bluesky.views.training import evaluate_with_progress

    settings = ReconstructionSettings(n_samples=n_samples, polish_steps=polish_steps)
    reconstructor = Reconstructor.load(model, device, settings)
    figures = evaluate_with_progress(reconstructor, model, frames, write=write, console=stderr)
    if as_json:
        print_json(finite(figures))
    else:
        Console().print_json(json.dumps(finite(figures)))


@app.command()
def adapt(
    files: Annotated[list[Path], typer.Argument(help="frames or a scan of the running experiment")],
    model: Model = "ptychography",
    minutes: Annotated[float, typer.Option(min=0.01, help="of training")] = 10.0,
    output: Annotated[
        Path | None, typer.Option(help="folder of checkpoints, learning curve and model")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option("--map", help="name in a scan's file, as theirs=ours; repeat it")
    ] = None,
    probe: Probe = None,
    positions_sign: PositionsSign = None,
    positions_order: PositionsOrder = None,
    orientation: Turn = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Pull a model over to the probe, the noise and the sample of an experiment, with frames of it."""
    from nfphasing_bluesky.views.adapting import adapt_with_progress

    asked = options.of_scans(rename, probe, positions_sign, positions_order, orientation)
    reading = {k: v for k, v in asked.items() if v is not None}
    folder = output or Path("runs") / f"{Path(model).name}-adapted"
    result = adapt_with_progress(
        model, files, folder, minutes=minutes, device=device, console=stderr, reading=reading
    )
    if as_json:
        print_json(finite(result))
    else:
        stderr.print(f"model {result['model']}; learning curve {result['learning_curve']}")


@app.command()
def reconstruct(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="curves (text, canSAS, NXcanSAS), frames (TIFF, CBF, EDF, HDF5), scans (npz, h5, cxi)"
        ),
    ],
    model: Model = "saxs1d-pr",
    output: Annotated[Path, typer.Option(help="folder of the results")] = Path("nfphasing-results"),
    n_samples: Annotated[int, typer.Option(min=2, max=100_000)] = 256,
    polish_steps: Annotated[
        int, typer.Option(min=0, max=10_000, help="move the draws to the exact posterior")
    ] = 0,
    sigma_floor: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="relative systematic error added to sigma; 0.01 for curves"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    search: Annotated[
        float, typer.Option(min=1, max=1000, help="look so many times as long for further answers")
    ] = 1.0,
    poni: Annotated[Path | None, typer.Option(help="pyFAI geometry of 2-D frames")] = None,
    geometry: Annotated[
        list[str] | None,
        typer.Option(
            help="in place of a PONI file, NAME=VALUE: wavelength_m, distance_m, pixel_size_m, and "
            "beam_center_px or poni_m as ROW,COLUMN; for a surface incidence_degree; for holograms "
            "fresnel_number, beta_over_delta, photons; saturation; repeat it"
        ),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="mask of 2-D frames, non-zero = masked")] = None,
    flat: Annotated[
        Path | None, typer.Option(help="images of the empty beam, for holograms; several are averaged")
    ] = None,
    dark: Annotated[Path | None, typer.Option(help="images without light, for holograms")] = None,
    buffer: Annotated[
        Path | None, typer.Option(help="curve or frame to subtract; of several their mean")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="path of the frames in an HDF5 file that has several stacks")
    ] = None,
    q_unit: Annotated[
        str | None,
        typer.Option(help="unit of q where the file does not say: 1/angstrom, 1/nm, two_theta_degree"),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="columns of q, I, sigma in a text file, as 0,3,4")
    ] = None,
    relative_sigma: Annotated[float | None, typer.Option(help="where the file has no sigma")] = None,
    wavelength_angstrom: Annotated[
        float | None, typer.Option(help="for columns of angles, with --q-unit two_theta_degree")
    ] = None,
    intensity_unit: Annotated[
        str | None,
        typer.Option(help="of curves: 1/cm, 1/m, 1/mm or arbitrary; by default what the file says"),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            help="of particle to solvent, for intensities in 1/cm: '0.33 e/angstrom^3' or '9.4e10 1/cm^2'"
        ),
    ] = None,
    q_range: Annotated[
        str | None, typer.Option(help="part of curves to use, LOW:HIGH in 1/angstrom, as 0.02:0.5")
    ] = None,
    join: Annotated[int, typer.Option(min=1, help="points of curves that become one, their mean")] = 1,
    bounds: Annotated[
        list[str] | None,
        typer.Option(
            help="what is known of the sample, NAME=LOW:HIGH, for reflectivity and gisaxs; repeat it"
        ),
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option("--map", help="name in a scan's file, as theirs=ours; repeat it")
    ] = None,
    probe: Probe = None,
    positions_sign: PositionsSign = None,
    positions_order: PositionsOrder = None,
    orientation: Turn = None,
    refine_positions: Annotated[
        bool,
        typer.Option("--refine-positions", help="let a scan's frames move to where they agree best first"),
    ] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="write every frame of a stitched scan too")
    ] = False,
    adapt_minutes: Annotated[
        float | None, typer.Option("--adapt", min=0.01, help="minutes to adapt the model to the files first")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Reconstruct files on disk: a NeXus file and a figure for each frame, or for each stitched scan."""
    from nfphasing_bluesky.core import ReconstructionSettings
    from nfphasing_bluesky.inference import Reconstructor
    from nfphasing_bluesky.views.batch import BatchJob, reconstruct_files

    settings = ReconstructionSettings(
        n_samples=n_samples, polish_steps=polish_steps, sigma_floor=sigma_floor, seed=seed, search=search
    )
    reading = {
        "poni": poni,
        "geometry": options.detector(geometry),
        "mask": mask,
        "flat": flat,
        "dark": dark,
        "saturation": options.saturation(geometry),
        "dataset": dataset,
        "q_unit": q_unit,
        "columns": options.columns(columns),
        "relative_sigma": relative_sigma,
        "wavelength_angstrom": wavelength_angstrom,
        "intensity_unit": intensity_unit,
        "contrast_inv_cm2": options.contrast(contrast),
        "q_range": options.interval(q_range, "--q-range", "0.02:0.5"),
        "join": join,
        "check": True,
        "refine_positions": refine_positions,
        **options.of_scans(rename, probe, positions_sign, positions_order, orientation),
    }
    known = {k: v for k, v in reading.items() if v is not None}
    if adapt_minutes is not None:
        from nfphasing_bluesky.views.adapting import adapt_with_progress

        folder = output / f"{Path(model).name}-adapted"
        adapted = adapt_with_progress(
            model, files, folder, minutes=adapt_minutes, device=device, console=stderr, reading=known
        )
        model = str(adapted["model"])
    job = BatchJob(output, buffer, known, frames, options.intervals(bounds))
    results = reconstruct_files(Reconstructor.load(model, device, settings), files, job, stderr)
    if as_json:
        print_json({"results": spoken_results(results)})
    sys.exit(1 if any("error" in r for r in results) else 0)


@app.command()
def doctor(
    frame: Annotated[Path | None, typer.Argument(help="a measured frame, curve or scan to test with")] = None,
    settings: Annotated[str, typer.Option(help="TOML or JSON file of WorkerSettings")] = "{}",
    model: Annotated[str | None, typer.Option(help="in place of the settings' own")] = None,
    catalog: Annotated[str | None, typer.Option(help="in place of the settings' own")] = None,
    poni: Annotated[Path | None, typer.Option(help="pyFAI geometry of 2-D frames")] = None,
    mask: Annotated[Path | None, typer.Option(help="mask of 2-D frames, non-zero = masked")] = None,
    q_unit: Annotated[str | None, typer.Option(help="unit of q where the file does not say")] = None,
    probe: Probe = None,
    positions_sign: PositionsSign = None,
    positions_order: PositionsOrder = None,
    orientation: Turn = None,
    tango_host: Annotated[str | None, typer.Option(help="HOST:PORT; TANGO_HOST by default")] = None,
    secret: Annotated[
        Path | None, typer.Option(help="our certificate, NAME.key_secret, to ask a worker with keys")
    ] = None,
    server: Annotated[
        Path | None, typer.Option(help="public key of that worker; that of the settings by default")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look whether a scan can be reconstructed here: one verdict a line, and what to do."""
    from nfphasing_bluesky.streaming.settings import read_settings
    from nfphasing_bluesky.views.doctor import Patient, examine, with_model, worst

    given = {"poni": poni, "mask": mask, "q_unit": q_unit}
    given |= options.of_scans(None, probe, positions_sign, positions_order, orientation)
    reading = {name: value for name, value in given.items() if value is not None}
    chosen = with_model(read_settings(settings), model, catalog)
    findings = []
    for finding in examine(Patient(chosen, frame, reading, tango_host, secret, server)):
        findings.append(finding)
        advice = f" -> {finding.advice}" if finding.advice else ""
        line = f"{finding.verdict:>11}  {finding.subject}: {finding.found}{advice}"
        stderr.print(line, highlight=False, soft_wrap=True, markup=False)
    if as_json:
        print_json({"findings": [vars(finding) for finding in findings]})
    sys.exit(worst(findings))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder of the results")] = Path("demo-results"),
    modality: Annotated[
        str,
        typer.Option(
            help="what is shown: saxs1d (measured curves), saxs2d, cdi, holography, ptychography, "
            "reflectivity, gisaxs or gisaxs2d"
        ),
    ] = "saxs1d",
) -> None:
    """Run the main job end to end: scan, reconstruct, store, serve, read back."""
    from nfphasing_bluesky.demo import run_demo

    def report(text: str) -> None:
        stderr.print(text, soft_wrap=True, markup=False, highlight=False)

    run_demo(output, report, modality=modality)
