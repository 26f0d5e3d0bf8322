"""Measured reflectivities, and the curves and profiles that others' codes fitted to them."""

import json
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.physics.layers.depth_profile import density_profile
from nfphasing_bluesky.physics.layers.reflectometer import (
    Reflectometer,
    footprint_q,
    measured_reflectivity,
    q_of_angle,
)
from nfphasing_bluesky.physics.reflectivity import Stack, reflectivity

CU_K_ALPHA1_ANGSTROM, CU_K_ALPHA1_KEV = 1.540593, 8.0478231
LAYERS = ("Al2O3", "Ir20Mn80", "CoFe", "Ru", "SiO2")


def double(values) -> torch.Tensor:
    return torch.tensor(np.asarray(values, dtype=np.float64))


def log_rms(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.log(one / other) ** 2)))


class Water(NamedTuple):
    q: np.ndarray
    measured: np.ndarray
    fitted: np.ndarray
    curve: np.ndarray


@pytest.fixture(scope="module")
def water(shared_data) -> Water:
    """Water under helium: measured, GenX's fit, and our curve of the density and roughness it found."""
    folder = shared_data / "reflectivity/water_helium_sirius"
    q, fitted, measured, _ = np.loadtxt(folder / "water_fit_done000.dat").T
    _, density, absorption = np.loadtxt(folder / "water_fit_done_SLD000.dat").T
    roughness = 3.143420664494445
    none = double(np.zeros((1, 0)))
    surface = Stack(
        double([[0.0, density.max()]]), double([[0.0, -absorption.min()]]), none, double([[roughness]])
    )
    return Water(q, measured, fitted, reflectivity(surface, double(q)[None])[0].numpy())


def test_water_as_genx_computes_it(water):
    np.testing.assert_allclose(water.curve, water.fitted, rtol=1e-3)


def test_water_as_it_was_measured(water):
    # GenX's fit has 0.1239: below q = 0.05 it is up to 43 % above what was measured
    assert log_rms(water.curve, water.measured) < 0.125
    steep = (water.q > 0.05) & (water.q < 0.3)
    assert steep.sum() >= 50
    assert log_rms(water.curve[steep], water.measured[steep]) < 0.05


def test_refnx_simulation(shared_data):
    file = np.load(shared_data / "reflectivity/sim_refnx_xrr/xrr_org_au_sio2_si.npz")
    slabs = file["slabs"]
    electrons = slabs[:, 1:3] * 1e-6 / ELECTRON_RADIUS_ANGSTROM
    sample = Stack(*(double(v)[None] for v in (*electrons.T, slabs[1:-1, 0], slabs[1:, 3])))
    curve = reflectivity(sample, double(file["q"])[None])[0].numpy() + 2e-8
    np.testing.assert_allclose(curve, file["R_noisefree"], rtol=1e-6)
    assert np.mean(((curve - file["R"]) / file["dR"]) ** 2) == pytest.approx(1.0, abs=0.15)


@pytest.fixture(scope="module")
def reference(shared_data) -> dict[str, float]:
    """What xrayutilities fitted to the multilayer."""
    folder = shared_data / "reflectivity/ru_cofe_irmn_alox_multilayer"
    fitted = json.loads((folder / "reference_fit_xrayutilities.json").read_text())
    return {name: entry["value"] for name, entry in fitted.items() if isinstance(entry, dict)}


@pytest.fixture
def multilayer(reference, oracle) -> Stack:
    """Its layers, electron densities from their mass densities."""
    sld = oracle("periodictable.xsf").xray_sld
    optical = [
        sld(name, density=reference[f"{name}_density"] / 1000, energy=CU_K_ALPHA1_KEV) for name in LAYERS
    ]
    electrons = np.array([(0.0, 0.0), *optical]) * 1e-6 / ELECTRON_RADIUS_ANGSTROM
    thickness = [reference[f"{name}_thickness"] for name in LAYERS[:-1]]
    roughness = [reference[f"{name}_roughness"] for name in LAYERS]
    return Stack(*(double(v)[None] for v in (*electrons.T, thickness, roughness)))


def test_multilayer_profile_as_xrayutilities_gives_it(multilayer, shared_data):
    folder = shared_data / "reflectivity/ru_cofe_irmn_alox_multilayer"
    height, electrons_per_cm3 = np.loadtxt(folder / "reference_density_profile.dat").T
    theirs = electrons_per_cm3 * 1e-24
    ours = density_profile(multilayer, double(-height))[0].numpy()
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 3e-3


def test_multilayer_curve_on_its_diffractometer(multilayer, reference, shared_data):
    folder = shared_data / "reflectivity/ru_cofe_irmn_alox_multilayer"
    angle, measured, fitted = np.loadtxt(folder / "reference_fit_curve_and_density.dat").T
    compared = (angle > 0.3) & (angle < 8)
    incidence = np.radians(angle[compared])
    q = q_of_angle(double(incidence), CU_K_ALPHA1_ANGSTROM)
    width = math.radians(reference["resolution_width"])
    dq = 4 * math.pi / CU_K_ALPHA1_ANGSTROM * np.cos(incidence) * width
    beam = Reflectometer(
        scale=double([reference["I0"]]),
        background=double([reference["background"]]),
        q_offset=double([0.0]),
        spill_q=double(
            [footprint_q(reference["beam_width"], reference["sample_width"], CU_K_ALPHA1_ANGSTROM)]
        ),
    )
    curve = measured_reflectivity(multilayer, beam, q[None], double(dq)[None])[0].numpy()
    assert log_rms(curve, fitted[compared]) < 0.01
    # their own fit has 0.1936
    assert log_rms(curve, measured[compared]) < 0.2
