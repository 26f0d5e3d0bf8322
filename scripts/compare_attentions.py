"""Compare attentions in the encoder of image flows at equal compute, on the simulator of `holography`.

Each candidate is trained on tiles of simulated holograms for the same CPU time of one thread, simulation
included, as `nfphasing train` does it (rounds, bfloat16), then settled, and tested on the same fresh frames.
One is trained with another seed as well: differences below that mean nothing. Prints a Markdown table.

    python scripts/compare_attentions.py --tile 32 --minutes 4

bits: -log2 q(u | hologram) a pixel, u in radians, lower is better; above: by how much more than the first one
on the same frames. 68 %, 95 %: share of pixels whose truth lies in the central interval of that level. TARP:
largest deviation of the expected coverage, of frames averaged to 8 x 8 blocks. NRMSE: of the mean of the
draws, median. ms a draw: 16 draws of one frame, CPU time.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core.memory import keep_freed_memory
from nfphasing_bluesky.flows.image import (
    Attention,
    ImageEncoderSettings,
    WaveletFlowSettings,
)
from nfphasing_bluesky.modalities.holography import Holography
from nfphasing_bluesky.modalities.imaging.image_network import ImageNetworkSettings
from nfphasing_bluesky.training.calibration import hardware
from nfphasing_bluesky.training.losses import data_nll
from nfphasing_bluesky.training.pixel_calibration import PixelCalibration
from nfphasing_bluesky.training.rounds import Round, simulate_round, simulate_usable
from nfphasing_bluesky.training.settings import TrainSettings

AT_ONCE, CLIP_PIXELS = 16, 16
Candidate = tuple[str, int, ImageNetworkSettings]


def train(modality: Holography, network: nn.Module, minutes: float, settings: TrainSettings) -> int:
    """Train for some minutes of CPU time, the learning rate following the clock; the number of steps."""
    generator = torch.Generator().manual_seed(4 * settings.seed + 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    pixels, each = modality.width, settings.round_batches * settings.reuse
    began, steps, smooth = time.process_time(), 0, math.nan
    while (done := (time.process_time() - began) / (60 * minutes)) < 1:
        if steps % each == 0:
            frames = Round(simulate_round(modality, settings, generator), settings, generator)
        for group in optimiser.param_groups:
            warm = min(1.0, done / 0.03 + 0.01)
            group["lr"] = settings.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        channels, extra, anchors, draws = frames.take(steps % each)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            loss = data_nll(network(channels, extra, anchors), draws)
        optimiser.zero_grad(set_to_none=True)
        (loss / (pixels / CLIP_PIXELS)).backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        if torch.isfinite(norm):
            optimiser.step()
        bits = float(loss.detach()) / pixels / math.log(2)
        smooth = bits if math.isnan(smooth) else 0.98 * smooth + 0.02 * bits
        steps += 1
        if steps % 100 == 0:
            print(f"step {steps}, {100 * done:.0f} %, {smooth:.3f} bits", file=sys.stderr, flush=True)
    return steps


@torch.no_grad()
def measure(modality: Holography, network: nn.Module, frames: int, draws: int) -> tuple[dict, Tensor]:
    """Figures on fresh frames, the same for every candidate, and the bits a pixel of each, (n,)."""
    generator = torch.Generator().manual_seed(77)
    found, bits, side = PixelCalibration(), [], modality.settings.tile
    while len(found) < frames:
        batch, truth, _ = simulate_usable(modality, AT_ONCE, generator)
        distribution = network(*modality.context(batch))
        bits.append(-distribution.log_prob(truth) / modality.width / math.log(2))
        noise = torch.randn(len(batch), draws, 1 + modality.width, generator=generator)
        drawn, _ = distribution.draw(noise)
        images = drawn.theta.view(len(batch), draws, side, side).double().numpy()
        truths = truth.theta.view(-1, side, side).double().numpy()
        for u, of_frame, seen in zip(truths, images, modality.seen(batch).numpy(), strict=True):
            found.add(u, of_frame, seen)
    return found.figures() | {"ms": milliseconds(modality, network)}, torch.cat(bits)


@torch.no_grad()
def milliseconds(modality: Holography, network: nn.Module) -> float:
    """Median CPU time of a draw, 16 at once of one frame, the encoder's share included."""
    batch, _, _ = simulate_usable(modality, 1, torch.Generator().manual_seed(0))
    noise, times = torch.randn(1, 16, 1 + modality.width), []
    for _ in range(7):
        began = time.process_time()
        network(*modality.context(batch)).draw(noise)
        times.append(1e3 * (time.process_time() - began) / 16)
    return sorted(times)[3]


def candidates(tile: int, seed: int) -> Iterator[Candidate]:
    """Names, seeds and settings of what is compared."""
    flow = WaveletFlowSettings(offset=True, referred=True)
    for kind in Attention:
        encoder = ImageEncoderSettings(attention=kind)
        yield f"{kind}", seed, ImageNetworkSettings(tile=tile, encoder=encoder, flow=flow)
    yield "none, another seed", seed + 1, ImageNetworkSettings(tile=tile, flow=flow)


def main() -> None:
    """Train and test every candidate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tile", type=int, default=32, help="pixels along an edge, a multiple of 8")
    parser.add_argument("--minutes", type=float, default=4, help="CPU time of each candidate")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--test", type=int, default=256, help="frames, a multiple of 16")
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    first: Tensor | None = None
    rows = [
        "| candidate | weights | steps | bits | above | 68 % | 95 % | TARP | NRMSE | ms a draw |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, seed, network_settings in candidates(arguments.tile, arguments.seed):
        modality = Holography(network_settings)
        settings = TrainSettings(**{**modality.training, "learning_rate": arguments.rate, "seed": seed})
        torch.manual_seed(seed)
        network = modality.network()
        modality.initialise(network, torch.Generator().manual_seed(seed))
        steps = train(modality, network, arguments.minutes, settings)
        modality.settle(network, torch.Generator().manual_seed(999_983))
        got, bits = measure(modality, network, arguments.test, arguments.draws)
        first = bits if first is None else first
        above = bits - first
        rows.append(
            f"| {name} | {sum(p.numel() for p in network.parameters()):,} | {steps} | "
            f"{float(bits.mean()):.3f} ± {float(bits.std()) / len(bits) ** 0.5:.3f} | "
            f"{float(above.mean()):.3f} ± {float(above.std()) / len(above) ** 0.5:.3f} | "
            f"{100 * got['coverage_68']:.1f} | {100 * got['coverage_95']:.1f} | "
            f"{got['tarp_deviation']:.3f} | {got['nrmse_median']:.3f} | {got['ms']:.1f} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    print(f"{arguments.tile} x {arguments.tile}, {arguments.minutes:g} CPU minutes each, {hardware()}\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
