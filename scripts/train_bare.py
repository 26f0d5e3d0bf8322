"""Train and measure a model on a machine that has the science rooms alone: torch, numpy, scipy, pydantic.

    python scripts/train_bare.py holography --output DIR --minutes 9 --frames 300 --set batch=256

Continues where a checkpoint in DIR ends; after the minutes it stops, and the same command goes on.
`--steps` is the length of the whole run, which the learning rate follows.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from nfphasing_bluesky.core import ReconstructionSettings
from nfphasing_bluesky.inference import Reconstructor, pick_device
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.models import write_card
from nfphasing_bluesky.training import Trainer, TrainSettings, checkpoint, export
from nfphasing_bluesky.training import evaluate as evaluation

REPORTED = 50


def trainer_in(folder: Path, name: str, changes: dict[str, object], device: str) -> Trainer:
    """Make a new run, or the one that the folder holds."""
    found = checkpoint.describe(folder)
    if found is not None:
        made = modality(found["modality"], found["network"], checkpoint.prior_state(folder))
        trainer = Trainer(made, TrainSettings(**found["settings"]), device)
        checkpoint.restore(trainer, folder)
        return trainer
    made = modality(name)
    trainer = Trainer(made, TrainSettings(**{**made.training, **changes}), device)
    trainer.prepare()
    return trainer


def main(arguments: list[str]) -> None:
    """Train, export, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modality")
    parser.add_argument("--output", type=Path, required=True, help="folder of checkpoints and model")
    parser.add_argument("--minutes", type=float, required=True, help="of training in this call")
    parser.add_argument("--steps", type=int, default=20_000, help="of the whole run")
    parser.add_argument("--frames", type=int, default=0, help="frames of the certificate; 0 for none")
    parser.add_argument("--draws", type=int, default=100, help="of each of them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="training setting")
    chosen = parser.parse_args(arguments)
    changes = {name: json.loads(value) for name, value in (s.split("=", 1) for s in chosen.set)}
    device = str(pick_device(chosen.device))
    trainer = trainer_in(chosen.output, chosen.modality, {"steps": chosen.steps, **changes}, device)
    ends = time.monotonic() + 60 * chosen.minutes

    def report(log) -> None:
        if log.step % REPORTED == 0:
            print(f"step {log.step} {log.seconds:.0f} s nll {log.nll:.4g}", flush=True)

    trainer.run(chosen.output, report, lambda: time.monotonic() > ends)
    stored = export(trainer, chosen.output / "model")
    print(f"step {trainer.step} of {trainer.settings.steps}: {stored.folder}", flush=True)
    if chosen.frames:
        settings = ReconstructionSettings(n_samples=chosen.draws)
        runner = Reconstructor.load(stored.folder, device, settings)
        measured = evaluation.run(runner, chosen.frames, chosen.draws)
        figures = evaluation.certificate(measured, runner.modality, settings.model_dump(mode="json"))
        write_card(stored.folder, stored.card.model_copy(update={"metrics": figures}))
        print(json.dumps(figures, indent=1), flush=True)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main(sys.argv[1:])
