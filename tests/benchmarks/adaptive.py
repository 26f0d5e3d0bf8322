"""Points that a plan saves by choosing them, on the simulated reflectometer, at equal final width."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import ReconstructionSettings
from nfphasing_bluesky.demo.reflectometer import (
    ATTENUATORS,
    MOST_COUNTS,
    Angle,
    SimulatedReflectometer,
    metadata,
)
from nfphasing_bluesky.plans import Measured, scan_until, scan_where_it_tells_most
from nfphasing_bluesky.streaming.callback import ReconstructionCallback
from tests.benchmarks.figures import Figure
from tests.engine import running_engine

QUANTITIES = ("thickness_1_angstrom", "roughness_1_angstrom")
POINTS, BEGIN = 48, 12
PHOTONS, FLOOR = 1e9, 0.01
PATIENCE_S = 120.0
PLACES = np.linspace(0.1, 2.5, POINTS)


def counting_noise(places: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    """(Q,) standard deviation of intensities that the counter will have, the systematic floor among it."""
    counts = np.maximum(predicted, 1.0)
    share = np.select([counts * t < MOST_COUNTS for t in ATTENUATORS], ATTENUATORS, ATTENUATORS[-1])
    return np.hypot(np.sqrt(np.maximum(counts * share, 1.0)) / share, FLOOR * counts)


def run(quantity: str, tolerance: float, seed: int, *, choose: bool) -> Measured:
    """One scan over the film, in order or where it tells most, until a quantity is known."""
    angle = Angle(name="theta")
    counter = SimulatedReflectometer("counter", angle, photons=PHOTONS, seed=seed)
    callback = ReconstructionCallback(
        "reflectivity", worker="thread", reconstruction=ReconstructionSettings(n_samples=256)
    )
    known = metadata(counter, angle, PLACES)
    common: dict[str, Any] = {"patience_s": PATIENCE_S, "md": known}
    asked = [counter], angle, PLACES.tolist(), quantity, tolerance, callback
    plan = (
        scan_where_it_tells_most(*asked, counting_noise, begin=BEGIN, **common)
        if choose
        else scan_until(*asked, **common)
    )
    found: list[Measured] = []

    def kept() -> Any:
        found.append((yield from plan))

    try:
        with running_engine() as engine, warnings.catch_warnings():
            engine.subscribe(callback)
            engine(kept())
    finally:
        callback.close()
    return found[0]


def points_saved(quantities: tuple[str, ...], seeds: int) -> list[Figure]:
    """Points that each order takes to the width that all of them give, for some quantities and noises."""
    out = []
    for quantity in quantities:
        for seed in range(seeds):
            whole = run(quantity, 1e-12, seed, choose=False)
            assert whole.latest is not None  # noqa: S101  48 points have a posterior
            width = whole.latest.half_width(quantity)
            spent = {
                name: run(quantity, width, seed, choose=name == "chosen") for name in ("in order", "chosen")
            }
            how = ", ".join(
                f"{name} {m.points}{'' if m.certain else ' (never)'}" for name, m in spent.items()
            )
            saved = POINTS - spent["chosen"].points
            name = f"points saved of {POINTS}: {quantity}, noise {seed}"
            out.append(Figure(name, saved, "points", detail=f"{how}; to +-{width:.3g}"))
    return out
