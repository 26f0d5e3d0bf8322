"""Adapting a model with a progress bar, and what it brought on frames that it did not learn from."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from nfphasing_bluesky.core import FrameError, Origin, ReconstructionSettings
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.inference import Reconstructor, pick_device
from nfphasing_bluesky.models import load, write_card
from nfphasing_bluesky.training import AdaptSettings, StepLog, adapt, split, trainer_for
from nfphasing_bluesky.views.batch import frames_of_files
from nfphasing_bluesky.views.training import draw_curve, interruptible, progress_bar, time_steps

JUDGED = 16
"""Held-out frames that the report is about, at most."""


def adapt_with_progress(
    model: str,
    files: Sequence[Path],
    folder: Path,
    *,
    minutes: float,
    device: str,
    console: Console,
    reading: Mapping[str, Any] | None = None,
    settings: AdaptSettings | None = None,
    n_samples: int = 16,
) -> dict[str, Any]:
    """Adapt a model to frames, and compare both on frames that were held out.

    SIGINT and SIGTERM end the run after the step at hand; the model is written as it is then.

    Args:
        model: name or folder of the parent.
        files: of frames of one shape and kind: a scan, or curves.
        folder: of the run; the model goes to `folder/model`.
        minutes: of training.
        device: torch device or auto.
        console: for the progress bar and the report.
        reading: keyword arguments of `read_frames`.
        settings: of the run.
        n_samples: draws that the report is made from.

    Raises:
        FrameError: too few frames, or of several kinds.
    """
    parent, where = load(model), str(pick_device(device))
    drawing = ReconstructionSettings(n_samples=n_samples)
    before = Reconstructor.from_stored(parent, where, drawing)
    frames = frames_of_files(files, reading or {}, before.survey, before.info.takes_curves)
    kinds = {before.modality.batch_key(frame) for frame in frames}
    if len(kinds) != 1:
        found = ", ".join(sorted(map(str, kinds))) or "none"
        raise FrameError(f"frames of {len(kinds)} kinds ({found}), expected one; adapt to one scan")
    learnt, held = split(before.modality.collate(frames, before.sigma_floor))
    judged = held.at(torch.linspace(0, len(held) - 1, min(len(held), JUDGED)).long())
    trainer = trainer_for(parent, learnt, settings or AdaptSettings(), where)
    with progress_bar(console) as progress, interruptible() as stopped:
        task = progress.add_task("adapting", total=None)

        def report(log: StepLog) -> None:
            total, text = trainer.settings.steps, f"nll {log.nll:.4g}"
            progress.update(task, completed=log.step, total=total, description=text)

        time_steps(trainer, folder, report, stopped, minutes)
        stored = adapt(parent, trainer, folder, report, lambda: bool(stopped))
    after = Reconstructor.from_stored(stored, where, drawing)
    (was, chi2_before), (now, chi2_after) = (_judge(r, judged) for r in (before, after))
    figures, change = {"before": was, "after": now}, change_of_misfit(chi2_before, chi2_after)
    _show(figures, len(judged), console)
    console.print(in_words(change, parent.card.name), soft_wrap=True, highlight=False)
    training = {**stored.card.training, "adapted_to": len(learnt), "held_out": figures}
    write_card(stored.folder, stored.card.model_copy(update={"training": training}))
    return {
        "model": stored.folder,
        "parent": parent.card.sha256,
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "learning_curve": draw_curve(folder),
        "held_out_frames": len(judged),
        **figures,
        "reduced_chi2_ratio": change.ratio,
        "reduced_chi2_ratio_error": change.error,
        "improved": change.improved,
    }


class Change(NamedTuple):
    """Reduced chi-squared after over before: geometric mean over frames, and its relative standard error."""

    ratio: float
    error: float

    @property
    def improved(self) -> bool:
        """Whether it fell by more than two standard errors."""
        return math.log(self.ratio) < -2 * self.error


def change_of_misfit(before: FloatArray, after: FloatArray) -> Change:
    """Compare the reduced chi-squared (n,) of the same frames, n at least 1; one tells no error: nan."""
    ratio = np.log(after) - np.log(before)
    error = ratio.std(ddof=1) / math.sqrt(ratio.size) if ratio.size > 1 else math.nan
    return Change(float(np.exp(ratio.mean())), float(error))


def in_words(change: Change, parent: str) -> str:
    """What the comparison says, and what to do about it."""
    size = f"reduced chi-squared x {change.ratio:.3g} ± {change.ratio * change.error:.2g} in the same frames"
    if change.improved:
        return f"the adapted model explains frames better that it did not learn from: {size}"
    return (
        f"the adapted model explains frames no better that it did not learn from: {size}; keep {parent}. "
        "Error bars that became smaller all the same come from what it learnt from, not from these frames"
    )


def _judge(reconstructor: Reconstructor, batch: Any) -> tuple[dict[str, float], FloatArray]:
    """Figures of a batch, and the reduced chi-squared of each of its frames."""
    found = reconstructor.reconstruct(batch, [Origin(seq_num=i + 1) for i in range(len(batch))])
    chi2 = np.array([p.trust.reduced_chi2 for p in found])
    return {
        "reduced_chi2_median": float(np.median(chi2)),
        "share_valid": float(np.mean([p.trust.verdict.value == "VALID" for p in found])),
        "mean_std": float(np.mean([p.std.mean() for p in found])),
    }, chi2


def _show(figures: dict[str, dict[str, float]], frames: int, console: Console) -> None:
    table = Table(title=f"{frames} frames that were held out")
    for heading in ("", "reduced chi-squared", "VALID", "mean standard deviation"):
        table.add_column(heading)
    for name, row in figures.items():
        values = row["reduced_chi2_median"], row["mean_std"]
        table.add_row(name, f"{values[0]:.3g}", f"{row['share_valid']:.0%}", f"{values[1]:.3g}")
    console.print(table)
