"""Scale and background by their exact conditional, against brute-force quadrature."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.modalities.linear import BackgroundPrior, condition

WIDE, NARROW = BackgroundPrior(1e-7, 0.1), BackgroundPrior(1e-6, 5e-3)


def guinier(points: int = 150) -> tuple[torch.Tensor, torch.Tensor]:
    q = torch.linspace(0.005, 0.3, points)
    return q, torch.exp(-((q * 30.0) ** 2) / 3) + 1e-4 / (1 + (q * 50) ** 4)


def brute_force(shape, y, sigma, prior: BackgroundPrior) -> tuple[float, float, float]:
    """Evidence, mean scale and mean beta by a fine 2-D grid (prior ds/s taken at the mode)."""
    beta = np.geomspace(prior.lower, prior.upper, 20_001)
    p, y, w = shape.double().numpy(), y.double().numpy(), 1 / sigma.double().numpy() ** 2
    model = p[None] + beta[:, None]
    a, b = (w * model**2).sum(1), (w * model * y).sum(1)
    s = b / a
    log_density = 0.5 * b**2 / a - np.log(s) - 0.5 * np.log(a) - 0.5 * (w * y**2).sum()
    weight = np.exp(log_density - log_density.max())
    evidence = np.log(weight.mean()) + log_density.max()
    return (
        float(evidence),
        float((weight * s).sum() / weight.sum()),
        float((weight * beta).sum() / weight.sum()),
    )


@pytest.mark.parametrize("prior", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("true_beta", [1e-5, 2e-3])
@pytest.mark.parametrize("noise", [1e-4, 3e-3])
def test_conditional_agrees_with_quadrature(prior, true_beta, noise):
    _, shape = guinier()
    sigma = torch.full_like(shape, 700 * noise) + 0.02 * 700 * shape
    generator = torch.Generator().manual_seed(3)
    y = 700 * (shape + true_beta) + sigma * torch.randn(shape.shape, generator=generator)
    made = condition(shape[None], y[None], sigma[None] ** -2, prior)
    evidence, mean_scale, mean_beta = brute_force(shape, y, sigma, prior)
    assert float(made.log_evidence) == pytest.approx(evidence, abs=0.02)

    n = 20_000
    many = condition(shape.expand(n, -1), y.expand(n, -1), (sigma**-2).expand(n, -1), prior)
    scale, beta = many.draw(torch.randn(n, 2, generator=generator))
    assert float(scale.mean()) == pytest.approx(
        mean_scale, rel=5 * float(scale.std()) / mean_scale / n**0.5 + 1e-4
    )
    assert float(beta.mean()) == pytest.approx(
        mean_beta, abs=5 * float(beta.std()) / n**0.5 + 1e-2 * abs(mean_beta)
    )
    assert float(beta.min()) >= prior.lower
    assert float(beta.max()) <= prior.upper


@pytest.mark.parametrize("signal", [0.0, 1e-3, 1e-2, 0.1])
def test_a_shape_lost_in_its_background(signal):
    """Large particles beyond the beam stop: the curve is flat, and beta may be anything up to its bound."""
    q, _ = guinier()
    shape = signal * torch.exp(-((q * 30.0) ** 2) / 3) + 1e-5 / (1 + (q * 50) ** 4)
    sigma = torch.full_like(shape, 0.02 * 3.0 * 0.027)
    generator = torch.Generator().manual_seed(5)
    y = 3.0 * (shape + 0.027) + sigma * torch.randn(shape.shape, generator=generator)
    made = condition(shape[None], y[None], sigma[None] ** -2, WIDE)
    evidence, _, _ = brute_force(shape, y, sigma, WIDE)
    assert float(made.log_evidence) == pytest.approx(evidence, abs=0.1)
    n = 4000
    many = condition(shape.expand(n, -1), y.expand(n, -1), (sigma**-2).expand(n, -1), WIDE)
    scale, beta = many.draw(torch.randn(n, 2, generator=generator))
    level = scale * beta + scale * shape.mean()
    assert float(level.mean()) == pytest.approx(float(y.mean()), rel=0.02)
    assert float(scale.quantile(0.001)) < 3.0 < float(scale.quantile(0.999))
    assert float(beta.max()) <= WIDE.upper


@pytest.mark.parametrize("prior", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_shape_that_cannot_fit_stays_finite_and_differentiable(prior):
    _, shape = guinier()
    wrong = shape.flip(0)[None].clone().requires_grad_()
    sigma = 0.01 * shape + 1e-4
    made = condition(wrong, shape[None], sigma[None] ** -2, prior)
    assert torch.isfinite(made.log_evidence).all()
    assert float(made.log_evidence.detach()) < -1000
    made.log_evidence.sum().backward()
    assert torch.isfinite(wrong.grad).all()
    scale, beta = made.draw(torch.randn(1, 2))
    assert torch.isfinite(scale).all()
    assert prior.lower <= float(beta.detach()) <= prior.upper


def test_masked_points_have_no_influence():
    _, shape = guinier()
    sigma = 0.02 * shape + 1e-5
    weight = sigma**-2
    weight[40:60] = 0
    y = 3.0 * shape
    broken = y.clone()
    broken[40:60] = 1e6
    clean = condition(shape[None], y[None], weight[None], WIDE)
    dirty = condition(shape[None], broken[None], weight[None], WIDE)
    assert float(clean.log_evidence) == pytest.approx(float(dirty.log_evidence))
    assert float(clean.draw(None)[0]) == pytest.approx(3.0, rel=1e-2)


@pytest.mark.parametrize("prior", [WIDE, NARROW], ids=["wide", "narrow"])
def test_moments_of_the_background_are_those_of_its_draws(prior):
    mean, spread = prior.moments()
    draws = prior.sample(200_000, torch.Generator().manual_seed(0)).double()
    assert float(draws.mean()) == pytest.approx(mean, abs=4 * spread / 200_000**0.5)
    assert float(draws.std()) == pytest.approx(spread, rel=0.02)
