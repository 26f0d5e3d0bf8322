"""Scattering along single rays against whole frames, and against integrals over discs."""

import math

import numpy as np
import pytest
import torch
from scipy.special import j1

from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.physics.gisaxs import GrazingSample, scattered
from nfphasing_bluesky.physics.grazing.dwba_particles import Particles
from nfphasing_bluesky.physics.grazing.dwba_rays import (
    Spheroids,
    Waves,
    ray_amplitudes,
    ray_intensity,
    waves_in,
)
from nfphasing_bluesky.physics.grazing.form_factors import whole_spheres
from nfphasing_bluesky.physics.grazing.grazing import angular_pixels
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
from nfphasing_bluesky.physics.particles.size_distribution import log_normal
from nfphasing_bluesky.physics.reflectivity import Stack, wave_fields

N = 3


def uniform(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def stack() -> Stack:
    """Films of 300 to 400 angstrom that absorb."""
    density = torch.tensor([[0.0, 0.4, 0.7]], dtype=torch.float64) * (1 + 0.3 * uniform(0, N, 3))
    return Stack(density, 0.05 * density, 300 + 100 * uniform(1, N, 1), 3 + 8 * uniform(2, N, 2))


def pixels():
    exits, azimuths = torch.linspace(5e-4, 0.03, 12), torch.linspace(1e-3, 0.03, 10)
    return angular_pixels(1.3, math.radians(0.45), exits, azimuths, torch.float64)


def along(layers: Stack, layer: int, seen) -> tuple[Waves, Waves, torch.Tensor]:
    incoming = waves_in(wave_fields(layers, seen.incoming_q.expand(N, -1)), layer)
    outgoing = waves_in(wave_fields(layers, seen.outgoing_q.expand(N, -1)), layer)
    width = seen.shape[1]
    rays = Waves(*(w[:, :, None].expand(-1, -1, width).flatten(1) for w in outgoing))
    return incoming, rays, seen.q_parallel.expand(N, -1, -1).flatten(1)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("coupled", "worst"), [(False, 1e-7), (True, 1e-4)])
def test_spheres_scatter_as_in_a_whole_frame(layer, coupled, worst):
    layers, seen = stack(), pixels()
    sizes = log_normal(20 + 20 * uniform(3, N), 0.05 + 0.2 * uniform(4, N), 9, reach=2.0)
    base = layers.thickness[:, 0] if layer else torch.zeros(N, dtype=torch.float64)
    order = Paracrystal(
        100 + 50 * uniform(5, N),
        5 + 30 * uniform(6, N),
        1e3 + 1e4 * uniform(7, N),
        coupling=uniform(8, N) if coupled else None,
    )
    one = torch.ones(N, dtype=torch.float64)
    particles = Particles(
        whole_spheres(sizes.values), sizes.share, 3 * one, 0.2 * one, one, layer, base, order
    )
    expected = scattered(GrazingSample(layers, particles=(particles,)), seen).flatten(1)
    spheres = Spheroids(sizes.values, 2 * sizes.values, sizes.share, base[:, None] - sizes.values)
    incoming, outgoing, q = along(layers, layer, seen)
    found = ray_intensity(spheres, order, ray_amplitudes(spheres, incoming, outgoing, q), q)
    contrast = (3 - layers.density[:, layer]).square() + (0.2 - layers.absorption[:, layer]).square()
    found = ELECTRON_RADIUS_ANGSTROM**2 * contrast[:, None] * found
    assert float((found / expected - 1).abs().quantile(0.9)) < worst


@pytest.mark.parametrize("layer", [0, 1])
def test_spheroids_scatter_as_their_discs_do(layer):
    layers, seen = stack(), pixels()
    radius, height = torch.tensor([[30.0]] * N).double(), torch.tensor([[20.0], [60.0], [90.0]]).double()
    middle = torch.full_like(height, 120.0) if layer else -0.5 * height
    flat = Spheroids(radius, height, torch.ones_like(radius), middle)
    incoming, outgoing, q = along(layers, layer, seen)
    real, imag = ray_amplitudes(flat, incoming, outgoing, q)
    place, weight = np.polynomial.legendre.leggauss(60)
    for i in range(N):
        z = float(middle[i]) + 0.5 * float(height[i]) * place
        disc = 30.0 * np.sqrt(1 - place**2)
        x = q[i].numpy()[:, None] * disc
        area = math.pi * disc**2 * 2 * j1(x) / x

        def wave(w: Waves, i=i, z=z) -> np.ndarray:
            down, up, k = (v[i].numpy()[:, None] for v in w)
            return down * np.exp(1j * k * z) + up * np.exp(-1j * k * z)

        summed = (area * wave(incoming) * wave(outgoing) * weight).sum(1) * 0.5 * float(height[i])
        scale = np.abs(summed).max()
        assert np.abs(real[i, 0].numpy() - summed.real).max() < 1e-6 * scale
        assert np.abs(imag[i, 0].numpy() - summed.imag).max() < 1e-6 * scale


def test_single_precision_is_enough():
    layers, seen = stack(), pixels()
    radius = 20 + 100 * uniform(9, N, 4)
    bodies = Spheroids(radius, radius, torch.full_like(radius, 0.25), radius)
    incoming, outgoing, q = along(layers, 1, seen)
    order = Paracrystal(300 + 0 * uniform(5, N), 60 + 0 * uniform(6, N), 1e4 + 0 * uniform(7, N))
    exact, quick = (
        ray_intensity(bodies, order, ray_amplitudes(bodies, incoming, outgoing, at), at)
        for at in (q, q.float())
    )
    assert float(((quick - exact) / exact).abs().quantile(0.99)) < 1e-3
