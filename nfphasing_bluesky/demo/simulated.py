"""A simulated SAXS detector: spheres that grow while a positioner of the sample moves."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin, SettingsError
from nfphasing_bluesky.demo.detector import CurveDetector

POINTS = 256
Q_INV_ANGSTROM = (0.008, 0.30)
POLYDISPERSITY = 0.1
BUFFER = 0.02


class Readable(Protocol):
    """What the detector needs of a positioner: ophyd's `read`."""

    @property
    def name(self) -> str:
        """Of the device, and of its readback in `read`."""

    def read(self) -> Mapping[str, Any]:
        """Return name -> {value, timestamp}."""


class SimulatedSaxs(CurveDetector):
    """Curves of polydisperse spheres in solution, with the photon noise of sample and buffer.

    The mean radius grows linearly from `radius_angstrom[0]` to `[1]` while the sample's positioner goes
    from 0 to 1, and stays at the ends beyond. Every exposure has noise of its own; its counts grow with
    the exposure time.

    Args:
        name: of the device.
        sample: the positioner that is read at each exposure.
        radius_angstrom: mean radius at 0 and at 1.
        counts_per_s: counts of I(0) in a bin of 0.001/angstrom at 0.1/angstrom.
        exposure_s: exposure time, s.
        seed: of the noise.

    Raises:
        SettingsError: a radius or the count rate is not positive.
    """

    def __init__(
        self,
        name: str,
        sample: Readable,
        *,
        radius_angstrom: tuple[float, float] = (20.0, 50.0),
        counts_per_s: float = 2e6,
        exposure_s: float = 0.1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if min(*radius_angstrom, counts_per_s) <= 0:
            raise SettingsError(
                f"{name}: radius_angstrom={radius_angstrom}, counts_per_s={counts_per_s}, expected positive"
            )
        super().__init__(name, POINTS, exposure_s=exposure_s, **kwargs)
        self._positioner, self._radius, self._rate = sample, radius_angstrom, counts_per_s
        self._seed, self._exposures = seed, 0

    def radius_at(self, position: float) -> float:
        """Return the true mean radius at a position of the sample, angstrom."""
        start, end = self._radius
        return start + (end - start) * min(1.0, max(0.0, position))

    def expose(self) -> Frame:
        """Simulate one exposure at the present position of the sample."""
        import torch

        from nfphasing_bluesky.physics import noise, saxs

        readings = self._positioner.read()
        position = float(readings[self._positioner.name]["value"])
        self._exposures += 1
        generator = torch.Generator().manual_seed(self._seed + self._exposures)
        q = torch.linspace(*Q_INV_ANGSTROM, POINTS, dtype=torch.float64)[None]
        radius = torch.tensor([self.radius_at(position)], dtype=torch.float64)
        curve, sigma = noise.subtracted_curve(
            q,
            saxs.sphere(q, radius, torch.full_like(radius, POLYDISPERSITY)),
            counts=torch.full_like(radius, self._rate * float(self.exposure_time.get())),
            buffer=torch.full_like(radius, BUFFER),
            generator=generator,
        )
        label = f"spheres, {float(radius):.1f} angstrom"
        geometry = CurveGeometry(np.asarray(q[0]))
        return Frame(np.asarray(curve[0]), geometry, np.asarray(sigma[0]), origin=Origin(label))
