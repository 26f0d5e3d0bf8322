"""Frames in, posteriors out: one curve, batches, and bumps DREAM on the same curve."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from nfphasing_bluesky.core import Failure, Frame
from nfphasing_bluesky.inference import Reconstructor
from tests.benchmarks import subjects
from tests.benchmarks.figures import Figure
from tests.oracles.dream import dream_sphere

DRAWS = 256
WARM_UP = 3
MODELS: dict[str, Callable[[], Frame]] = {"saxs1d-pr": subjects.protein, "saxs1d-particles": subjects.sphere}


def seconds_a_call(
    reconstructor: Reconstructor, frames: list[Frame], calls: int, draws: int = DRAWS, warm_up: int = WARM_UP
) -> float:
    """Median over calls. Raises RuntimeError when a frame was not reconstructed: that would be quick."""
    times = []
    for _ in range(warm_up + calls):
        began = time.perf_counter()
        results = reconstructor(frames, n_samples=draws)
        times.append(time.perf_counter() - began)
    for result in results:
        if isinstance(result, Failure):
            raise RuntimeError(f"{result.origin.label}: {result.reason}")
        if result.samples.shape[0] != draws:
            raise RuntimeError(f"{len(result.samples)} draws, expected {draws}")
    return statistics.median(times[warm_up:])


def one_curve(calls: int) -> list[Figure]:
    """Milliseconds for one frame, both models."""
    out = []
    for model, frame in MODELS.items():
        one = frame()
        value = 1e3 * seconds_a_call(Reconstructor.load(model, "cpu"), [one], calls)
        how = f"{one.origin.label}, {one.intensity.size} points, {DRAWS} draws, median of {calls} calls"
        out.append(Figure(f"{model}: one curve", value, "ms", 20, "lower", how))
    return out


def batches(calls: int) -> list[Figure]:
    """Curves a second in batches of 64, both models."""
    out = []
    for model, frame in MODELS.items():
        frames = subjects.exposures(frame(), 64)
        value = 64 / seconds_a_call(Reconstructor.load(model, "cpu"), frames, calls)
        how = f"{DRAWS} draws each, median of {calls} calls"
        out.append(Figure(f"{model}: batch of 64", value, "curves/s", 200, "higher", how))
    return out


def against_dream(calls: int) -> list[Figure]:
    """How many times faster than DREAM for as many draws of the same curve's posterior."""
    frame = subjects.sphere()
    reconstructor = Reconstructor.load("saxs1d-particles", "cpu")
    ours = seconds_a_call(reconstructor, [frame], calls)
    sigma = np.hypot(frame.sigma, reconstructor.sigma_floor * np.abs(frame.intensity))
    theirs = dream_sphere(frame.geometry.q_inv_angstrom, frame.intensity, sigma, DRAWS, seed=0)
    how = (
        f"{DRAWS} draws of the sphere curve: DREAM {theirs.seconds:.3g} s ({theirs.evaluations} evaluations, "
        f"100 generations of burn-in, one core), here {1e3 * ours:.3g} ms"
    )
    return [Figure("faster than bumps DREAM", theirs.seconds / ours, "times", 400, "higher", how)]


def device_rates(calls: int) -> list[Figure]:
    """Frames a second at several batch sizes, on the GPU where there is one."""
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    out = []
    for model, frame in MODELS.items():
        reconstructor = Reconstructor.load(model, device)
        for size in (1, 64, 1024) if gpu else (1, 64):
            few = calls if size < 1024 else max(3, calls // 10)
            value = size / seconds_a_call(reconstructor, subjects.exposures(frame(), size), few)
            how = f"{DRAWS} draws each, results on the host, median of {few} calls"
            out.append(Figure(f"{model}: batch of {size} on {device}", value, "frames/s", detail=how))
    return out
