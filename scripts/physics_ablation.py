"""What each part does: a model with and without physics loss and anchors, on known and unknown objects.

Labelled frames come from the middle of the prior's box only (`--inner`); the physics loss sees unlabelled
frames from all of it. All variants take the same number of steps from the same seed, and are tested on fresh
frames from inside and from outside of what was labelled. Prints one JSON object a variant.

    python scripts/physics_ablation.py --weight 0 --unanchored
    python scripts/physics_ablation.py --weight 0.1 --unanchored
    python scripts/physics_ablation.py --weight 0
    python scripts/physics_ablation.py --weight 0.1
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from nfphasing_bluesky.core import ReconstructionSettings
from nfphasing_bluesky.flows import Anchor, resample_curve
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities import Anchors, Draws, Modality, modality
from nfphasing_bluesky.modalities.curves import CurveBatch
from nfphasing_bluesky.modalities.saxs1d import Saxs1D
from nfphasing_bluesky.models import load, shipped
from nfphasing_bluesky.training import Trainer, TrainSettings, export
from nfphasing_bluesky.training.calibration import calibrate, hardware, pooled
from nfphasing_bluesky.training.evaluate import Evaluation, run


def main() -> None:
    """Train one variant and test it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modality", default="saxs1d-pr")
    parser.add_argument("--unanchored", action="store_true", help="let the flow start from the prior instead")
    parser.add_argument("--weight", type=float, required=True, help="lambda of the physics loss")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--inner", type=float, default=0.6)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    arguments = parser.parse_args()
    how = "unanchored" if arguments.unanchored else "anchored"
    folder = arguments.output / f"{arguments.modality}-{how}-{arguments.weight:g}"
    reconstructor = train(arguments, folder)
    result = {"weight": arguments.weight, "anchors": how, "steps": arguments.steps, "hardware": hardware()}
    for where, inside in (("inside", True), ("outside", False)):
        result[where] = figures(measure(reconstructor, arguments, inside))
    (folder / "ablation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def train(arguments: argparse.Namespace, folder: Path) -> Reconstructor:
    """Train a variant, or read it when it was trained before."""
    name = arguments.modality
    state = load(name).part("prior") if name in shipped() else {}
    if not (folder / "model").exists():
        settings = TrainSettings(
            steps=arguments.steps,
            batch=arguments.batch,
            physics_weight=arguments.weight,
            physics_every=2,
            physics_ramp=0.3,
            inner=arguments.inner,
            reuse=8,
        )
        subject = modality(name, None, state)
        if arguments.unanchored:
            leave_unanchored(subject)
        trainer = Trainer(subject, settings)
        trainer.prepare()
        trainer.run(folder)
        export(trainer, folder / "model")
    made = Reconstructor.load(folder / "model", "cpu", ReconstructionSettings(n_samples=300))
    if arguments.unanchored:
        leave_unanchored(made.modality)
    return made


def leave_unanchored(subject: Saxs1D) -> None:
    """Give every frame the anchor that knows nothing of it: twice the prior's width at its centre.

    A scale has no prior width; it is looked for around the intensity of the first good points.
    """
    fitted = subject.anchors

    def anchors(batch: CurveBatch) -> Anchors:
        known = fitted(batch)
        grid = subject.settings.encoder.grid
        scale = resample_curve(batch.q, batch.intensity, batch.sigma, batch.mask, grid).normalisation

        def find(k: int, frames: torch.Tensor) -> Anchor:
            features = torch.zeros_like(known.get(k, frames).features)
            unbounded = torch.isinf(torch.tensor(subject.classes[k].lower))
            location = torch.where(unbounded, scale[frames].log()[:, None], 0.0)
            factor = 2 * torch.eye(location.shape[1]).expand(len(frames), -1, -1)
            return Anchor(location, factor, features)

        return Anchors(len(batch), find)

    subject.anchors = anchors  # type: ignore[method-assign]


def measure(reconstructor: Reconstructor, arguments: argparse.Namespace, inside: bool) -> Evaluation:
    """Evaluate on objects from the labelled part of the prior, or from the rest of it."""
    subject: Modality = reconstructor.modality

    def sample(n: int, generator: torch.Generator) -> Draws:
        if inside:
            return subject.sample_prior(n, generator, arguments.inner)
        kept: list[Draws] = []
        while sum(map(len, kept)) < n:
            draws = subject.sample_prior(4 * n, generator)
            kept.append(draws.at(outside(subject, draws, arguments.inner)))
        joined = Draws(*(torch.cat([getattr(k, f) for k in kept])[:n] for f in ("label", "theta", "frame")))
        return Draws(joined.label, joined.theta, torch.arange(n))

    return run(reconstructor, arguments.frames, 300, seed=77, sample=sample)


def outside(subject: Modality, draws: Draws, inner: float) -> torch.Tensor:
    """(N,) bool: the first coordinate, a log size, lies outside the labelled part."""
    low = torch.tensor([c.lower[0] for c in subject.classes])[draws.label]
    high = torch.tensor([c.upper[0] for c in subject.classes])[draws.label]
    return ((draws.theta[:, 0] - (low + high) / 2).abs() / (high - low)) > inner / 2


def figures(evaluation: Evaluation) -> dict[str, float]:
    """Information gain, misfit and coverage."""
    draws = {k: np.stack(v) for k, v in evaluation.draws.items()}
    truth = {k: np.array(v) for k, v in evaluation.truth.items()}
    each = [calibrate(truth[k], draws[k]) for k in truth]
    both = pooled([c for c in each if c.n > 30 and not math.isnan(c.sbc_ks)])
    return {
        "information_gain_nats_median": float(np.median(evaluation.gain)),
        "reduced_chi2_median": float(np.median(evaluation.chi2)),
        "ess_fraction_median": float(np.median(evaluation.ess)),
        "coverage_68": both["coverage_68"],
        "coverage_95": both["coverage_95"],
    }


if __name__ == "__main__":
    main()
