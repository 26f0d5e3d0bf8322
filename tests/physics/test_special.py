"""Faddeeva's function and Chebyshev interpolation."""

import numpy as np
import pytest
import torch
from scipy.special import wofz

from nfphasing_bluesky.physics import chebyshev
from nfphasing_bluesky.physics.grazing.faddeeva import faddeeva


def points(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 6 * rng.normal(size=n) + 1j * rng.normal(size=n)


def test_faddeeva_as_scipy_has_it():
    z = points(0, 2000)
    np.testing.assert_allclose(faddeeva(torch.tensor(z)).numpy(), wofz(z), rtol=1e-11)


def test_faddeeva_is_differentiable():
    z = torch.tensor(points(1, 20), requires_grad=True)
    assert torch.autograd.gradcheck(faddeeva, (z,))


@pytest.mark.parametrize("turns", [1.0, 10.0, 60.0])
def test_a_function_of_known_bandwidth(turns):
    x = torch.linspace(-1, 1, 301, dtype=torch.float64)
    count = chebyshev.enough(turns)
    wave = torch.sin(turns * chebyshev.nodes(count) + 1)
    torch.testing.assert_close(chebyshev.matrix(x, count) @ wave, torch.sin(turns * x + 1), atol=1e-6, rtol=0)
    half = count // 2
    even = torch.cos(turns * chebyshev.even_nodes(half))
    torch.testing.assert_close(chebyshev.even_matrix(x, half) @ even, torch.cos(turns * x), atol=1e-6, rtol=0)
