"""A simulated reflectometer: an angle, a counter, attenuators, and a film on silicon."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component, Device, Kind, Signal
from ophyd.sim import SynAxis
from ophyd.status import DeviceStatus

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.demo.simulated import Readable

WAVELENGTH_ANGSTROM = 1.54
DTHETA_RAD = 5e-5
FILM = {
    "thickness_1_angstrom": 143.0,
    "density_1_e_per_cubic_angstrom": 1.9,
    "roughness_1_angstrom": 5.0,
    "substrate_density_e_per_cubic_angstrom": 0.71,
    "substrate_roughness_angstrom": 3.0,
}
"""What the film is: the answer."""
BOUNDS = {
    "layers": [1, 1],
    "thickness_1_angstrom": [50.0, 300.0],
    "density_1_e_per_cubic_angstrom": [1.0, 3.0],
    "substrate_density_e_per_cubic_angstrom": [0.68, 0.74],
    "footprint_q_inv_angstrom": [0.003, 0.004],
    "q_offset_inv_angstrom": [-2e-4, 2e-4],
}
"""What somebody who grew it knows beforehand."""
BACKGROUND = 1e-8
ATTENUATORS = (1.0, 0.1, 0.01, 1e-3, 1e-4)
MOST_COUNTS = 1e5


class Angle(SynAxis):
    """An incidence angle in degrees."""

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the description of its readback, with the unit."""
        return {key: {**value, "units": "deg"} for key, value in super().describe().items()}


class SimulatedReflectometer(Device):
    """A counter behind a film, which an angle turns; it puts in as much attenuation as it needs.

    Every exposure has Poisson noise of its own.

    Args:
        name: of the device; its data keys are `<name>_counts`, `<name>_transmission` and `<name>_sample`.
        angle: the positioner of the incidence, in degrees.
        photons: of the beam in an exposure.
        seed: of the noise.

    Raises:
        SettingsError: no photons.
    """

    counts = Component(Signal, value=0.0, kind=Kind.hinted)
    transmission = Component(Signal, value=1.0)
    sample = Component(Signal, value="film on silicon")

    def __init__(
        self, name: str, angle: Readable, *, photons: float = 1e9, seed: int = 0, **kwargs: Any
    ) -> None:
        if not photons > 0:
            raise SettingsError(f"{name}: photons={photons}, expected a positive number")
        super().__init__(name=name, **kwargs)
        self._angle, self._photons = angle, photons
        self._rng = np.random.default_rng(seed)

    def trigger(self) -> DeviceStatus:
        """Count at the present angle."""
        theta = float(self._angle.read()[self._angle.name]["value"])
        expected = self._photons * float(reflected(np.array([theta]))[0])
        share = next((t for t in ATTENUATORS if expected * t < MOST_COUNTS), ATTENUATORS[-1])
        self.transmission.put(share)
        self.counts.put(float(self._rng.poisson(expected * share)))
        status = DeviceStatus(self)
        status.set_finished()
        return status


def reflected(theta_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) share of the beam that film and background give at incidence angles (N,), degrees."""
    import torch

    from nfphasing_bluesky.physics.layers.reflectometer import smeared
    from nfphasing_bluesky.physics.reflectivity import Stack, reflectivity

    film, substrate = (FILM[f"{part}_e_per_cubic_angstrom"] for part in ("density_1", "substrate_density"))
    numbers = (
        [0.0, film, substrate],
        [0.0, 0.01 * film**2, 0.01 * substrate**2],
        [FILM["thickness_1_angstrom"]],
        [FILM["roughness_1_angstrom"], FILM["substrate_roughness_angstrom"]],
    )
    stack = Stack(*(torch.tensor([v], dtype=torch.float64) for v in numbers))
    unit = 4 * np.pi / WAVELENGTH_ANGSTROM
    theta = np.radians(theta_deg)
    q, dq = (torch.tensor(v)[None] for v in (unit * np.sin(theta), unit * np.cos(theta) * DTHETA_RAD))
    return smeared(lambda at: reflectivity(stack, at), q, dq, nodes=9)[0].numpy() + BACKGROUND


def metadata(detector: Device, angle: Device, planned: NDArray[np.float64]) -> dict[str, Any]:
    """Return what a run's start document says of its points and its sample."""
    return {
        "nfphasing": {
            "points": {
                "intensity": f"{detector.name}_counts",
                "theta": angle.name,
                "divide_by": [f"{detector.name}_transmission"],
                "wavelength_angstrom": WAVELENGTH_ANGSTROM,
                "dtheta_rad": DTHETA_RAD,
                "planned": [float(v) for v in planned],
            },
            "bounds": BOUNDS,
        }
    }
