"""GALAXI's silver particles: a BornAgain fit from the posterior's mean, and from its example's start values.

Radius, spread and distance of the spheres, the three parameters of BornAgain's own example, are fitted within
its limits, and with them what the example has wrong (`tests/real/test_gisaxs_forward.py`): thickness and
density of the film that holds them, the film below, disorder and coupling. A scale and a background are
solved for. Square roots of counts are compared, whose errors are alike, and least squares come from scipy,
since BornAgain 25 has no minimiser of its own. What counts are simulations.
"""

import gzip
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fabio.tifimage import TifImage
from numpy.typing import NDArray
from scipy.optimize import least_squares

from nfphasing_bluesky.core import GrazingGeometry, Posterior, ReconstructionSettings
from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.documents.reduction import reduced
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.storage.readers import read_frames
from tests.benchmarks.figures import Figure

DATA = Path(__file__).parents[3] / "shared/data/gisaxs/galaxi_ag_nanoparticles/galaxi_data.tif.gz"
FLOOR = 0.2
"""Relative error at which the model's two layers explain the frame."""

COLOUR = (0.5, 0.5, 0.5)
WAVELENGTH_NM, INCIDENCE_RAD = 0.134, math.radians(0.463)
PIXEL_M, DISTANCE_M, BEAM_PX = 0.172e-3, 1.73, (323.4, 597.1)
"""Row of the direct beam from below, and its column."""
ROWS, COLUMNS, BINNED = slice(406, 534), slice(494, 694), 4
STOP = slice(477, 496), slice(592, 603)
AIR, HMDSO, PTFE, SILICON, SILVER = (
    (0.0, 0.0),
    (2.0888308e-6, 1.32605651e-8),
    (5.20508729e-6, 1.96944292e-8),
    (5.78164736e-6, 1.02294578e-7),
    (2.24749529e-5, 1.61528396e-6),
)
SIZES, REACH = 20, 2.0
# name: (lower limit, upper limit, start value of the example or its fixed value)
FITTED = {
    "radius_nm": (4.0, 6.0, 5.0),
    "spread": (0.2, 0.8, 0.55),
    "distance_nm": (20.0, 70.0, 27.0),
    "disorder_nm": (3.0, 40.0, 10.5),
    "coupling": (0.0, 20.0, 17.5),
    "film_nm": (14.0, 30.0, 18.5),
    "film_delta": (1.5e-6, 6e-6, 2.0888308e-6),
    "lower_nm": (5.0, 50.0, 22.1),
}
LIMITS = tuple(zip(*((low, high) for low, high, _ in FITTED.values()), strict=True))
EXAMPLE = tuple(start for _, _, start in FITTED.values())
CLOSE = 1.01
"""Misfit over the least one from which a fit is as good as done."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """What is fitted: mean counts of binned pixels (H, W) and bool, which of them are used."""

    mean: Vector
    used: NDArray[np.bool_]

    @classmethod
    def of(cls, frame: NDArray[Any]) -> "Region":
        """Take it from the whole frame, row 0 on top."""
        upright = frame[::-1].astype(np.float64)
        seen = upright >= 0
        seen[STOP] = False
        blocks = []
        for values in (np.where(seen, upright, 0.0), seen.astype(np.float64)):
            part = values[ROWS, COLUMNS]
            shape = part.shape[0] // BINNED, BINNED, part.shape[1] // BINNED, BINNED
            blocks.append(part.reshape(shape).sum((1, 3)))
        total, pixels = blocks
        return cls(total / np.maximum(pixels, 1), pixels > 0)


def pattern(
    ba: Any,
    radius_nm: float,
    spread: float,
    distance_nm: float,
    disorder_nm: float,
    coupling: float,
    film_nm: float,
    film_delta: float,
    lower_nm: float,
) -> Vector:
    """(H, W) that BornAgain simulates; what is not given is as published."""
    media = (AIR, (film_delta, HMDSO[1] / HMDSO[0] * film_delta), PTFE, SILICON)
    materials = [ba.RefractiveMaterial(str(i), COLOUR, *m) for i, m in enumerate(media)]
    # spheres on the film's bottom that fit in
    largest = min(REACH, math.log(film_nm / (2 * radius_nm)) / spread)
    place = np.linspace(-REACH, largest, SIZES)
    share = np.exp(-0.5 * place**2)
    silver, mixture = ba.RefractiveMaterial("silver", COLOUR, *SILVER), ba.Mixture()
    for radius, part in zip(radius_nm * np.exp(spread * place), share / share.sum(), strict=True):
        mixture.addParticle(ba.Particle(silver, ba.Sphere(float(radius))), float(part))
    order = ba.RadialParacrystal(mixture, distance_nm, 1e6)
    order.setKappa(coupling)
    order.setProbabilityDistribution(ba.Profile1DGauss(disorder_nm))
    rough = [
        ba.Roughness(ba.SelfAffineFractalModel(s, 0.3, 5.0, 0.5), ba.ErfTransient(), None) for s in (1.1, 2.3)
    ]
    film = ba.Layer(materials[1], film_nm, rough[0])
    film.deposit2D(order)
    sample = ba.Sample()
    for layer in (
        ba.Layer(materials[0]),
        film,
        ba.Layer(materials[2], lower_nm, rough[1]),
        ba.Layer(materials[3]),
    ):
        sample.addLayer(layer)
    ends = [
        (np.array([part.start, part.stop]) - centre) * PIXEL_M / DISTANCE_M
        for part, centre in zip((ROWS, COLUMNS), BEAM_PX, strict=True)
    ]
    (low, high), (left, right) = ends
    counts = [(part.stop - part.start) // BINNED for part in (ROWS, COLUMNS)]
    detector = ba.SphericalDetector(
        counts[1],
        float(left),
        float(right),
        counts[0],
        float(low) - INCIDENCE_RAD,
        float(high) - INCIDENCE_RAD,
    )
    beam = ba.Beam(1.2e7, WAVELENGTH_NM, INCIDENCE_RAD)
    simulation = ba.ScatteringSimulation(beam, sample, detector)
    simulation.options().setNumberOfThreads(1)
    found: Vector = simulation.simulate().intensities()
    return found


def residual(region: Region, simulated: Vector) -> Vector:
    """(P,) difference of square roots, after the scale and the background that suit best."""
    measured, model = region.mean[region.used], np.maximum(simulated[region.used], 0.0)
    weight = 1 / np.sqrt(np.maximum(measured, 1.0))
    design = np.stack([model, np.ones_like(model)], 1) * weight[:, None]
    scale, background = np.linalg.lstsq(design, measured * weight, rcond=None)[0]
    return np.sqrt(np.maximum(scale * model + background, 0.0)) - np.sqrt(measured)


@dataclass(frozen=True)
class Descent:
    """A fit: parameters and misfit of every simulation that it took."""

    places: tuple[tuple[float, ...], ...]
    misfits: tuple[float, ...]

    @property
    def best(self) -> tuple[float, ...]:
        """Parameters of least misfit."""
        return self.places[int(np.argmin(self.misfits))]

    def simulations(self, least: float) -> int:
        """How many it took to come close to the least misfit; all and one more where it never did."""
        close = np.flatnonzero(np.array(self.misfits) <= CLOSE * least)
        return int(close[0]) + 1 if close.size else len(self.misfits) + 1


def descend(simulate: Callable[..., Vector], region: Region, start: tuple[float, ...]) -> Descent:
    """Fit from start values, which are brought within the limits."""
    low, high = (np.array(edge) for edge in LIMITS)
    width = high - low
    places, misfits = [], []

    def difference(share: Vector) -> Vector:
        place = tuple(float(v) for v in low + width * share)
        found = residual(region, simulate(*place))
        places.append(place)
        misfits.append(float(np.square(found).mean()))
        return found

    begin = np.clip((np.array(start) - low) / width, 0.02, 0.98)
    least_squares(difference, begin, bounds=(0, 1), diff_step=1e-3, xtol=1e-4, ftol=1e-5, gtol=None)
    return Descent(tuple(places), tuple(misfits))


def against_example() -> list[Figure]:
    """Simulations that BornAgain's fit takes from both starts until it is close to the least misfit."""
    import bornagain

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "galaxi.tif"
        path.write_bytes(gzip.decompress(DATA.read_bytes()))
        region = Region.of(TifImage().read(str(path)).data)
        starts = {"example": EXAMPLE, "posterior mean": posterior_mean(path)}
    simulate = partial(pattern, bornagain)
    fits = {name: descend(simulate, region, start) for name, start in starts.items()}
    least = min(min(fit.misfits) for fit in fits.values())
    spent = {name: fit.simulations(least) for name, fit in fits.items()}
    how = ", ".join(f"{name}: {spent[name]}, {len(fit.misfits)} in all" for name, fit in fits.items())
    return [
        Figure(
            "BornAgain's fit of GALAXI, simulations from the posterior mean",
            spent["posterior mean"],
            "simulations",
            spent["example"] - 1,
            "lower",
            f"to 1 % over the least misfit {least:.4g} of both; {how}",
        )
    ]


