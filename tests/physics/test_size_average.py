"""Tables of size averages against the averages themselves."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import j1

from nfphasing_bluesky.physics.particles import size_average

PARTICLES = {
    "sphere": (6, lambda x: 3 * (np.sin(x) - x * np.cos(x)) / x**3),
    "disc": (4, lambda x: 2 * j1(x) / x),
    "slit": (2, lambda x: np.sin(x) / x),
}


def density(t: float, p: float) -> float:
    return float(np.exp(-0.5 * ((t - 1) / p) ** 2))


@pytest.mark.parametrize("name", list(PARTICLES))
@pytest.mark.parametrize(("p", "x"), [(0.02, 0.3), (0.05, 11.3), (0.1, 4.7), (0.3, 2.0), (0.3, 45.0)])
def test_averages_are_integrals_over_the_cut_gaussian(name, p, x):
    power, amplitude = PARTICLES[name]
    ends = {"a": 1 - 3 * p, "b": 1 + 3 * p, "limit": 400, "epsabs": 1e-12}
    total = quad(lambda t: density(t, p) * t**power * amplitude(x * t) ** 2, **ends)[0]
    expected = total / quad(lambda t: density(t, p) * t**power, **ends)[0]
    one = size_average.of_spread(getattr(size_average, name)(), torch.tensor([p]))
    found = size_average.at(one, torch.tensor([[x]], dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=2e-5, abs=1e-7)


def test_one_size_is_its_own_average():
    x = torch.linspace(0, 20, 501, dtype=torch.float64)
    one = size_average.of_spread(size_average.slit(), torch.zeros(1))
    found = size_average.at(one, x[None])[0]
    torch.testing.assert_close(found, torch.sinc(x / torch.pi).square(), atol=2e-7, rtol=0)
