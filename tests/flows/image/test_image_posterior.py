"""The image flow finds a posterior known in closed form: u ~ Gaussian field, y = A u + noise, A a blur."""

import pytest
import torch

from nfphasing_bluesky.flows.image import (
    ImageEncoder,
    ImageEncoderSettings,
    WaveletFlowSettings,
    build_image_flow,
)

SIDE, NOISE = 8, 0.3
PIXELS = SIDE * SIDE


def problem():
    """Prior covariance and blur, (P, P) each, P pixels in row-major order."""
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
    squared = (place[:, None] - place).square().sum(-1)
    blur = torch.exp(-squared / (2 * 1.2**2))
    return torch.exp(-squared.sqrt() / 4), blur / blur.sum(1).max()


class Conjugate:
    """The posterior N(G y, covariance), and draws of (u, y)."""

    def __init__(self):
        prior, self.blur = problem()
        self.factor = torch.linalg.cholesky(prior)
        evidence = self.blur @ prior @ self.blur.T + NOISE**2 * torch.eye(PIXELS)
        self.gain = torch.linalg.solve(evidence, self.blur @ prior).T
        covariance = prior - self.gain @ self.blur @ prior
        self.covariance = (covariance + covariance.T) / 2
        self.prior = torch.distributions.MultivariateNormal(torch.zeros(PIXELS).double(), prior)

    def draw(self, count, generator):
        u = torch.randn(count, PIXELS, generator=generator, dtype=torch.float64) @ self.factor.T
        noise = torch.randn(count, PIXELS, generator=generator, dtype=torch.float64)
        return u, u @ self.blur.T + NOISE * noise

    def posterior(self, y):
        return torch.distributions.MultivariateNormal(y @ self.gain.T, self.covariance)


def images(x):
    return x.float().view(-1, 1, SIDE, SIDE)


def trained(settings, truth, steps, rate):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    encoder = ImageEncoder(1, ImageEncoderSettings(widths=(16, 16)))
    flow = build_image_flow(1, encoder.widths, settings)
    flow.initialise(images(truth.draw(512, generator)[0]))
    weights = [*encoder.parameters(), *flow.parameters()]
    optimiser = torch.optim.Adam(weights, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    for _ in range(steps):
        u, y = truth.draw(64, generator)
        loss = -flow(encoder(images(y))).log_prob(images(u)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 50.0)
        optimiser.step()
        schedule.step()
    return lambda y: flow(encoder(images(y)))


SETTINGS = WaveletFlowSettings(widths=(24, 24), base_couplings=4, coupling_blocks=0)


@pytest.mark.slow
def test_conjugate_posterior():
    """After 250 steps, in 64 dimensions, of which the data tell 11.6 nats:

    log-likelihood within 1.5 nats of the truth; means within a quarter of a posterior standard deviation
    (rms), standard deviations within 8 % (rms) and 4 % on average, the covariance within 30 % (Frobenius).
    """
    truth = Conjugate()
    flow = trained(SETTINGS, truth, 250, 6e-3)
    u, y = truth.draw(400, torch.Generator().manual_seed(5))
    with torch.no_grad():
        exact = truth.posterior(y).log_prob(u)
        gap = exact - flow(y).log_prob(images(u))
        draws = flow(y[:40]).sample((400,), torch.Generator().manual_seed(6)).double().flatten(2)
    assert float((exact - truth.prior.log_prob(u)).mean()) == pytest.approx(11.6, abs=0.5)
    assert 0 < float(gap.mean()) < 1.5
    std = truth.covariance.diagonal().sqrt()
    error = (draws.mean(0) - y[:40] @ truth.gain.T) / std
    assert float(error.square().mean().sqrt()) < 0.25
    ratio = draws.std(0).square().mean(0).sqrt() / std - 1
    assert float(ratio.square().mean().sqrt()) < 0.08
    assert abs(float(ratio.mean())) < 0.04
    found = torch.stack([torch.cov(draws[:, b].T) for b in range(40)]).mean(0)
    assert float((found - truth.covariance).norm() / truth.covariance.norm()) < 0.3