def posterior_mean(path: Path) -> tuple[float, ...]:
    """What `gisaxs1d` makes of the frame, in the order and the units of `FITTED`."""
    geometry = GrazingGeometry(
        10 * WAVELENGTH_NM * 1e-10,
        DISTANCE_M,
        (PIXEL_M, PIXEL_M),
        (1043 - BEAM_PX[0], BEAM_PX[1]),
        INCIDENCE_RAD,
    )
    (frame,) = read_frames(path, geometry=geometry)
    settings = ReconstructionSettings(n_samples=256, sigma_floor=FLOOR)
    (posterior,) = Reconstructor.load("gisaxs1d", "cpu", settings)([reduced(frame)])
    if not isinstance(posterior, Posterior):
        raise RuntimeError(posterior.reason)
    mean = {name: float(np.nanmean(draws)) for name, draws in posterior.parameters.items()}
    delta = ELECTRON_RADIUS_ANGSTROM * (10 * WAVELENGTH_NM) ** 2 / (2 * math.pi)
    return (
        mean["radius_angstrom"] / 10,
        mean["spread"],
        mean["distance_angstrom"] / 10,
        mean["disorder_angstrom"] / 10,
        mean["coupling"],
        mean["film_thickness_angstrom"] / 10,
        mean["film_density_e_per_cubic_angstrom"] * delta,
        mean["lower_thickness_angstrom"] / 10,
    )
