"""Compare image flows, or attentions in their encoder, at equal compute.

Each candidate is trained on the same simulator for the same CPU time of one thread, simulation included, and
tested on the same fresh images. Prints a Markdown table. The default simulator is a stand-in: phase objects
of discs and a random field, one Fresnel hologram of each on a periodic grid, Poisson noise.

    python scripts/compare_image_flows.py --size 32 --minutes 8
    python scripts/compare_image_flows.py --size 32 --minutes 3 --ablation

bits/dim: -log2 q(u | data) a pixel, u in radians, lower is better; above: by how much more than the first one
on the same images. 68 %, 95 %: share of pixels whose truth lies in the central interval of that level.
TARP: largest deviation of the expected coverage, of images averaged to 8 x 8 pixels. NRMSE: of the mean of
the draws, median. ms a draw: 16 draws of one image, wall clock.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from nfphasing_bluesky.flows.image import (
    Attention,
    ImageEncoder,
    ImageEncoderSettings,
    ImageFlow,
    ImageFlowDistribution,
    TokenFlowSettings,
    WaveletFlowSettings,
    build_image_flow,
)
from nfphasing_bluesky.training.calibration import coverage, hardware, ranks, tarp

REGULARISATIONS = (3e-3, 3e-2, 0.3)


class Simulated(NamedTuple):
    """Contexts (B, C_in, H, W) and scalars (B, E) of images u (B, C, H, W)."""

    images: Tensor
    scalars: Tensor
    u: Tensor


@dataclass(frozen=True)
class Problem:
    """What is compared on: `simulate(B, generator)`, and the bounds of each channel of u."""

    simulate: Callable[[int, torch.Generator], Simulated]
    lower: tuple[float, ...]
    upper: tuple[float, ...]


def squared_frequency(size: int) -> Tensor:
    """(size, size) |f|^2, cycles a pixel, zero frequency first."""
    f = torch.fft.fftfreq(size)
    return f[:, None].square() + f.square()


def phase_objects(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, 1, size, size) phase shifts, rad: four discs with soft edges and a rough random field."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 4, 1, 1, generator=generator)

    place = torch.arange(size) + 0.5
    row, column, radius = uniform(0, size), uniform(0, size), uniform(size / 16, size / 4)
    distance = ((place[:, None] - row).square() + (place - column).square()).sqrt()
    discs = (uniform(0, 0.6) * torch.sigmoid(2 * (radius - distance))).sum(1)
    noise = torch.randn(count, size, size, generator=generator)
    amplitude = (1 + squared_frequency(size) * 6**2 * 4 * math.pi**2) ** -0.75
    field = torch.fft.ifft2(torch.fft.fft2(noise) * amplitude).real
    field = 0.05 * field / amplitude.square().mean().sqrt()
    return (discs + field).unsqueeze(1)


def fresnel_problem(size: int) -> Problem:
    """Holograms of phase objects, Fresnel number of a pixel 1e-3 to 0.1, 1e2 to 1e5 counts a pixel."""
    squared = squared_frequency(size)

    def simulate(count: int, generator: torch.Generator) -> Simulated:
        u = phase_objects(count, size, generator)
        level = torch.rand(count, 2, generator=generator)
        fresnel, dose = 10 ** (-3 + 2 * level[:, 0]), 10 ** (2 + 3 * level[:, 1])
        chi = math.pi * squared / fresnel[:, None, None, None]
        wave = torch.fft.fft2(torch.exp(-1j * u)) * torch.exp(-1j * chi)
        expected = torch.fft.ifft2(wave).abs().square() * dose[:, None, None, None]
        hologram = torch.poisson(expected, generator=generator) / dose[:, None, None, None] - 1
        transfer, spectrum = -2 * torch.sin(chi), torch.fft.fft2(hologram)
        back = [torch.fft.ifft2(spectrum * transfer / (transfer.square() + a)).real for a in REGULARISATIONS]
        images = torch.cat((hologram, *back), dim=1).clamp(-8, 8)
        return Simulated(images, 2 * level - 1, u)

    return Problem(simulate, (-1.0,), (4.0,))


class Candidate(nn.Module):
    """An encoder and a flow."""

    def __init__(
        self,
        problem: Problem,
        encoder: ImageEncoderSettings,
        flow: WaveletFlowSettings | TokenFlowSettings,
    ) -> None:
        super().__init__()
        some = problem.simulate(256, torch.Generator().manual_seed(1))
        settings = encoder.model_copy(update={"extras": some.scalars.shape[1]})
        self.encoder = ImageEncoder(some.images.shape[1], settings)
        self.flow: ImageFlow = build_image_flow(
            some.u.shape[1], self.encoder.widths, flow, problem.lower, problem.upper
        )
        self.flow.initialise(some.u)

    def forward(self, data: Simulated) -> ImageFlowDistribution:
        """Condition on the data."""
        return self.flow(self.encoder(data.images, data.scalars))


def operations_counter() -> FlopCounterMode:
    """Count floating-point operations; torch's own counter leaves out attention on CPUs."""
    aten = torch.ops.aten

    def forward(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(
        grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
    ) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: forward,  # noqa: SLF001
            aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,  # noqa: SLF001
        },
    )


