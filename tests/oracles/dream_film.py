"""The posterior of a film's reflectivity by another route: bumps DREAM over refnx.

The likelihood, the priors and their bounds are those of one layer of `reflectivity`; the curve is refnx's.
"""

import contextlib
import io
import math

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.modalities.layers.layer_prior import QUANTITIES, ROUGH_SHARE, columns
from nfphasing_bluesky.modalities.reflectivity import Reflectivity

Array = NDArray[np.float64]
FREE = tuple(QUANTITIES[c] for c in columns(1))
NAMES = tuple(q.name for q in FREE)
BACKGROUND = Reflectivity.background
SCALE_DECADES = 1.0


def refnx_film(q: Array, values: dict[str, float]) -> Array:
    """(Q,) share of the beam that a film on a substrate reflects, footprint and angle offset in it."""
    from refnx.reflect import reflectivity

    thickness, density = values["thickness_1_angstrom"], values["density_1_e_per_cubic_angstrom"]
    substrate = values["substrate_density_e_per_cubic_angstrom"]
    rough = [values["roughness_1_angstrom"], values["substrate_roughness_angstrom"]]
    rough = [s * (1 + (s / (ROUGH_SHARE * thickness)) ** 4) ** -0.25 for s in rough]
    absorption = values["absorption_1_cubic_angstrom_per_e"] * density**2
    below = values["substrate_absorption_cubic_angstrom_per_e"] * substrate**2
    unit = 1e6 * ELECTRON_RADIUS_ANGSTROM
    slabs = np.array(
        [
            [0, 0, 0, 0],
            [thickness, unit * density, unit * absorption, rough[0]],
            [0, unit * substrate, unit * below, rough[1]],
        ]
    )
    found = reflectivity(q + values["q_offset_inv_angstrom"], slabs, dq=0.0)
    return found * np.minimum(1.0, q / values["footprint_q_inv_angstrom"])


def dream_film(
    q: Array,
    intensity: Array,
    sigma: Array,
    bounds: dict[str, tuple[float, float]],
    start: dict[str, float],
    draws: int,
    seed: int,
) -> dict[str, Array]:
    """Name -> draws of the parameters of one layer.

    Args:
        q: (Q,) 1/angstrom.
        intensity: (Q,).
        sigma: (Q,) standard deviation.
        bounds: as a frame has them; the widest where a name is missing.
        start: values to begin at, scale and relative background among them.
        draws: how many, of all chains together.
        seed: of everything random.
    """
    from bumps.curve import Curve
    from bumps.fitters import fit
    from bumps.names import FitProblem
    from bumps.util import push_seed

    def model(x, p0, p1, p2, p3, p4, p5, p6, p7, p8, log_scale, log_beta):  # bumps reads the names
        place = (p0, p1, p2, p3, p4, p5, p6, p7, p8)
        values = {p.name: math.exp(v) if p.log else v for p, v in zip(FREE, place, strict=True)}
        return math.exp(log_scale) * (refnx_film(x, values) + math.exp(log_beta))

    keys = [f"p{i}" for i in range(len(FREE))]
    first = {k: p.coordinate(start[p.name]) for k, p in zip(keys, FREE, strict=True)}
    first |= {"log_scale": math.log(start["scale"]), "log_beta": math.log(start["beta"])}
    experiment = Curve(model, q, intensity, sigma, **first)
    for key, p in zip(keys, FREE, strict=True):
        low, high = bounds.get(p.name, (p.lower, p.upper))
        getattr(experiment, key).range(p.coordinate(low), p.coordinate(high))
    reach = SCALE_DECADES * math.log(10)
    experiment.log_scale.range(first["log_scale"] - reach, first["log_scale"] + reach)
    experiment.log_beta.range(math.log(BACKGROUND.lower), math.log(BACKGROUND.upper))
    problem = FitProblem(experiment)
    with push_seed(seed), contextlib.redirect_stdout(io.StringIO()):  # outliers are announced there
        fitted = fit(problem, method="dream", samples=draws, burn=400, pop=5, trim=False)
    drawn = fitted.state.draw()
    points = dict(zip(problem.labels(), drawn.points.T, strict=True))
    return {p.name: np.exp(points[k]) if p.log else points[k] for k, p in zip(keys, FREE, strict=True)}
