"""Measured samples, from their files to fits within bounds and the posteriors that polish makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame, ReconstructionSettings
from nfphasing_bluesky.flows import Box
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.storage.readers import read_frames
from tests.untrained_layers import untrained_layers

CU_K_ALPHA1_ANGSTROM = 1.540593
RESOLUTION_RAD = np.radians(0.02)
KNOWN = {
    "layers": (4, 4),
    "thickness_1_angstrom": (80, 120),
    "thickness_2_angstrom": (15, 30),
    "thickness_3_angstrom": (20, 40),
    "thickness_4_angstrom": (35, 60),
    "density_1_e_per_cubic_angstrom": (0.9, 1.6),
    "density_2_e_per_cubic_angstrom": (2.6, 4.0),
    "density_3_e_per_cubic_angstrom": (1.9, 2.8),
    "density_4_e_per_cubic_angstrom": (2.6, 3.8),
    "substrate_density_e_per_cubic_angstrom": (0.6, 0.9),
    "absorption_1_cubic_angstrom_per_e": (0.0065, 0.0101),
    "absorption_2_cubic_angstrom_per_e": (0.0259, 0.0404),
    "absorption_3_cubic_angstrom_per_e": (0.0466, 0.0728),
    "absorption_4_cubic_angstrom_per_e": (0.0183, 0.0286),
    "substrate_absorption_cubic_angstrom_per_e": (0.0128, 0.0201),
}
"""What somebody who grew it would say; absorptions are those of the elements, within 25 %."""
THICKNESS_ANGSTROM = (100.19, 20.56, 27.59, 47.39)
FLOOR = 0.05


@pytest.fixture(scope="module")
def multilayer(shared_data) -> Frame:
    """Alumina, IrMn, CoFe and Ru on glass, up to where the counts end."""
    (frame,) = read_frames(
        shared_data / "reflectivity/ru_cofe_irmn_alox_multilayer/xrr_data.txt",
        q_unit="two_theta_degree",
        wavelength_angstrom=CU_K_ALPHA1_ANGSTROM,
    )
    q = frame.geometry.q_inv_angstrom
    used = (q > 0.03) & (q < 0.6)
    assert frame.sigma is not None
    dq = np.full(used.sum(), 4 * np.pi / CU_K_ALPHA1_ANGSTROM * RESOLUTION_RAD)
    return replace(
        frame,
        intensity=frame.intensity[used],
        sigma=frame.sigma[used],
        geometry=CurveGeometry(q[used], dq),
        bounds=KNOWN,
    )


def profile_error(shared_data, depth: np.ndarray, density: np.ndarray) -> float:
    """Relative L2 deviation from the reference's profile, both shifted to match: a curve has no zero of z."""
    folder = shared_data / "reflectivity/ru_cofe_irmn_alox_multilayer"
    height, electrons_per_cm3 = np.loadtxt(folder / "reference_density_profile.dat").T
    place, theirs = -height[::-1], electrons_per_cm3[::-1] * 1e-24
    shifted = [np.interp(place + shift, depth, density) for shift in np.linspace(-5, 5, 101)]
    return min(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours in shifted)


def test_the_fit_finds_the_layers_and_the_profile(multilayer, shared_data):
    subject = modality("reflectivity")
    batch = subject.collate([multilayer], FLOOR)
    anchor = subject.anchors(batch).get(4, torch.tensor([0]))
    width = anchor.location.shape[1]
    theta = Box(torch.zeros(width), torch.ones(width)).inverse(anchor.location, anchor.location)[0]
    theta = torch.nn.functional.pad(theta, (0, subject.width - width))
    draws = Draws(torch.tensor([4]), theta, torch.tensor([0]))
    nuisance = subject.evaluate(draws, batch).nuisance
    found = subject.report(draws, nuisance)
    for j, thickness in enumerate(THICKNESS_ANGSTROM, start=1):
        assert float(found[f"thickness_{j}_angstrom"]) == pytest.approx(thickness, rel=0.03)
    ours = subject.density(draws, nuisance)[0].numpy()
    assert profile_error(shared_data, subject.axis.numpy(), ours) < 0.10


def test_water_has_the_density_of_water(shared_data):
    # below q = 0.05 the curve is up to 43 % off any surface of water (see test_reflectivity_forward)
    settings = ReconstructionSettings(n_samples=384, polish_steps=30, sigma_floor=0.15)
    path = shared_data / "reflectivity/water_helium_sirius/SIRIUS_2024_09_20_4446-4530_XRR.dat"
    (frame,) = read_frames(path)
    known = {"layers": (0, 0), "q_offset_inv_angstrom": (-1e-4, 1e-4)}
    (posterior,) = untrained_layers(settings)([replace(frame, bounds=known)])
    density = posterior.summary()["substrate_density_e_per_cubic_angstrom"]
    assert density.q025 < 0.334 < density.q975
    assert density.median == pytest.approx(0.334, rel=0.02)
    roughness = posterior.summary()["substrate_roughness_angstrom"]
    # GenX: 3.143, -0.056 and +0.065 for one standard deviation
    assert roughness.q975 > 3.143 - 2 * 0.056
    assert roughness.q025 < 3.143 + 2 * 0.065
    assert posterior.trust.reduced_chi2 < 1.0
