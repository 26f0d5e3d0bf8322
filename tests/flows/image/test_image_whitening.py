"""Whitening of a flow's noise: orthonormal cosines, exact densities, and what it is for."""

import pytest
import torch

from nfphasing_bluesky.flows.image import (
    ImageEncoder,
    ImageEncoderSettings,
    WaveletFlowSettings,
    build_image_flow,
)
from nfphasing_bluesky.flows.image.whitening import Whitening, cosine_matrix

SETTINGS = WaveletFlowSettings(widths=(8, 8), couplings=2)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


def test_cosines_are_orthonormal_and_those_of_scipy():
    scipy_fft = pytest.importorskip("scipy.fft")
    x = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = cosine_matrix(6, x)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(matrix @ x, torch.tensor(scipy_fft.dct(x.numpy(), norm="ortho")))


def correlated(n: int, generator) -> torch.Tensor:
    """(n, 2, 8, 8) white noise with an error that a whole frame shares."""
    shared = torch.randn(n, 2, 1, 1, generator=generator)
    return torch.randn(n, 2, 8, 8, generator=generator) + torch.tensor([0.5, 0.0])[:, None, None] * shared


def test_what_was_correlated_is_white_afterwards(generator):
    whitening = Whitening(2, 8)
    whitening.fit(correlated(3000, generator))
    z, _ = whitening(correlated(3000, generator))
    means = z.mean((2, 3)).std(0) * 8
    torch.testing.assert_close(means, torch.ones(2), atol=0.05, rtol=0)
    assert float(z.std()) == pytest.approx(1.0, abs=0.02)
    # and draws have the errors that a frame shares
    drawn, _ = whitening.inverse(torch.randn(3000, 2, 8, 8, generator=generator))
    expected = correlated(3000, generator).mean((2, 3)).std(0)
    torch.testing.assert_close(drawn.mean((2, 3)).std(0), expected, atol=0.03, rtol=0)


def test_it_is_undone_and_its_density_is_exact(generator):
    whitening = Whitening(2, 8).double()
    whitening.fit(correlated(100, generator).double())
    z = torch.randn(3, 2, 8, 8, generator=generator).double()
    white, log_det = whitening(z)
    back, inverse_log_det = whitening.inverse(white)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(log_det, -inverse_log_det)
    jacobian = torch.autograd.functional.jacobian(lambda v: whitening(v[None])[0][0].flatten(), z[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian.view(128, 128))[1], log_det[0])
    # frames of another size get the same scales at the same relative frequencies
    other = torch.randn(2, 2, 16, 24, generator=generator).double()
    torch.testing.assert_close(whitening.inverse(whitening(other)[0])[0], other)


def test_a_flow_with_whitening_has_consistent_densities(generator):
    torch.manual_seed(0)
    encoder = ImageEncoder(1, ImageEncoderSettings(widths=(8, 8)))
    flow = build_image_flow(1, encoder.widths, SETTINGS, side=16)
    images = torch.randn(4, 1, 16, 16, generator=generator)
    with torch.no_grad():
        distribution = flow(encoder(images))
        before = distribution.log_prob(images)
        for whitening in flow.ordered_whitenings():
            whitening.log_scale.normal_(0.0, 0.3, generator=generator)
        z = torch.randn(5, 4, 1, 16, 16, generator=generator)
        u, log_prob = distribution.from_latent(z)
        torch.testing.assert_close(distribution.log_prob(u), log_prob, atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(distribution.to_latent(u)[0], z, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(distribution.log_prob(images), before, atol=1e-2)
