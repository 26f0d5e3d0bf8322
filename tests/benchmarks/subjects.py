"""What the benchmarks reconstruct: a measured protein curve, a simulated sphere, and scans of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import event_model
import numpy as np
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin
from nfphasing_bluesky.demo.curves import measured_curves
from nfphasing_bluesky.physics import saxs

RADIUS_ANGSTROM, POLYDISPERSITY = 80.0, 0.1
SCALE, BACKGROUND = 10.0, 1e-3
RELATIVE_ERROR = 0.02
DATA_KEY = "saxs_intensity"


def protein() -> Frame:
    """Glucose isomerase where the measured data lie beside the checkout, else the last of sasdata's."""
    return measured_curves()[-1].with_origin(seq_num=1)


def sphere(seed: int = 0) -> Frame:
    """A simulated curve of spheres, with the relative errors of reduced data and those of the background."""
    q = np.geomspace(0.006, 0.35, 200)
    radius, spread = (torch.tensor([v], dtype=torch.float64) for v in (RADIUS_ANGSTROM, POLYDISPERSITY))
    expected = SCALE * saxs.sphere(torch.as_tensor(q), radius, spread)[0].numpy() + BACKGROUND
    sigma = np.hypot(RELATIVE_ERROR * expected, RELATIVE_ERROR * BACKGROUND)
    noise = np.random.default_rng(seed).normal(size=q.size)
    return Frame(expected + sigma * noise, CurveGeometry(q), sigma, origin=Origin("sphere", seq_num=1))


def exposures(frame: Frame, n: int, seed: int = 0) -> list[Frame]:
    """Return n frames of one sample: its curve with fresh noise of its own sigma, numbered from 1.

    Their sigma is larger by the root of two, because the curve has its own noise already.
    """
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, frame.intensity.size)) * frame.sigma
    sigma = 2**0.5 * frame.sigma
    return [
        replace(
            frame,
            intensity=frame.intensity + noise[i],
            sigma=sigma,
            origin=replace(frame.origin, seq_num=i + 1),
        )
        for i in range(n)
    ]


def scan(frames: list[Frame]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents of a run whose events hold these curves, their q and sigma."""
    run = event_model.compose_run()
    yield "start", run.start_doc
    names = [DATA_KEY, DATA_KEY.replace("intensity", "q"), DATA_KEY.replace("intensity", "sigma")]
    shape = [frames[0].intensity.size]
    keys: dict[str, Any] = {name: {"source": "benchmark", "dtype": "array", "shape": shape} for name in names}
    keys[names[1]]["units"] = "1/angstrom"
    stream = run.compose_descriptor(name="primary", data_keys=keys)
    yield "descriptor", stream.descriptor_doc
    for i, frame in enumerate(frames):
        values = (frame.intensity, frame.geometry.q_inv_angstrom, frame.sigma)
        data = dict(zip(names, values, strict=True))
        yield "event", stream.compose_event(data=data, timestamps=dict.fromkeys(names, float(i)))
    yield "stop", run.compose_stop()
