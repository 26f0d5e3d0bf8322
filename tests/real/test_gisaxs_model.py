"""`gisaxs1d` on gold spheres that BornAgain simulated and on silver particles measured at GALAXI.

Its intervals hold what is known; frames that no draw explains are ALARMs, with the flow's wide intervals.
"""

import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Frame,
    GrazingCutsGeometry,
    GrazingGeometry,
    Origin,
    Posterior,
    ReconstructionSettings,
)
from nfphasing_bluesky.documents.reduction import reduced
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.storage.readers import read_frames

R_E = 2.8179403e-5


@pytest.fixture(scope="module")
def reconstructor() -> Reconstructor:
    return Reconstructor.load("gisaxs1d", "cpu", ReconstructionSettings(n_samples=200, sigma_floor=0.1))


def holds(posterior: Posterior, name: str, low: float, high: float) -> bool:
    """Whether the 95 % interval of a parameter has something in common with another one."""
    summary = posterior.summary()[name]
    return summary.q025 <= high and summary.q975 >= low


@pytest.fixture(scope="module")
def gold(shared_data) -> tuple[Frame, dict]:
    """Cuts through 200 x 200 bins of angle, whose middles BornAgain's detector puts at arctangents."""
    folder = shared_data / "gisaxs/sim_bornagain_au_spheres"
    file = np.load(folder / "au_spheres_radial_paracrystal.npz")
    truth = json.loads((folder / "truth.json").read_text())
    k = 2 * math.pi / (10 * truth["wavelength_nm"])
    share = (np.arange(200) + 0.5) / 200
    ends = np.radians([file["alpha_f_deg"][[0, -1]], file["phi_f_deg"][[0, -1]]])
    exits, azimuths = (np.arctan(low + share * (high - low)) for low, high in ends)
    counts = file["counts"].astype(float)
    rows = (np.degrees(exits) >= 0.245) & (np.degrees(exits) <= 0.3)
    q_y = k * np.sin(azimuths) * np.cos(exits[rows].mean())
    columns = (np.abs(q_y) >= 0.0267) & (np.abs(q_y) <= 0.0297)
    # both sides of the plane of incidence
    along = counts[rows][:, 100:].sum(0) + counts[rows][:, 99::-1].sum(0)
    sums = np.concatenate([along, counts[:, columns].sum(1)])
    pixels = np.concatenate([np.full(100, 2.0 * rows.sum()), np.full(200, float(columns.sum()))])
    half, half_q = 0.5 * (exits[1] - exits[0]), 0.5 * (q_y[101] - q_y[100])
    geometry = GrazingCutsGeometry(
        q_y[100:],
        exits,
        (exits[rows][0] - half, exits[rows][-1] + half),
        (np.abs(q_y[columns]).min() - half_q, np.abs(q_y[columns]).max() + half_q),
        truth["wavelength_nm"] * 1e-9,
        math.radians(truth["alpha_i_deg"]),
    )
    mask = np.arange(300) < 3
    frame = Frame(sums / pixels, geometry, np.sqrt(np.maximum(sums, 1)) / pixels, mask, Origin("gold"))
    return frame, truth


def test_gold_spheres_lie_within_the_intervals(reconstructor, gold):
    frame, truth = gold
    (posterior,) = reconstructor([frame])
    radius, distance = 10 * truth["sphere_radius_nm"], 10 * truth["paracrystal_peak_distance_nm"]
    assert posterior.classes["supported"] > 0.9
    assert holds(posterior, "radius_angstrom", radius, radius)
    assert holds(posterior, "distance_angstrom", distance, distance)
    assert holds(posterior, "height_angstrom", 1.96 * radius, 2.04 * radius)
    density = truth["substrate"]["delta"] * 2 * math.pi / (R_E * (10 * truth["wavelength_nm"]) ** 2)
    assert holds(posterior, "substrate_density_e_per_cubic_angstrom", density, density)
    # it tells: half of the prior's width and less
    assert posterior.summary()["radius_angstrom"].q975 < 0.65 * 120


@pytest.fixture(scope="module")
def galaxi(shared_data, tmp_path_factory) -> Frame:
    """The measured frame from its file, cut where the program chooses to."""
    packed = (shared_data / "gisaxs/galaxi_ag_nanoparticles/galaxi_data.tif.gz").read_bytes()
    unpacked = tmp_path_factory.mktemp("galaxi") / "galaxi.tif"
    unpacked.write_bytes(gzip.decompress(packed))
    geometry = GrazingGeometry(
        1.34e-10, 1.73, (0.172e-3, 0.172e-3), (1043 - 323.4, 597.1), math.radians(0.463)
    )
    (frame,) = read_frames(unpacked, geometry=geometry)
    return reduced(frame)


def test_galaxi_is_cut_at_the_peak_of_its_film(galaxi):
    low, high = np.degrees(galaxi.geometry.exit_band_rad)
    assert 0.1 < low < high < 0.25
    assert galaxi.geometry.q_y_inv_angstrom[0] < 0.004 and galaxi.intensity.min() > 0


def test_silver_particles_are_in_their_film_and_of_the_published_size(reconstructor, galaxi):
    """Limits of the published fit, and the film and the silicon of its model."""
    (posterior,) = reconstructor([galaxi])
    assert posterior.classes["buried"] > 0.9
    assert holds(posterior, "radius_angstrom", 40, 60)
    assert holds(posterior, "distance_angstrom", 200, 700)
    assert holds(posterior, "film_thickness_angstrom", 185, 185)
    silicon = 5.782e-6 * 2 * math.pi / (R_E * 1.34**2)
    assert holds(posterior, "substrate_density_e_per_cubic_angstrom", silicon, silicon)
    band, noise = posterior.prediction, 2 * galaxi.sigma
    inside = (galaxi.intensity >= band.lower - noise) & (galaxi.intensity <= band.upper + noise)
    assert inside.mean() > 0.9


def test_a_wrong_incidence_angle_is_found_at_galaxi(shared_data, galaxi, tmp_path):
    packed = (shared_data / "gisaxs/galaxi_ag_nanoparticles/galaxi_data.tif.gz").read_bytes()
    (tmp_path / "galaxi.tif").write_bytes(gzip.decompress(packed))
    right = GrazingGeometry(1.34e-10, 1.73, (0.172e-3, 0.172e-3), (1043 - 323.4, 597.1), math.radians(0.463))
    wrong = replace(right, incidence_rad=math.radians(0.65))
    (frame,) = read_frames(tmp_path / "galaxi.tif", geometry=wrong)
    with pytest.raises(ValueError, match="surface scatters from row"):
        reduced(frame)
