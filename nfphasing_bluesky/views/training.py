"""Training and evaluation with a progress bar, a learning curve, and a clean stop."""

import csv
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.inference import Reconstructor, pick_device
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.models import load, locate, write_card
from nfphasing_bluesky.training import StepLog, Trainer, TrainSettings, checkpoint, export
from nfphasing_bluesky.training import evaluate as evaluation

TIMED_STEPS = 20
FIGURE = "learning_curve.png"


def train_with_progress(
    name: str,
    folder: Path,
    changes: Mapping[str, Any],
    *,
    minutes: float | None,
    device: str,
    console: Console,
) -> dict[str, Any]:
    """Train, or resume what `folder` holds, and export the model to `folder/model`.

    SIGINT and SIGTERM end the run after the step at hand; everything is saved and the same call goes on.
    The model is exported then too, as good as it is; a second signal leaves that out.

    Args:
        name: of the modality.
        folder: of checkpoints, curve and model.
        changes: settings that differ from the defaults; when resuming they must agree with the checkpoint's.
        minutes: length of the run; sets the number of steps from the time of the first ones.
        device: torch device or auto.
        console: for the progress bar.

    Raises:
        SettingsError: `folder` is a file, or `changes` are not those of the checkpoint in it.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file, expected a folder for the run; choose another --output")
    trainer = _trainer(name, folder, changes, str(pick_device(device)))
    if trainer.step == 0:
        console.print("fitting the prior")
        trainer.prepare()
    with progress_bar(console) as progress, interruptible() as stopped:
        task = progress.add_task("training", total=trainer.settings.steps, completed=trainer.step)

        def report(log: StepLog) -> None:
            physics = "" if math.isnan(log.physics_misfit) else f" misfit {log.physics_misfit:.3g}"
            text = f"nll {log.nll:.3f}{physics}"
            progress.update(task, completed=log.step, total=trainer.settings.steps, description=text)

        if minutes is not None and trainer.step < TIMED_STEPS:
            time_steps(trainer, folder, report, stopped, minutes)
        trainer.run(folder, report, lambda: bool(stopped))
    if stopped:
        console.print(
            f"interrupted after step {trainer.step} of {trainer.settings.steps}, which is saved; the same "
            "command goes on from there. Writing the model as it is; interrupt again to leave that out.",
            highlight=False,
            soft_wrap=True,
        )
    stored = export(trainer, folder / "model")
    return {
        "model": stored.folder,
        "sha256": stored.card.sha256,
        "steps": trainer.step,
        "of_steps": trainer.settings.steps,
        "seconds": trainer.seconds,
        "seed": trainer.settings.seed,
        "learning_curve": draw_curve(folder),
    }


def _settings(values: Mapping[str, Any]) -> TrainSettings:
    try:
        return TrainSettings(**values)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = ".".join(map(str, wrong["loc"]))
        known = ", ".join(TrainSettings.model_fields)
        raise SettingsError(
            f"{name}={wrong['input']!r} is no setting of a training run: {wrong['msg']}; there are {known}"
        ) from None


def _trainer(name: str, folder: Path, changes: Mapping[str, Any], device: str) -> Trainer:
    found = checkpoint.describe(folder)
    if found is None:
        made = modality(name)
        settings = _settings({**made.training, **changes})
        if not settings.start:
            return Trainer(made, settings, device)
        first = load(settings.start)
        if first.card.modality != name:
            raise SettingsError(f"start={settings.start!r} is a {first.card.modality}, expected a {name}")
        return Trainer(modality(name, first.card.network, first.part("prior")), settings, device)
    _settings({**found["settings"], **changes})
    asked = {"modality": name, **changes}
    there = {"modality": found["modality"], **found["settings"]}
    for key, value in asked.items():
        if there[key] != value:
            raise SettingsError(
                f"{folder} holds a run with {key}={there[key]!r}, asked for {value!r}; "
                "leave the option out to continue that run, or choose another --output"
            )
    made = modality(name, found["network"], checkpoint.prior_state(folder))
    trainer = Trainer(made, TrainSettings(**found["settings"]), device)
    checkpoint.restore(trainer, folder)
    return trainer


def time_steps(
    trainer: Trainer, folder: Path, report: Callable[[StepLog], None], stopped: list[int], minutes: float
) -> None:
    """Make the first steps, then set their number so that the run takes the minutes asked for."""
    whole = trainer.settings
    trainer.settings = whole.model_copy(update={"steps": max(whole.steps, 10 * TIMED_STEPS)})
    trainer.run(folder, report, lambda: bool(stopped) or trainer.step >= TIMED_STEPS // 2)
    began, first = trainer.seconds, trainer.step
    trainer.run(folder, report, lambda: bool(stopped) or trainer.step >= TIMED_STEPS)
    if trainer.step < TIMED_STEPS:
        trainer.settings = whole
        return
    each = (trainer.seconds - began) / max(1, trainer.step - first)
    left = 60 * minutes - trainer.seconds
    steps = trainer.step + max(1, int(left / max(each, 1e-6)))
    trainer.settings = whole.model_copy(update={"steps": steps})
    # a run that is killed from here on is one of so many steps
    checkpoint.save(trainer, folder)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that gets the signal's number once SIGINT or SIGTERM arrived."""
    arrived: list[int] = []
    before = {
        n: signal.signal(n, lambda number, _: arrived.append(number)) for n in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress_bar(console: Console) -> Progress:
    """Steps done, of how many, and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def draw_curve(folder: Path) -> Path:
    """Draw the learning curve of a run as a PNG, the physics loss below where there is one."""
    path = folder / checkpoint.CURVE
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    pairs = [row for row in rows if row["physics_misfit"] != "nan"]
    figure = Figure(figsize=(8, 6 if pairs else 3.5), layout="constrained")
    panels = figure.subplots(2 if pairs else 1, 1, sharex=True, squeeze=False)[:, 0]
    _draw_data_loss(panels[0], rows)
    if pairs:
        _draw_physics_loss(panels[1], pairs)
    panels[-1].set_xlabel("step")
    path = folder / FIGURE
    figure.savefig(path, dpi=120)
    return path


def _draw_data_loss(panel: Axes, rows: Sequence[Mapping[str, str]]) -> None:
    """The limits are those of nearly all steps: one bad one does not flatten the curve."""
    steps, losses = [int(row["step"]) for row in rows], [float(row["nll"]) for row in rows]
    panel.plot(steps, losses, lw=0.6, color="0.7", label="each step")
    panel.plot(steps, _smooth(losses), lw=1.5, label="running mean")
    panel.set_ylabel("data NLL, nats")
    panel.legend(frameon=False)
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    if finite and finite[0] < (most := finite[int(0.99 * (len(finite) - 1))]):
        margin = 0.1 * (most - finite[0])
        panel.set_ylim(finite[0] - margin, most + margin)


def _draw_physics_loss(panel: Axes, rows: Sequence[Mapping[str, str]]) -> None:
    steps = [int(row["step"]) for row in rows]
    for key, label in (
        ("physics_misfit", "misfit −log p(I|A(u))"),
        ("physics_negative_entropy", "−entropy, log q(u|I)"),
        ("physics_negative_log_prior", "−log p(u)"),
    ):
        panel.plot(steps, _smooth([float(row[key]) for row in rows]), label=label)
    panel.set_yscale("symlog", linthresh=0.1)
    panel.set_ylabel("physics loss, nats per point")
    panel.legend(frameon=False)


def _smooth(values: Sequence[float], decay: float = 0.98) -> list[float]:
    """Exponential mean of what came so far; of the first values as much as there is."""
    out: list[float] = []
    total = weight = 0.0
    for value in values:
        if math.isfinite(value):
            total, weight = decay * total + value, decay * weight + 1.0
        out.append(total / weight if weight else math.nan)
    return out


def evaluate_with_progress(
    reconstructor: Reconstructor, model: str, frames: int, *, write: bool, console: Console
) -> dict[str, Any]:
    """Measure the certificate; with `write`, put it into the card."""
    with progress_bar(console) as progress:
        task = progress.add_task("evaluating", total=frames)
        measured = evaluation.run(
            reconstructor,
            frames,
            reconstructor.settings.n_samples,
            report=lambda done: progress.update(task, completed=done),
        )
    settings = reconstructor.settings.model_dump(mode="json")
    figures = evaluation.certificate(measured, reconstructor.modality, settings)
    if write:
        card = reconstructor.card
        write_card(locate(model), card.model_copy(update={"metrics": figures}))
    return figures