def train(candidate: Candidate, problem: Problem, arguments: argparse.Namespace) -> tuple[int, float]:
    """Train for some minutes of CPU time: steps, and floating-point operations of the networks, 1e12."""
    generator = torch.Generator().manual_seed(arguments.seed + 2)
    optimiser = torch.optim.Adam(candidate.parameters(), lr=arguments.rate)

    def loss_of(data: Simulated) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
            return -candidate(data).log_prob(data.u).mean()

    with operations_counter() as counter:
        loss_of(problem.simulate(arguments.batch, generator)).backward()
    limit, began, steps, smooth = 60 * arguments.minutes, time.process_time(), 0, math.nan
    while (done := (time.process_time() - began) / limit) < 1:
        for group in optimiser.param_groups:
            warm = min(1.0, done / 0.03 + 0.01)
            group["lr"] = arguments.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        data = problem.simulate(arguments.batch, generator)
        loss = loss_of(data)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(candidate.parameters(), 0.5 * data.u[0].numel())
        if torch.isfinite(norm):
            optimiser.step()
        value = float(loss.detach()) / data.u[0].numel() / math.log(2)
        smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
        steps += 1
        if steps % 100 == 0:
            print(f"step {steps}, {100 * done:.0f} %, {smooth:.3f} bits/dim", file=sys.stderr, flush=True)
    return steps, counter.get_total_flops() * steps / 1e12


@torch.no_grad()
def measure(
    candidate: Candidate, problem: Problem, arguments: argparse.Namespace
) -> tuple[dict[str, float], Tensor]:
    """Figures on fresh images, and the bits/dim of each, (n,)."""
    generator = torch.Generator().manual_seed(arguments.seed + 77)
    bits, rank, truths, means, nrmse = [], [], [], [], []
    for _ in range(max(1, arguments.test // 16)):
        data = problem.simulate(16, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
            distribution = candidate(data)
            draws = distribution.sample((arguments.draws,), generator)
            bits.append(-distribution.log_prob(data.u) / data.u[0].numel() / math.log(2))
        rank.append(ranks(data.u.flatten().numpy(), draws.flatten(1).T.numpy()))
        error = (draws.mean(0) - data.u).square().sum((1, 2, 3))
        spread = (data.u - data.u.mean((2, 3), keepdim=True)).square().sum((1, 2, 3))
        nrmse.append((error / spread).sqrt())
        truths.append(functional.adaptive_avg_pool2d(data.u, 8).flatten(1))
        means.append(functional.adaptive_avg_pool2d(draws.flatten(0, 1), 8).unflatten(0, (-1, 16)).flatten(2))
    pooled = torch.cat(means, dim=1).movedim(0, 1).numpy()
    level, expected = tarp(torch.cat(truths).numpy(), pooled)
    all_ranks = torch.cat([torch.as_tensor(r) for r in rank]).numpy()
    per_image = torch.cat(bits)
    figures = {
        "bits": float(per_image.mean()),
        "error": float(per_image.std() / len(per_image) ** 0.5),
        "coverage_68": coverage(all_ranks, 0.6827),
        "coverage_95": coverage(all_ranks, 0.95),
        "tarp": float(abs(expected - level).max()),
        "nrmse": float(torch.cat(nrmse).median()),
        "ms": milliseconds(candidate, problem),
    }
    return figures, per_image


@torch.no_grad()
def milliseconds(candidate: Candidate, problem: Problem) -> float:
    """Median time of a draw, 16 at once of one image, the encoder's share included."""
    data = problem.simulate(1, torch.Generator().manual_seed(0))
    times = []
    for _ in range(7):
        began = time.perf_counter()
        candidate(data).sample((16,))
        times.append(1e3 * (time.perf_counter() - began) / 16)
    return sorted(times)[3]


def candidates(
    ablation: bool,
) -> Iterator[tuple[str, ImageEncoderSettings, WaveletFlowSettings | TokenFlowSettings]]:
    """Names and settings of what is compared."""
    if ablation:
        for kind in Attention:
            yield f"wavelet, {kind}", ImageEncoderSettings(attention=kind), WaveletFlowSettings()
    else:
        yield "A wavelet", ImageEncoderSettings(), WaveletFlowSettings()
        yield "B token", ImageEncoderSettings(), TokenFlowSettings()


def main() -> None:
    """Train and test every candidate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ablation", action="store_true", help="compare attentions instead of flows")
    parser.add_argument("--size", type=int, default=32, help="pixels along an edge, a multiple of 8")
    parser.add_argument("--minutes", type=float, default=8, help="CPU time of each candidate")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--test", type=int, default=256, help="images, a multiple of 16")
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problem = fresnel_problem(arguments.size)
    first: Tensor | None = None
    rows = [
        "| candidate | weights | steps | 1e12 FLOP | bits/dim | above | 68 % | 95 % | TARP | NRMSE | ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, encoder, flow in candidates(arguments.ablation):
        torch.manual_seed(arguments.seed)
        candidate = Candidate(problem, encoder, flow).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = sum(p.numel() for p in candidate.parameters())
        steps, operations = train(candidate, problem, arguments)
        got, bits = measure(candidate, problem, arguments)
        first = bits if first is None else first
        above = bits - first
        rows.append(
            f"| {name} | {weights:,} | {steps} | {operations:.1f} | {got['bits']:.3f} ± {got['error']:.3f} | "
            f"{float(above.mean()):.3f} ± {float(above.std()) / len(above) ** 0.5:.3f} | "
            f"{100 * got['coverage_68']:.1f} | {100 * got['coverage_95']:.1f} | {got['tarp']:.3f} | "
            f"{got['nrmse']:.3f} | {got['ms']:.1f} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    print(f"{arguments.size} x {arguments.size}, {arguments.minutes:g} CPU minutes each, {hardware()}\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
