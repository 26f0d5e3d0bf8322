"""Scattering on grids of exit angles and q against single rays, in closed form."""

import math

import pytest
import torch

from nfphasing_bluesky.physics.grazing.dwba_amplitudes import illumination, needed, piled_discs
from nfphasing_bluesky.physics.grazing.dwba_grid import Population, grid_intensity, grid_square
from nfphasing_bluesky.physics.grazing.dwba_rays import (
    Spheroids,
    Waves,
    ray_amplitudes,
    ray_intensity,
    waves_in,
)
from nfphasing_bluesky.physics.grazing.form_factors import Bodies, Shape
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
from nfphasing_bluesky.physics.reflectivity import Stack, wave_fields

N = 3
K = 4.8
INCIDENCE = math.radians(0.45)


def uniform(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "worst"), [(torch.float64, 1e-5), (torch.float32, 2e-3)])
@pytest.mark.parametrize("layer", [0, 1])
def test_spheroids_of_several_sizes_and_depths(layer, dtype, worst):
    density = torch.tensor([[0.0, 0.4, 0.7]], dtype=torch.float64) * (1 + 0.3 * uniform(0, N, 3))
    stack = Stack(density, 0.05 * density, 300 + 100 * uniform(1, N, 1), 3 + 8 * uniform(2, N, 2))
    radius, share = 15 + 30 * uniform(3, N, 4), torch.full((N, 4), 0.25, dtype=torch.float64)
    height = radius * (1 + uniform(4, N, 4))
    base = height + 100 * uniform(5, N, 4) if layer else 0 * height
    order = Paracrystal(
        100 + 50 * uniform(6, N), 5 + 30 * uniform(7, N), 1e4 + 0 * uniform(8, N), coupling=uniform(9, N)
    )
    level, q = 5e-4 + 0.03 * uniform(10, N, 6), 3e-3 + 0.15 * uniform(11, N, 5)
    q = q.sort(1).values
    incoming = waves_in(wave_fields(stack, torch.full((N, 1), 2 * K * math.sin(INCIDENCE))), layer)
    outgoing = waves_in(wave_fields(stack, 2 * K * level.sin()), layer)

    own = Population(Bodies(Shape.SPHEROID, radius, height), share, base)
    wide = q[:, None, None]
    depths, discs = needed(own.bodies, base, incoming, outgoing, wide)
    piled = piled_discs(own.bodies, base, wide, depths, discs, dtype)
    light = illumination(own.bodies, base, incoming, outgoing, depths).to(dtype)
    found = grid_intensity(grid_square(own, light, piled), own, order, light, piled, q.to(dtype))

    along = Waves(*(w[:, :, None].expand(-1, -1, 5).flatten(1) for w in outgoing))
    each = q[:, None].expand(-1, 6, -1).flatten(1)
    spheroids = Spheroids(radius, height, share, base - 0.5 * height)
    expected = ray_intensity(spheroids, order, ray_amplitudes(spheroids, incoming, along, each), each)
    scale = expected.amax(1, keepdim=True)
    error = (found.flatten(1).double() - expected).abs() / (expected + 1e-4 * scale)
    assert float(error.max()) < worst


def test_order_without_coupling_is_refused():
    one = torch.ones(1, dtype=torch.float64)
    own = Population(Bodies(Shape.CYLINDER, one[:, None], one[:, None]), one[:, None], one[:, None])
    with pytest.raises(ValueError, match="coupling of 0"):
        grid_intensity(one, own, Paracrystal(one, one, one), one, one, one)
