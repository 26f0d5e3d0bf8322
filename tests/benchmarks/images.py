"""The imaging models at two frame sizes and several batch sizes: time, draws a second, peak memory."""

import resource
from collections.abc import Callable

import numpy as np
import torch

from nfphasing_bluesky.core import DetectorGeometry, Frame, HologramGeometry, Origin, PtychographyGeometry
from nfphasing_bluesky.core.neighbours import with_neighbours
from nfphasing_bluesky.demo.patterns import (
    DEAD,
    GEOMETRY,
    PARTICLES,
    PIXEL_M,
    SIDE,
    simulated_patterns,
)
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities.imaging.patterns import expected, transmission
from nfphasing_bluesky.physics.imaging.patches import cut
from nfphasing_bluesky.physics.imaging.probes import random_probes
from nfphasing_bluesky.physics.noise import poisson_counts
from nfphasing_bluesky.physics.objects import random_objects
from nfphasing_bluesky.physics.propagate import fresnel_propagate
from tests.benchmarks.figures import Figure
from tests.benchmarks.inference import seconds_a_call

DRAWS = 16
SIDES = (64, 128)
PHOTONS = 1e6
SLOW = "saxs2d-oriented"
"""A frame of it takes seconds of a processor: fits of every shape."""


def holograms(n: int, side: int) -> list[Frame]:
    """Holograms of random phase objects, a thousand photons a pixel."""
    generator = torch.Generator().manual_seed(0)
    phase = -0.5 * random_objects(n, (side, side), generator=generator).maps
    wave = fresnel_propagate(
        torch.polar(torch.ones_like(phase), phase), 0.02, boundary="constant", outside=1.0
    )
    counts = poisson_counts(1e3 * wave.abs().square(), generator) / 1e3
    geometry = HologramGeometry(0.02, photons=1e3)
    return [Frame(c.double().numpy(), geometry, origin=Origin(seq_num=i)) for i, c in enumerate(counts)]


def scan(n: int, side: int) -> list[Frame]:
    """Frames of a scan in steps of a tenth of a frame, each with its neighbours."""
    generator = torch.Generator().manual_seed(0)
    rows = int(np.ceil(np.sqrt(n + 6)))
    step, whole = side // 10, side + rows * (side // 10)
    maps = random_objects(1, (whole, whole), generator=generator).maps
    u = torch.stack([-0.6 * maps, 0.1 * maps], 1)
    probe = PHOTONS**0.5 * random_probes(1, side, generator)
    far = torch.tensor([torch.nan], dtype=torch.float64)
    frames = []
    for i in range(rows * rows):
        corner = torch.tensor([[step * (i // rows), step * (i % rows)]])
        wave = transmission(cut(u, corner, (side, side)))
        counts = poisson_counts(expected(wave, probe, torch.zeros(1, 2), far), generator)[0]
        place = (float(corner[0, 0]), float(corner[0, 1]))
        geometry = PtychographyGeometry(probe[0].numpy(), place)
        frames.append(Frame(counts.double().numpy(), geometry, origin=Origin(seq_num=i)))
    return with_neighbours(frames, 6)[:n]


def rods(n: int, side: int) -> list[Frame]:
    """The demo's pattern of oriented rods, counted n times, its pixels binned down to `side`."""
    image = simulated_patterns({"rods": PARTICLES["rods along 30°"]})[0]
    dead, bins = image == DEAD, SIDE // side
    blocks = (side, bins, side, bins)
    mask = dead.reshape(blocks).any((1, 3))
    mean = np.where(dead, 0, image).reshape(blocks).sum((1, 3))
    geometry = DetectorGeometry(**{**GEOMETRY, "pixel_size_m": (bins * PIXEL_M, bins * PIXEL_M)})
    rng = np.random.default_rng(0)
    counts = [rng.poisson(np.where(mask, 0, mean)).astype(float) for _ in range(n)]
    return [Frame(c, geometry, mask=mask, origin=Origin(seq_num=i)) for i, c in enumerate(counts)]


SUBJECTS: dict[str, Callable[[int, int], list[Frame]]] = {
    "holography": holograms,
    "ptychography": scan,
    SLOW: rods,
}


def speed(calls: int) -> list[Figure]:
    """Milliseconds a frame from frame to posterior, at several batch and frame sizes."""
    gpu = torch.cuda.is_available()
    out = []
    for model, subject in SUBJECTS.items():
        reconstructor = Reconstructor.load(model, "cuda" if gpu else "cpu")
        for side in SIDES:
            for size in (1, 16, 64) if gpu or (side == SIDES[0] and model != SLOW) else (1, 16):
                seconds = seconds_a_call(reconstructor, subject(size, side), calls, DRAWS, warm_up=1)
                how = f"{DRAWS} draws each, {size * DRAWS / seconds:.3g} draws/s, {reconstructor.device}"
                name = f"{model}: batch of {size}, {side} x {side}"
                out.append(Figure(name, 1e3 * seconds / size, "ms a frame", detail=f"{how}, {calls} calls"))
    peak = (
        torch.cuda.max_memory_allocated()
        if gpu
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    where = "of the GPU, allocated" if gpu else "of this process, with all that was measured before"
    return [*out, Figure("imaging models, peak memory", peak / 2**30, "GiB", detail=where)]
