"""Oriented cylinders simulated by sasmodels: our pattern of the true parameters, and its Poisson chi2.

The data were made with few nodes for each angle and radius, and without the nodes whose product of weights
is below sasmodels' default cutoff of 1e-5. On the same mesh the pattern is reproduced; the integral that the
mesh stands for differs from it by some percent where few nodes contribute.
"""

import json

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics import counting, saxs2d
from nfphasing_bluesky.physics.particles.oriented import (
    Gaussian,
    Orientation,
    Spread,
    equispaced_gaussian,
    gaussian_sizes,
    moment,
)

CUTOFF = 1e-5
SIZE_CUT = 3.0


@pytest.fixture(scope="module")
def data(shared_data):
    folder = shared_data / "saxs2d/sim_sasmodels_oriented_cylinder"
    return np.load(folder / "oriented_cylinder.npz"), json.loads((folder / "truth.json").read_text())


@pytest.fixture(scope="module")
def plane(data):
    qy, qx = np.meshgrid(data[0]["qy"], data[0]["qx"], indexing="ij")
    return saxs2d.plane(torch.from_numpy(qx), torch.from_numpy(qy), 330.0)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def nodes(truth: dict, name: str) -> Spread:
    sigma = torch.deg2rad(tensor(truth[f"{name}_pd"]))
    return equispaced_gaussian(sigma, truth[f"{name}_pd_n"], truth[f"{name}_pd_nsigma"])


def on_mesh(plane: saxs2d.Plane, truth: dict, cutoff: float) -> torch.Tensor:
    """The pattern summed over sasmodels' mesh: one cylinder for each radius and theta."""
    theta, phi = nodes(truth, "theta"), nodes(truth, "phi")
    sizes = equispaced_gaussian(tensor(truth["radius_pd"]), truth["radius_pd_n"], SIZE_CUT)
    outer = sizes.weights[0][:, None] * (theta.weights * theta.values.cos())[0]
    weights = outer.flatten()[:, None] * phi.weights
    weights = torch.where(weights > cutoff, weights, 0)
    total = weights.sum(1)
    radius = truth["radius"] * (1 + sizes.values[0]).repeat_interleave(theta.values.shape[1])
    ones = torch.ones_like(radius)
    angles = [np.radians(truth[name]) * ones for name in ("theta", "phi")]
    dtheta = Spread(theta.values[0].repeat(sizes.values.shape[1])[:, None], ones[:, None])
    dphi = Spread(phi.values.expand_as(weights), weights / total.clamp(min=1e-30)[:, None])
    one = saxs2d.cylinder(plane, radius, truth["length"] * ones, Orientation(*angles, None, dtheta, dphi))
    volume = np.pi * radius**2 * truth["length"]
    return absolute(truth, torch.einsum("b,bhw->hw", total * volume**2, one) / (total @ volume))


def absolute(truth: dict, pattern: torch.Tensor) -> torch.Tensor:
    contrast = truth["sld"] - truth["sld_solvent"]
    return 1e-4 * truth["scale"] * contrast**2 * pattern + truth["background"]


def converged(plane: saxs2d.Plane, truth: dict) -> torch.Tensor:
    """The pattern that the mesh stands for."""
    angles = {name: torch.deg2rad(tensor(truth[name])) for name in ("theta", "phi", "theta_pd", "phi_pd")}
    theta, phi = (Gaussian(angles[f"{name}_pd"], truth[f"{name}_pd_nsigma"]) for name in ("theta", "phi"))
    sizes = gaussian_sizes(tensor(truth["radius_pd"]), cut=SIZE_CUT)
    turned = Orientation(angles["theta"], angles["phi"], None, theta, phi)
    one = saxs2d.cylinder(plane, tensor(truth["radius"]), tensor(truth["length"]), turned, sizes)[0]
    volume = np.pi * truth["radius"] ** 2 * truth["length"] * moment(sizes, 4) / moment(sizes, 2)
    return absolute(truth, volume * one)


def chi2(data: np.lib.npyio.NpzFile, intensity: torch.Tensor) -> float:
    seen = ~data["mask"]
    counts, expected = torch.from_numpy(data["counts"][seen]), intensity[torch.from_numpy(seen)]
    expected = expected * float(data["counts_per_I"])
    return float(counting.pearson_chi2(counts[None, None], expected[None, None]))


def test_pattern_on_the_mesh_of_sasmodels(data, plane):
    file, truth = data
    found = on_mesh(plane, truth, CUTOFF)
    error = np.abs(found.numpy() / file["I_noisefree"] - 1)
    assert error.max() < 1e-5
    assert chi2(file, found) == pytest.approx(1, abs=0.03)


def test_without_cutoff_and_with_enough_nodes(data, plane):
    """What a model that integrates sees: percents in the faintest parts, most pixels nearly the same."""
    file, truth = data
    uncut = np.abs(on_mesh(plane, truth, 0.0).numpy() / file["I_noisefree"] - 1)
    fine = np.abs(converged(plane, truth).numpy() / file["I_noisefree"] - 1)
    assert np.median(uncut) < 2e-3 and uncut.max() < 0.05
    assert np.median(fine) < 3e-3 and fine.max() < 0.1
    assert chi2(file, converged(plane, truth)) == pytest.approx(1.05, abs=0.01)
