"""The shipped reflectivity model on measured samples, and on what another code simulated."""

from dataclasses import replace

import numpy as np
import pytest

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin, Posterior, ReconstructionSettings, Verdict
from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.storage.readers import read_frames
from tests.real.test_reflectivity_fit import THICKNESS_ANGSTROM, multilayer, profile_error  # noqa: F401

FILM = {
    "layers": (3, 3),
    "thickness_1_angstrom": (100.0, 300.0),
    "thickness_2_angstrom": (20.0, 50.0),
    "thickness_3_angstrom": (10.0, 30.0),
    "density_1_e_per_cubic_angstrom": (0.25, 0.6),
    "density_2_e_per_cubic_angstrom": (3.5, 4.8),
    "density_3_e_per_cubic_angstrom": (0.5, 0.8),
    "substrate_density_e_per_cubic_angstrom": (0.68, 0.74),
    "footprint_q_inv_angstrom": (0.003, 0.004),
    "q_offset_inv_angstrom": (-1e-5, 1e-5),
}
"""What somebody knows of an organic film on gold on oxidised silicon, on a good diffractometer."""


def posterior_of(frame: Frame, **settings) -> Posterior:
    chosen = ReconstructionSettings(n_samples=500, **settings)
    (posterior,) = Reconstructor.load("reflectivity", "cpu", chosen)([frame])
    assert isinstance(posterior, Posterior), posterior
    return posterior


def test_water_has_its_density_and_roughness(shared_data):
    path = shared_data / "reflectivity/water_helium_sirius/SIRIUS_2024_09_20_4446-4530_XRR.dat"
    (frame,) = read_frames(path)
    known = {"layers": (0, 0), "q_offset_inv_angstrom": (-1e-4, 1e-4)}
    # below q = 0.05 the curve is up to 43 % off any surface of water (see test_reflectivity_forward)
    posterior = posterior_of(replace(frame, bounds=known), sigma_floor=0.15, polish_steps=30)
    density = posterior.summary()["substrate_density_e_per_cubic_angstrom"]
    assert density.q025 < 0.334 < density.q975
    assert density.median == pytest.approx(0.334, rel=0.02)
    roughness = posterior.summary()["substrate_roughness_angstrom"]
    assert roughness.q025 < 3.143 + 2 * 0.065 and roughness.q975 > 3.143 - 2 * 0.056


@pytest.fixture(scope="module")
def of_the_multilayer(multilayer) -> Posterior:  # noqa: F811
    # the curve of the reference's own fit is 19 % off in the logarithm, that of these draws 9 %
    return posterior_of(multilayer, sigma_floor=0.2)


def test_the_density_profile_of_the_multilayer_is_that_of_the_reference(of_the_multilayer, shared_data):
    (depth,) = of_the_multilayer.density.axes
    assert profile_error(shared_data, depth.values, of_the_multilayer.mean) < 0.10


def test_the_multilayer_has_its_thicknesses(of_the_multilayer):
    summary = of_the_multilayer.summary()
    for j, thickness in enumerate(THICKNESS_ANGSTROM, start=1):
        found = summary[f"thickness_{j}_angstrom"]
        close = found.median == pytest.approx(thickness, rel=0.03)
        assert close or found.q025 <= thickness <= found.q975, f"layer {j}"
        assert found.q975 - found.q025 < 0.15 * thickness, f"layer {j}"


@pytest.mark.parametrize("polish_steps", [0, 24])
def test_the_truths_of_refnx_are_inside(shared_data, polish_steps):
    stored = np.load(shared_data / "reflectivity/sim_refnx_xrr/xrr_org_au_sio2_si.npz")
    geometry = CurveGeometry(stored["q"])
    frame = Frame(stored["R"], geometry, stored["dR"], origin=Origin("refnx"), bounds=FILM)
    posterior = posterior_of(frame, polish_steps=polish_steps)
    assert posterior.trust.reduced_chi2 < 1.0
    assert posterior.trust.verdict is not Verdict.ALARM
    summary = posterior.summary()
    slabs = stored["slabs"]
    density = slabs[:, 1] * 1e-6 / ELECTRON_RADIUS_ANGSTROM
    truth = {
        "substrate_density_e_per_cubic_angstrom": density[4],
        "substrate_roughness_angstrom": slabs[4, 3],
    }
    for j in (1, 2, 3):
        truth[f"thickness_{j}_angstrom"] = slabs[j, 0]
        truth[f"density_{j}_e_per_cubic_angstrom"] = density[j]
        truth[f"roughness_{j}_angstrom"] = slabs[j, 3]
    for name in ("thickness_1_angstrom", "thickness_2_angstrom", "roughness_2_angstrom"):
        assert summary[name].median == pytest.approx(truth[name], rel=0.01)
    wrong = {
        name: value
        for name, value in truth.items()
        if not summary[name].q025 <= value <= summary[name].q975
        and summary[name].median != pytest.approx(value, rel=1e-3)
    }
    assert not wrong
