"""The reflectivity of a film on silicon by refnx, measured with photons and a systematic floor."""

import numpy as np

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin
from tests.oracles.dream_film import refnx_film

TRUE = {
    "thickness_1_angstrom": 110.0,
    "density_1_e_per_cubic_angstrom": 1.9,
    "roughness_1_angstrom": 5.0,
    "substrate_density_e_per_cubic_angstrom": 0.71,
    "substrate_roughness_angstrom": 3.0,
    "absorption_1_cubic_angstrom_per_e": 0.04,
    "substrate_absorption_cubic_angstrom_per_e": 0.02,
    "q_offset_inv_angstrom": 0.0,
    "footprint_q_inv_angstrom": 0.004,
}
KNOWN = {
    "layers": (1, 1),
    "thickness_1_angstrom": (20, 250),
    "density_1_e_per_cubic_angstrom": (1.5, 2.4),
    "substrate_density_e_per_cubic_angstrom": (0.70, 0.72),
}
POINTS, Q_INV_ANGSTROM = 160, (0.012, 0.40)
PHOTONS, BACKGROUND, FLOOR = 1e8, 2e-8, 0.02


def film_frame(seed: int = 4) -> Frame:
    """One curve."""
    rng = np.random.default_rng(seed)
    q = np.linspace(*Q_INV_ANGSTROM, POINTS)
    expected = refnx_film(q, TRUE) + BACKGROUND
    # the attenuators come out as the intensity falls
    photons = PHOTONS * (q / q[0]) ** 2
    counts = rng.poisson(photons * expected * (1 + FLOOR * rng.standard_normal(POINTS)))
    sigma = np.hypot(np.sqrt(counts + 1) / photons, FLOOR * expected)
    return Frame(counts / photons, CurveGeometry(q), sigma, origin=Origin("film"), bounds=KNOWN)
