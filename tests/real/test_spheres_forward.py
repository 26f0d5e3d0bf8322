"""Spheres simulated and reconstructed by hotopy: our hologram of the true phase, our CTF of its counts."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics import counting, holography


@pytest.fixture(scope="module")
def spheres(shared_data):
    return np.load(shared_data / "holography/sim_hotopy_spheres/spheres_hologram.npz")


def test_hologram_of_the_true_phase(spheres):
    phase = torch.from_numpy(spheres["phase_true"])[None]
    wave = holography.homogeneous_exit_wave(phase, float(spheres["beta_over_delta"]))
    found = holography.hologram(wave, float(spheres["fresnel_number_pixel"]))
    assert np.abs(found[0].numpy() - spheres["intensity_noisefree"]).max() < 2e-4
    photons = float(spheres["photons_per_pixel"])
    chi2 = counting.pearson_chi2(torch.from_numpy(spheres["counts"])[None], photons * found)
    assert float(chi2) == pytest.approx(1, abs=0.01)


def test_ctf_phase_next_to_hotopys(spheres):
    counts = torch.from_numpy(spheres["counts"]).float()[None]
    found = holography.ctf_phase(
        counts / float(spheres["photons_per_pixel"]),
        float(spheres["fresnel_number_pixel"]),
        [(0.0, 0.1), (1e-4, 0.1)],
        beta_over_delta=float(spheres["beta_over_delta"]),
    )
    truth = spheres["phase_true"].ravel()
    ours = [np.corrcoef(image.ravel(), truth)[0, 1] for image in found[0].numpy()]
    theirs = np.corrcoef(spheres["phase_ctf_hotopy"].ravel(), truth)[0, 1]
    assert theirs == pytest.approx(0.985, abs=1e-3)
    assert max(ours) > 0.988 and min(ours) > theirs
