"""The posterior of a sphere curve by another route: bumps DREAM over sasmodels' form factor.

The likelihood, the priors and their bounds are those of the sphere class of `saxs1d-particles`; the curve is
not: sasmodels sums spheres over a Schulz distribution, where this package has a closed form.
"""

import contextlib
import io
import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.modalities.saxs1d_particles import CLASSES, SaxsParticles

Array = NDArray[np.float64]
SPHERE = CLASSES[0]
BACKGROUND = SaxsParticles.background
NAMES = ("radius_angstrom", "polydispersity", "i0", "background")
NSIGMAS = 10.0
MIN_SIZES, SIZES_PER_FRINGE = 40, 1.2
"""Of the sum over sizes: within 2e-6 of the curve of 2,000 sizes, and not slower than it has to be."""
FORWARD_Q = 1e-6
SCALE_DECADES = 3.0


class SphereCurve:
    """P(q) of Schulz-distributed spheres by sasmodels, normalised to P(0) = 1.

    Args:
        q: (Q,) 1/angstrom.
    """

    def __init__(self, q: Array) -> None:
        from sasmodels import core, direct_model

        self.q_max, self.evaluations = float(q[-1]), 0
        self._call = direct_model.call_kernel
        model = core.build_model(core.load_model_info("sphere"), dtype="double!", platform="dll")
        self._kernel = model.make_kernel([np.concatenate([[FORWARD_Q], q])])

    def __call__(self, radius: float, polydispersity: float) -> Array:
        """(Q,) P(q); as many sizes as the fringes at the largest q need."""
        self.evaluations += 1
        sizes = max(MIN_SIZES, math.ceil(SIZES_PER_FRINGE * NSIGMAS * self.q_max * radius * polydispersity))
        parameters = {
            "scale": 1.0,
            "background": 0.0,
            "sld": 2.0,
            "sld_solvent": 1.0,
            "radius": radius,
            "radius_pd": polydispersity,
            "radius_pd_n": sizes,
            "radius_pd_nsigma": NSIGMAS,
            "radius_pd_type": "schulz",
        }
        values = self._call(self._kernel, parameters)
        return values[1:] / values[0]


@dataclass(frozen=True, eq=False)
class Dreamt:
    """What DREAM gave.

    Args:
        draws: name -> (n,) draws, named as the modality names its parameters.
        seconds: of the sampling alone, burn-in included; compiling and the search for a start are left out.
        evaluations: curves computed in that time.
    """

    draws: dict[str, Array]
    seconds: float
    evaluations: int


def dream_sphere(
    q: Array, intensity: Array, sigma: Array, draws: int, seed: int, *, burn: int = 100, population: int = 10
) -> Dreamt:
    """Sample the posterior of radius, polydispersity, I(0) and background of a sphere curve.

    Args:
        q: (Q,) 1/angstrom.
        intensity: (Q,).
        sigma: (Q,) standard deviation, with the systematic floor in it where there is one.
        draws: how many, of all chains together.
        seed: of everything random.
        burn: generations left out, DREAM's default.
        population: chains per parameter, DREAM's default.
    """
    from bumps.curve import Curve
    from bumps.fitters import fit
    from bumps.names import FitProblem
    from bumps.util import push_seed

    curve = SphereCurve(q)

    def model(x, log_radius, polydispersity, log_scale, log_beta):
        return math.exp(log_scale) * (curve(math.exp(log_radius), polydispersity) + math.exp(log_beta))

    start = starting_point(curve, intensity, sigma)
    experiment = Curve(model, q, intensity, sigma, **start)
    for name, (low, high) in _bounds(start).items():
        getattr(experiment, name).range(low, high)
    problem = FitProblem(experiment)
    # `trim` would change how many draws there are. The first fit of a process compiles parts of bumps.
    options = {"pop": population, "trim": False}
    with push_seed(seed), contextlib.redirect_stdout(io.StringIO()):  # outliers are announced there
        fit(problem, method="dream", samples=1, burn=1, **options)
        curve.evaluations, began = 0, time.perf_counter()
        state = fit(problem, method="dream", samples=draws, burn=burn, **options).state
        seconds = time.perf_counter() - began
    drawn = state.draw()
    points = dict(zip(problem.labels(), drawn.points.T, strict=True))
    kept = np.linspace(0, len(drawn.points) - 1, draws).round().astype(int)
    scale = np.exp(points["log_scale"])
    values = (
        np.exp(points["log_radius"]),
        points["polydispersity"],
        scale,
        scale * np.exp(points["log_beta"]),
    )
    return Dreamt({name: v[kept] for name, v in zip(NAMES, values, strict=True)}, seconds, curve.evaluations)


def starting_point(curve: SphereCurve, intensity: Array, sigma: Array) -> dict[str, float]:
    """Best of a coarse grid over size and spread; scale and background by least squares."""
    best, start = math.inf, {}
    for log_radius in np.linspace(SPHERE.lower[0], SPHERE.upper[0], 60)[1:-1]:
        for spread in (0.03, 0.1, 0.2, 0.3):
            shape = curve(math.exp(log_radius), spread)
            design = np.stack([shape, np.ones_like(shape)], axis=1) / sigma[:, None]
            (scale, offset), *_ = np.linalg.lstsq(design, intensity / sigma, rcond=None)
            if scale <= 0:
                continue
            beta = float(np.clip(offset / scale, 2 * BACKGROUND.lower, BACKGROUND.upper / 2))
            chi2 = float(np.sum(((intensity - scale * (shape + beta)) / sigma) ** 2))
            if chi2 < best:
                best = chi2
                start = {
                    "log_radius": float(log_radius),
                    "polydispersity": spread,
                    "log_scale": math.log(scale),
                    "log_beta": math.log(beta),
                }
    if not start:
        raise ValueError("no sphere fits this curve with a positive scale; is it a sphere's?")
    return start


def _bounds(start: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Bounds of the uniform priors; that of the scale, which has none, are far from the data's."""
    reach = SCALE_DECADES * math.log(10)
    return {
        "log_radius": (SPHERE.lower[0], SPHERE.upper[0]),
        "polydispersity": (SPHERE.lower[1], SPHERE.upper[1]),
        "log_scale": (start["log_scale"] - reach, start["log_scale"] + reach),
        "log_beta": (math.log(BACKGROUND.lower), math.log(BACKGROUND.upper)),
    }
