"""Patterns in grazing incidence beside BornAgain's, on one thread each."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import bornagain
import torch
from torch import Tensor

from nfphasing_bluesky.core import Origin, ReconstructionSettings
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities.grazing.gisaxs_films import (
    DETECTOR,
    INCIDENCE_RAD,
    grazing_sample,
    sample_films,
)
from nfphasing_bluesky.physics.gisaxs import GrazingSample, scattered
from nfphasing_bluesky.physics.grazing.form_factors import Shape
from nfphasing_bluesky.physics.grazing.gisaxs_detector import detector_pixels
from tests.benchmarks.figures import Figure
from tests.oracles.bornagain_samples import (
    Angles,
    Islands,
    RoughStack,
    bornagain_pattern,
    random_islands,
    random_rough_stack,
)

PIXELS, BATCH, TARGET = 128, 32, 50.0
FRAMES, DRAWS = 4, 992


def against_bornagain(repeats: int) -> list[Figure]:
    """Times of processors, not of clocks: other work on the machine disturbs them less."""
    angles = Angles(PIXELS)
    rough = next(
        s for s in map(random_rough_stack, range(1, 1000)) if len(s.sigma_nm) == 13 and s.vertical_nm
    )
    kinds: dict[str, RoughStack | Islands] = {
        "spheres of one size": random_islands(Shape.SPHERE, 0),
        "spheres of 9 sizes, radial paracrystal": random_islands(Shape.SPHERE, 4),
        "truncated spheres of 9 sizes, dilute": random_islands(Shape.TRUNCATED_SPHERE, 1),
        "cylinders of 9 sizes, chain": random_islands(Shape.CYLINDER, 2),
        "12 rough layers": rough,
    }
    return [
        *(_ratio(name, sample, angles, repeats) for name, sample in kinds.items()),
        published_frame(repeats),
        *published_draws(repeats),
    ]


def published_frame(repeats: int) -> Figure:
    """A whole frame of the films of arXiv:2210.01543; processor time of one thread."""
    pixels = detector_pixels(DETECTOR, INCIDENCE_RAD)
    batch = grazing_sample(sample_films(FRAMES, torch.Generator().manual_seed(0)))
    with one_thread(), torch.no_grad():
        seconds = _least(lambda: scattered(batch, pixels), repeats) / FRAMES
    detail = f"12 layers on silica, 1024 x 512 pixels, batches of {FRAMES}, processor time, one thread"
    return Figure("GISAXS frame of arXiv:2210.01543", 1e3 * seconds, "ms", detail=detail)


def published_draws(repeats: int) -> list[Figure]:
    """As many draws of one posterior as arXiv:2210.01543 takes 3 s for; processor time of one thread."""
    reconstructor = Reconstructor.load("gisaxs2d-films", "cpu", ReconstructionSettings(n_samples=DRAWS))
    subject, generator = reconstructor.modality, torch.Generator().manual_seed(0)
    batch, _ = subject.simulate(subject.sample_prior(1, generator), generator)
    noise = torch.randn(1, DRAWS, 1 + subject.width, generator=generator)

    def draw() -> Any:
        channels, extra = subject.context(batch)
        return reconstructor.network(channels, extra, subject.anchors(batch)).draw(noise)

    with one_thread(), torch.no_grad():
        drawn = _least(draw, repeats)
        weighed = _least(lambda: reconstructor.reconstruct(batch, [Origin()]), max(2, repeats // 3))
    how = "one frame of 72 parameters, processor time, one thread"
    return [
        Figure(f"{DRAWS} draws of 12 films", 1e3 * drawn, "ms", 3000, "lower", f"{how}; the flow alone"),
        Figure(f"{DRAWS} draws of 12 films, weighed", 1e3 * weighed, "ms", detail=f"{how}; a Posterior"),
    ]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread for a while."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _ratio(name: str, sample: RoughStack | Islands, angles: Angles, repeats: int) -> Figure:
    pixels = angles.ours(torch.float32)
    batch = repeated(sample.ours(), BATCH)
    with one_thread(), torch.no_grad():
        ours = _least(lambda: scattered(batch, pixels), repeats) / BATCH
    layers = sample.layers(bornagain)
    theirs = _least(lambda: bornagain_pattern(bornagain, layers, angles), max(2, repeats // 3))
    detail = (
        f"{1e3 * ours:.2f} ms in batches of {BATCH}, BornAgain {1e3 * theirs:.0f} ms; {PIXELS} x {PIXELS} "
        "pixels, processor time, one thread each"
    )
    return Figure(f"GISAXS against BornAgain: {name}", theirs / ours, "times", TARGET, "higher", detail)


def _least(call: Callable[[], Any], repeats: int) -> float:
    """Processor seconds of the quickest of some calls, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def repeated(value: Any, n: int) -> Any:
    """Give a sample of one as a batch of n, each smaller than the one before by a little."""
    factor = torch.linspace(1, 0.98, n, dtype=torch.float64)

    def spread(tensor: Tensor) -> Tensor:
        return tensor * factor.view(n, *(1,) * (tensor.ndim - 1))

    def batch(part: Any, name: str = "") -> Any:
        if isinstance(part, Tensor):
            # places and shares stay: particles must not leave their layer
            kept = name in {"share", "base", "side_rad", "thickness"}
            return part.expand(n, *part.shape[1:]) if kept else spread(part)
        if isinstance(part, tuple):
            return tuple(batch(p) for p in part)
        if is_dataclass(part) and not isinstance(part, type):
            return replace(part, **{f.name: batch(getattr(part, f.name), f.name) for f in fields(part)})
        return part

    made: GrazingSample = batch(value)
    return made
