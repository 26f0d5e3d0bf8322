"""A ptychographic scan for the demo: a stage with units, a probe on disk, and counts of a random object."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ophyd import Device
from ophyd.sim import SynAxis

STEPS, STEP_PX = 5, 7
"""Rows and columns of the grid, and the pixels between them."""

PHOTONS = 5e5
PIXEL_M = 2e-8
WAVELENGTH_M = 1e-10


class Stage(SynAxis):
    """A motor in micrometres."""

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the description of its readback, with the unit."""
        return {key: {**value, "units": "um"} for key, value in super().describe().items()}


class SimulatedScan(NamedTuple):
    """Counts (N, H, W) of a grid, line by line, and the probe's file."""

    counts: list[NDArray]
    probe: Path


def simulated_scan(kind: str, side: int, folder: Path) -> SimulatedScan:
    """Simulate a grid scan over a random object of a kind of `physics.objects`.

    Args:
        kind: of the object.
        side: of the frames, px.
        folder: where the probe is written.
    """
    import torch

    from nfphasing_bluesky.physics.imaging.patches import cut
    from nfphasing_bluesky.physics.imaging.probes import random_probes
    from nfphasing_bluesky.physics.objects import random_objects
    from nfphasing_bluesky.physics.ptychography import FarField, expected_intensity

    generator = torch.Generator().manual_seed(11)
    whole = side + STEP_PX * (STEPS - 1)
    maps = random_objects(1, (whole, whole), generator=generator, kinds=[kind]).maps
    probe = PHOTONS**0.5 * random_probes(1, side, generator, modes=1)[0]
    corner = STEP_PX * torch.cartesian_prod(torch.arange(STEPS), torch.arange(STEPS))
    transmission = torch.polar(torch.exp(-0.1 * maps), -0.7 * maps).expand(len(corner), -1, -1)
    expected = expected_intensity(cut(transmission, corner, (side, side)), probe, FarField())
    counts = torch.poisson(expected, generator=generator).numpy().astype(np.uint32)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "probe.npz"
    np.savez(path, probe=probe.numpy())
    return SimulatedScan(list(counts), path)


def grid(detector: Device) -> Iterator[Any]:
    """Plan of the grid over which `simulated_scan` counts."""
    from bluesky.plans import grid_scan

    last = 1e6 * PIXEL_M * STEP_PX * (STEPS - 1)
    slow, fast = Stage(name="sample_y"), Stage(name="sample_x")
    return grid_scan([detector], slow, 0.0, last, STEPS, fast, 0.0, last, STEPS)
