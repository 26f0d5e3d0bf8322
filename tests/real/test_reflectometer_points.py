"""The simulated reflectometer with the shipped model: points saved against the fixed scan."""

from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine

from nfphasing_bluesky.core import ReconstructionSettings
from nfphasing_bluesky.demo import reflectometer
from nfphasing_bluesky.plans import scan_until
from nfphasing_bluesky.streaming.callback import ReconstructionCallback

PLACES = np.linspace(0.1, 2.5, 48)
QUANTITY, TOLERANCE = "thickness_1_angstrom", 0.2


@pytest.mark.slow
def test_a_scan_of_a_film_ends_when_its_thickness_is_known():
    callback = ReconstructionCallback(
        "reflectivity", worker="thread", reconstruction=ReconstructionSettings(n_samples=128), device="cpu"
    )
    engine = RunEngine({})
    engine.subscribe(callback)
    angle = reflectometer.Angle(name="theta")
    counter = reflectometer.SimulatedReflectometer("counter", angle)
    ended: list[Any] = []

    def plan():
        md = reflectometer.metadata(counter, angle, PLACES)
        until = scan_until(
            [counter], angle, PLACES, QUANTITY, TOLERANCE, callback, md=md, patience_s=60.0, in_a_row=2
        )
        ended.append((yield from until))

    engine(plan())
    callback.close()
    (done,) = ended
    assert done.certain and done.points <= 0.75 * len(PLACES)
    low, high = done.latest.result.intervals[QUANTITY]
    assert low - TOLERANCE < reflectometer.FILM[QUANTITY] < high + TOLERANCE
