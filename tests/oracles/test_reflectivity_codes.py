"""Reflectivity against refnx and refl1d: below 1e-6 without resolution, 1e-3 with it."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.physics.layers.depth_profile import density_profile
from nfphasing_bluesky.physics.layers.reflectometer import smeared
from nfphasing_bluesky.physics.reflectivity import Stack, reflectivity

LAYERS = (0, 1, 2, 5, 12)
Q = np.geomspace(0.005, 0.8, 400)
DQ = 0.01
"""Standard deviation over q of the resolution; refnx takes its full width at half maximum."""
FWHM = 2 * np.sqrt(2 * np.log(2))
REFNX_REACH, REFL1D_REACH = 3.5, np.sqrt(-2 * np.log(1e-3))
"""Standard deviations at which each code cuts its Gaussian off, which fringe minima show."""


def random_stack(layers: int, seed: int, on_liquid: bool = False) -> Stack:
    """One stack of any materials, with roughness well below its thicknesses; float64."""
    rng = np.random.default_rng(seed)
    density = np.concatenate([[0.334 if on_liquid else 0.0], rng.uniform(0.2, 4.6, layers + 1)])
    absorption = density * rng.uniform(1e-3, 0.1, layers + 2)
    thickness = rng.uniform(15, 150, layers)
    roughness = rng.uniform(0, 8, layers + 1)
    return Stack(*(torch.tensor(v[None]) for v in (density, absorption, thickness, roughness)))


def slabs(stack: Stack) -> np.ndarray:
    """Rows (thickness, SLD and its imaginary part in 1e-6/angstrom^2, roughness), as refnx takes them."""
    zero = torch.zeros(1, 1)
    columns = (
        torch.cat([zero, stack.thickness, zero], 1),
        stack.density * ELECTRON_RADIUS_ANGSTROM * 1e6,
        stack.absorption * ELECTRON_RADIUS_ANGSTROM * 1e6,
        torch.cat([zero, stack.roughness], 1),
    )
    return torch.cat(columns).double().numpy().T.copy()


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.asarray(values, dtype=np.float64)[None])


@pytest.mark.parametrize("on_liquid", [False, True])
@pytest.mark.parametrize("layers", LAYERS)
def test_refnx_without_resolution(oracle, layers, on_liquid):
    stack = random_stack(layers, layers, on_liquid)
    theirs = oracle("refnx.reflect").reflectivity(Q, slabs(stack), dq=0.0)
    np.testing.assert_allclose(reflectivity(stack, tensor(Q))[0].numpy(), theirs, rtol=1e-6)


@pytest.mark.parametrize("layers", LAYERS)
def test_refl1d_without_resolution(oracle, layers):
    stack = random_stack(layers, 10 + layers)
    depth, rho, irho, sigma = slabs(stack).T
    theirs = oracle("refl1d.reflectivity").reflectivity(
        Q / 2, depth=depth, rho=rho, irho=irho, sigma=sigma[1:]
    )
    np.testing.assert_allclose(reflectivity(stack, tensor(Q))[0].numpy(), theirs, rtol=1e-6)


@pytest.mark.parametrize("layers", LAYERS)
def test_refnx_with_resolution(oracle, layers):
    stack = random_stack(layers, 20 + layers)
    theirs = oracle("refnx.reflect").reflectivity(
        Q, slabs(stack), dq=DQ * FWHM * Q, quad_order=201, threads=1
    )
    ours = smeared(lambda q: reflectivity(stack, q), tensor(Q), tensor(DQ * Q), 80, REFNX_REACH)
    np.testing.assert_allclose(ours[0].numpy(), theirs, rtol=1e-3)


@pytest.mark.parametrize("layers", LAYERS)
def test_refl1d_with_resolution(oracle, layers):
    stack = random_stack(layers, 30 + layers)
    fine = np.geomspace(0.001, 2.0, 40_000)
    curve = reflectivity(stack, tensor(fine))[0].numpy()
    theirs = oracle("refl1d.reflectivity").convolve(fine, curve, Q, DQ * Q)
    ours = smeared(lambda q: reflectivity(stack, q), tensor(Q), tensor(DQ * Q), 80, REFL1D_REACH)
    np.testing.assert_allclose(ours[0].numpy(), theirs, rtol=1e-3)


def test_refnx_profile(oracle):
    refnx = oracle("refnx.reflect")
    stack = random_stack(4, 3)
    rows = slabs(stack)
    structure = refnx.SLD(0)(0, 0)
    for thickness, sld, _, roughness in rows[1:]:
        structure = structure | refnx.SLD(sld)(thickness, roughness)
    z = np.linspace(-50, float(stack.thickness.sum()) + 50, 500)
    _, theirs = structure.sld_profile(z)
    ours = density_profile(stack, torch.tensor(z))[0].numpy() * ELECTRON_RADIUS_ANGSTROM * 1e6
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * rows[:, 1].max())
