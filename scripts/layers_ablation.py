"""What the physics loss does to layer stacks that no label was shown of: two networks at equal compute.

Labelled curves come from the middle of the prior only (`--inner`): every parameter from the middle of what
its bounds allow. The physics loss sees unlabelled curves from all of it. Both variants train for the same
time of the processor on one thread, their own simulation and fits in it, so the one without the physics loss
sees more labelled curves. All are tested on the same fresh curves, inside of what was labelled and
outside: there the first parameter (a thickness; of bare surfaces the substrate's density) lies beyond it, the
others anywhere. A network that has learnt less is also less sure of what it was not shown, so one variant
takes the steps that another had time for.

The network alone is asked, without fits from its draws and weights: the data NLL of the true number of layers
and parameters, and draws given that number. Prints one JSON object a variant.

    python scripts/layers_ablation.py --weight 0 --unanchored --minutes 6
    python scripts/layers_ablation.py --weight 0.1 --unanchored --minutes 6
    python scripts/layers_ablation.py --weight 0 --unanchored --steps 946
    python scripts/layers_ablation.py --weight 0 --minutes 6
    python scripts/layers_ablation.py --weight 0.1 --minutes 6
"""

import argparse
import json
import time
from typing import Any

import torch

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities import Anchors, DrawDistribution, Draws
from nfphasing_bluesky.modalities.anchors import anchor_features
from nfphasing_bluesky.modalities.reflectivity import Reflectivity
from nfphasing_bluesky.training import Trainer, TrainSettings
from nfphasing_bluesky.training.calibration import hardware
from nfphasing_bluesky.training.rounds import simulate_usable

TRIED_STEPS = 32
"""Of a first run that tells how long a step takes; so many that its rounds are as in the run itself."""
CHUNK = 50


class Unanchored(Reflectivity):
    """Layers whose flows begin at the prior: nothing is fitted."""

    def anchors(self, batch: Any) -> Anchors:
        """Return the prior."""

        def find(k: int, frames: torch.Tensor) -> Anchor:
            width = len(self.classes[k].free)
            nothing = torch.zeros(len(frames), width)
            return Anchor(
                nothing, torch.diag_embed(nothing + 1), torch.zeros(len(frames), anchor_features(width))
            )

        return Anchors(len(batch), find)


def main() -> None:
    """Train one variant and test it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weight", type=float, required=True, help="lambda of the physics loss")
    parser.add_argument("--unanchored", action="store_true", help="let the flows begin at the prior")
    parser.add_argument("--minutes", type=float, default=6.0, help="of the processor, to train")
    parser.add_argument(
        "--steps", type=int, default=0, help="so many instead of as many as there is time for"
    )
    parser.add_argument("--inner", type=float, default=0.6)
    parser.add_argument("--curves", type=int, default=400)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    subject = Unanchored() if arguments.unanchored else Reflectivity()
    trainer = train(subject, arguments)
    subject_network = subject.network()
    subject_network.load_state_dict(trainer.average)
    result: dict[str, Any] = {
        "weight": arguments.weight,
        "anchors": not arguments.unanchored,
        "seed": arguments.seed,
        "steps": trainer.step,
        "curves": trainer.step * trainer.settings.batch // trainer.settings.reuse,
        "hardware": hardware(),
    }
    for where, inside in (("inside", True), ("outside", False)):
        result[where] = measure(subject, subject_network.eval(), arguments, inside)
    print(json.dumps(result), flush=True)


def train(subject: Reflectivity, arguments: argparse.Namespace) -> Trainer:
    """Train for the time asked for, on a schedule of as many steps as a first run says it has time for."""
    common = {
        "batch": 256,
        "reuse": 2 if arguments.unanchored else 8,
        "round_batches": 4 if arguments.unanchored else 2,
        "physics_weight": arguments.weight,
        "physics_every": 2,
        "physics_batch": 16,
        "physics_ramp": 0.3,
        "inner": arguments.inner,
        "noise": 0.1,
        "warmup": 30,
        "average": 0.99,
        "seed": arguments.seed,
    }
    steps = arguments.steps
    if not steps:
        tried = Trainer(subject, TrainSettings(**common | {"steps": TRIED_STEPS, "physics_ramp": 1e-6}))
        steps = max(TRIED_STEPS, round(60 * arguments.minutes * TRIED_STEPS / _run(tried)))
    trainer = Trainer(subject, TrainSettings(**common | {"steps": steps}))
    print(f"{steps} steps took {_run(trainer):.0f} s", flush=True)
    return trainer


def _run(trainer: Trainer) -> float:
    """Train to the end; seconds of the processor."""
    began = time.process_time()
    trainer.run()
    return time.process_time() - began


@torch.no_grad()
def measure(
    subject: Reflectivity, network: torch.nn.Module, arguments: argparse.Namespace, inside: bool
) -> dict[str, float]:
    """Test on stacks from the labelled part of the prior, or from the rest of it."""

    def sample(n: int, generator: torch.Generator) -> Draws:
        if inside:
            return subject.sample_prior(n, generator, arguments.inner)
        draws = subject.sample_prior(8 * n, generator)
        beyond = (draws.theta[:, 0] - 0.5).abs() > arguments.inner / 2
        kept = draws.at(beyond.nonzero()[:n, 0])
        return Draws(kept.label, kept.theta, torch.arange(len(kept)))

    generator = torch.Generator().manual_seed(77)
    nll, chi2, within = [], [], []
    while sum(map(len, nll)) < arguments.curves:
        batch, draws, _ = simulate_usable(subject, CHUNK, generator, sample)
        found: DrawDistribution = network(*subject.context(batch), subject.anchors(batch))
        nll.append(-found.log_prob(draws))
        # given the number of layers
        known = torch.full_like(found.class_log_probs, -1e4)
        known[torch.arange(len(draws)), draws.label] = 0.0
        noise = torch.randn(len(draws), arguments.draws, 1 + subject.width, generator=generator)
        made, _ = found.with_classes(known).draw(noise)
        predicted = subject.evaluate(made, batch).predicted.view(len(draws), arguments.draws, -1)
        chi2.append(subject.reduced_chi2(batch, predicted.median(1).values))
        within.append(_within(made, draws, subject, arguments.draws))
    values, misfits, covered = torch.cat(nll), torch.cat(chi2), torch.cat(within)
    return {
        "curves": len(values),
        "nll_mean": float(values.mean()),
        "nll_mean_error": float(values.std() / len(values) ** 0.5),
        "nll_median": float(values.median()),
        "reduced_chi2_median": float(misfits.median()),
        "coverage_68": float(covered[:, 0].mean()),
        "coverage_95": float(covered[:, 1].mean()),
    }


def _within(made: Draws, truth: Draws, subject: Reflectivity, count: int) -> torch.Tensor:
    """(N, 2) share of all parameters' 68 and 95 % intervals, of N curves, that hold the truth."""
    draws = made.theta.view(-1, count, subject.width)
    rank = (draws < truth.theta[:, None]).float().mean(1)
    parts = []
    for label, r in zip(truth.label, rank, strict=True):
        r = r[: len(subject.classes[int(label)].free)]
        parts.append(torch.stack([((r - 0.5).abs() <= level / 2).float().mean() for level in (0.68, 0.95)]))
    return torch.stack(parts)


if __name__ == "__main__":
    main()
