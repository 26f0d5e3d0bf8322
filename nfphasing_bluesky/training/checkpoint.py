"""Checkpoints without pickle: tensors in safetensors, the rest in JSON; and the learning curve."""

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nfphasing_bluesky.core import ModelIntegrityError

if TYPE_CHECKING:
    from nfphasing_bluesky.training.loop import Trainer

TENSORS = "checkpoint.safetensors"
STATE = "checkpoint.json"
CURVE = "learning_curve.csv"


def save(trainer: "Trainer", folder: Path) -> None:
    """Write everything that the next step depends on; a kill in between leaves the previous checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"network.{k}": v for k, v in trainer.network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in trainer.average.items()}
    tensors |= {f"prior.{k}": v for k, v in trainer.modality.state().items()}
    for index, state in trainer.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": v for k, v in state.items()}
    tensors["progress"] = torch.tensor([trainer.step, trainer.skipped], dtype=torch.int64)
    tensors["seconds"] = torch.tensor([trainer.seconds], dtype=torch.float64)
    partial = folder / f"{TENSORS}.partial"
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, partial)
    description = {"modality": trainer.modality.name, "settings": trainer.settings.model_dump(mode="json")}
    description["network"] = trainer.modality.settings.model_dump(mode="json")
    _replace(folder / STATE, json.dumps(description, indent=1) + "\n")
    os.replace(partial, folder / TENSORS)


def describe(folder: Path) -> dict | None:
    """Modality, settings and network settings of the checkpoint in a folder, or None.

    Raises:
        ModelIntegrityError: its description is missing or no JSON.
    """
    if not (folder / TENSORS).exists():
        return None
    try:
        return json.loads((folder / STATE).read_text())
    except (OSError, ValueError) as error:
        raise ModelIntegrityError(
            f"{folder / STATE} does not belong to its checkpoint ({error}); remove the folder to start afresh"
        ) from None


def restore(trainer: "Trainer", folder: Path) -> None:
    """Continue where a checkpoint was written; the following steps are those that would have followed.

    Raises:
        ModelIntegrityError: the checkpoint is cut short or damaged.
    """
    tensors = _tensors(folder)
    trainer.network.load_state_dict(_part(tensors, "network"))
    trainer.average = {k: v.to(trainer.device) for k, v in _part(tensors, "average").items()}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimiser").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    whole = trainer.optimiser.state_dict()
    trainer.optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
    trainer.step, trainer.skipped = (int(v) for v in tensors["progress"])
    trainer.seconds = float(tensors["seconds"])
    truncate_curve(folder, trainer.step)


def prior_state(folder: Path) -> dict[str, Tensor]:
    """Tensors of the modality's prior in a checkpoint."""
    return _part(_tensors(folder), "prior")


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as error:
        raise ModelIntegrityError(
            f"{folder / TENSORS} cannot be read ({error}): it was cut short or altered; put back a copy, or "
            "choose another --output to start afresh"
        ) from None
    if lacking := [name for name in ("progress", "seconds") if name not in tensors]:
        raise ModelIntegrityError(f"{folder / TENSORS} lacks {lacking[0]}, expected a checkpoint")
    return tensors


def append_curve(folder: Path, row: Mapping[str, object]) -> None:
    """Add a line to the learning curve."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CURVE
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if fresh:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def truncate_curve(folder: Path, step: int) -> None:
    """Drop the lines after a step, which will be made again, and those that a kill cut short."""
    path = folder / CURVE
    if not path.exists():
        return
    head, *lines = path.read_text(errors="replace").splitlines() or [""]
    if not head:
        path.unlink()
        return
    rows = [line.split(",") for line in lines]
    whole = [row for row in rows if len(row) == head.count(",") + 1 and row[0].isdigit() and row[-1]]
    kept = [",".join(row) for row in whole if int(row[0]) <= step]
    _replace(path, "\n".join([head, *kept]) + "\n")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
