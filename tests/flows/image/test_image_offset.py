"""The mean of a frame's noise, as its features tell it: exact densities, and what a fit finds."""

import math

import pytest
import torch

from nfphasing_bluesky.flows.image.offset import Offset

N, E, SIDE = 2, 3, 8


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


def noise(n: int, generator):
    """White noise with means at 1 + e0, exp(e1 / 2) wide, in standard deviations of a mean; e."""
    embedding = torch.randn(n, E, generator=generator)
    z = torch.randn(n, N, SIDE, SIDE, generator=generator)
    mean = z.mean((2, 3), keepdim=True)
    location, scale = (1 + embedding[:, 0]) / SIDE, (embedding[:, 1] / 2).exp()
    return z - mean + location[:, None, None, None] + scale[:, None, None, None] * mean, embedding


def test_it_is_undone_and_its_density_is_exact(generator):
    offset = Offset(N, E).double()
    for parameter in offset.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    z = torch.randn(3 * 2, N, SIDE, SIDE, generator=generator).double()
    embedding = torch.randn(2, E, generator=generator).double()
    white, log_det = offset(z, embedding)
    back, inverse_log_det = offset.inverse(white, embedding)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(log_det, -inverse_log_det)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: offset(v[None], embedding[:1])[0][0].flatten(), z[0]
    )
    expected = torch.linalg.slogdet(jacobian.view(N * SIDE**2, N * SIDE**2))[1]
    torch.testing.assert_close(expected, log_det[0])
    # nothing but the means has changed
    torch.testing.assert_close(white - white.mean((2, 3), keepdim=True), z - z.mean((2, 3), keepdim=True))


def test_a_fit_finds_location_and_scale_in_the_embedding(generator):
    offset = Offset(N, E)
    z, embedding = noise(4, generator)
    torch.testing.assert_close(offset(z, embedding)[0], z)
    offset.fit(*noise(4000, generator))
    z, embedding = noise(4000, generator)
    with torch.no_grad():
        means = offset(z, embedding)[0].mean((2, 3)) * SIDE
    assert float((z.mean((2, 3)) * SIDE).std()) > 1.4
    for rows in (embedding[:, 1] < 0, embedding[:, 1] > 0, embedding[:, 0] > 0):
        assert means[rows].mean(0).abs().max() < 0.15
        assert (means[rows].std(0) - 1).abs().max() < 0.1


def test_a_fit_finds_the_tails(generator):
    """Means of a skewed distribution come out normal: quantiles within sampling noise."""
    z = torch.randn(6000, 1, SIDE, SIDE, generator=generator)
    mean = z.mean((2, 3), keepdim=True)
    skewed = torch.sinh(0.6 * SIDE * mean + 0.5) / SIDE
    z = z - mean + skewed
    embedding = torch.zeros(6000, E)
    offset = Offset(1, E)
    offset.fit(z[:3000], embedding[:3000])
    with torch.no_grad():
        white, _ = offset(z[3000:], embedding[3000:])
    found = (white.mean((2, 3)) * SIDE).flatten()
    for quantile in (0.025, 0.16, 0.5, 0.84, 0.975):
        expected = math.sqrt(2) * float(torch.special.erfinv(torch.tensor(2 * quantile - 1)))
        assert float(found.quantile(quantile)) == pytest.approx(expected, abs=0.15)
