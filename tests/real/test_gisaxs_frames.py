"""`gisaxs2d` on whole frames: gold spheres by BornAgain, silver particles measured at GALAXI."""

import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Frame, GrazingGeometry, Origin, Posterior, ReconstructionSettings, Verdict
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.unit_box import unit_box
from nfphasing_bluesky.physics.grazing.reflected_beam import incidence_doubt
from nfphasing_bluesky.storage.readers import read_frames

DRAWS = 200


def of_fits(frame: Frame, name: str, floor: float) -> tuple[dict[str, tuple[float, float]], float]:
    """95 % intervals of draws around the fits of a class, and the least reduced chi-squared of the draws."""
    subject = modality("gisaxs2d")
    k = [c.name for c in subject.classes].index(name)
    batch, width = subject.collate([frame], floor), len(subject.classes[k].free)
    nothing = torch.zeros(1, 0, width)
    fits = subject.fits_again(k, nothing, batch, subject.anchors(batch).get(k, torch.tensor([0])))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(fits.log_share[0].exp(), DRAWS, True, generator=generator)[:, None]
    noise = torch.randn(DRAWS, 1, width, generator=generator, dtype=torch.float64)
    zero = torch.zeros_like(chosen)
    y = fits.at(zero[:, 0]).place(noise.transpose(0, 1), chosen.T)[0]
    theta = unit_box(width, y.device).inverse(y, y)[0].float()
    padded = torch.nn.functional.pad(theta, (0, subject.width - width))
    draws = Draws(zero[:, 0] + k, padded, zero[:, 0])
    found = subject.evaluate(draws, batch)
    chi2 = subject.reduced_chi2(batch.at(zero[:, 0]), found.predicted)
    report = subject.report(draws, found.nuisance)
    ends = torch.tensor([0.025, 0.975])
    return {n: tuple(v.quantile(ends).tolist()) for n, v in report.items()}, float(chi2.min())


@pytest.fixture(scope="module")
def gold(shared_data) -> tuple[Frame, dict[str, float]]:
    """200 x 200 bins of angle, whose middles BornAgain's detector puts at arctangents: a flat detector's."""
    folder = shared_data / "gisaxs/sim_bornagain_au_spheres"
    counts = np.load(folder / "au_spheres_radial_paracrystal.npz")["counts"].astype(float)
    truth = json.loads((folder / "truth.json").read_text())
    incidence = math.radians(truth["alpha_i_deg"])
    geometry = GrazingGeometry(
        1e-9 * truth["wavelength_nm"],
        1.0,
        (math.radians(2.4) / 200,) * 2,
        (0.0, 100.0),
        incidence,
        normal_rad=incidence,
        rows_up=True,
    )
    density = truth["substrate"]["delta"] * 2 * math.pi / (2.8179403e-5 * (10 * truth["wavelength_nm"]) ** 2)
    expected = {
        "radius_angstrom": 10 * truth["sphere_radius_nm"],
        "height_angstrom": 20 * truth["sphere_radius_nm"],
        "distance_angstrom": 10 * truth["paracrystal_peak_distance_nm"],
        "substrate_density_e_per_cubic_angstrom": density,
    }
    return Frame(counts, geometry, origin=Origin("gold")), expected


def reconstructed(frame: Frame, floor: float) -> Posterior:
    settings = ReconstructionSettings(n_samples=200, sigma_floor=floor)
    (posterior,) = Reconstructor.load("gisaxs2d", "cpu", settings)([frame])
    assert isinstance(posterior, Posterior)
    return posterior


def test_gold_spheres_are_found_without_weights(gold):
    found, _ = of_fits(gold[0], "spheroids", 0.03)
    for name, value in gold[1].items():
        low, high = found[name]
        assert low <= value <= high and high - low < 0.2 * value, name


def test_gold_spheres_lie_within_the_intervals(gold):
    posterior = reconstructed(gold[0], 0.1)
    assert posterior.trust.verdict is Verdict.VALID and posterior.classes["spheroids"] > 0.9
    for name, value in gold[1].items():
        summary = posterior.summary()[name]
        assert summary.q025 <= value <= summary.q975, name
        if name != "substrate_density_e_per_cubic_angstrom":
            assert summary.median == pytest.approx(value, rel=0.02), name


@pytest.fixture
def silver(shared_data, tmp_path) -> Frame:
    """Silver spheres in a polymer film on silica."""
    packed = (shared_data / "gisaxs/galaxi_ag_nanoparticles/galaxi_data.tif.gz").read_bytes()
    (tmp_path / "galaxi.tif").write_bytes(gzip.decompress(packed))
    geometry = GrazingGeometry(
        1.34e-10, 1.73, (0.172e-3, 0.172e-3), (1043 - 323.4, 597.1), math.radians(0.463)
    )
    (frame,) = read_frames(tmp_path / "galaxi.tif", geometry=geometry)
    return frame


def test_an_angle_that_is_off_at_galaxi_is_told_by_the_reflected_beam(silver):
    assert incidence_doubt(silver) == ""
    geometry = replace(silver.geometry, incidence_rad=silver.geometry.incidence_rad - math.radians(0.05))
    words = incidence_doubt(replace(silver, geometry=geometry))
    assert "an incidence angle of 0.461 degrees" in words and "0.413 are given" in words


def test_gold_of_a_simulation_has_no_doubt(gold):
    assert incidence_doubt(gold[0]) == ""


def test_silver_particles_have_the_published_size_and_distance(silver):
    """Within the limits of the published fit."""
    posterior = reconstructed(silver, 0.1)
    assert posterior.trust.verdict is Verdict.VALID and posterior.classes["buried_spheroids"] > 0.95
    found = posterior.summary()
    # spheroids of one aspect stand for its spheres, so its limits count within 10 %
    limits = {"radius_angstrom": (36, 66), "distance_angstrom": (180, 770)}
    for name, (low, high) in limits.items():
        assert found[name].q025 <= high and found[name].q975 >= low, name
        assert low <= found[name].median <= high, name
