"""Flows as densities: they integrate to one, learn a shape, and find a posterior known in closed form."""

import math

import pytest
import torch

from nfphasing_bluesky.flows import FlowSettings, MixtureOfFlows, build_flow

SMALL = FlowSettings(layers=3, hidden=16, head_hidden=16)


def unsettled(*args, scale=0.4, **kwargs):
    flow = build_flow(*args, **kwargs)
    seeded = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=seeded) / parameter.shape[-1] ** 0.5
    return flow.double()


def grid_mass(flow, low, high, points):
    """Integral of the density on a grid; that of a box is even in the coordinates in which it has no edge."""
    axis = low + (high - low) * (torch.arange(points, dtype=torch.float64) + 0.5) / points
    grid = torch.cartesian_prod(*[axis] * flow.dimension).reshape(-1, 1, flow.dimension)
    theta, log_slope = (grid, 0.0) if flow.box is None else flow.box.inverse(grid, grid)
    with torch.no_grad():
        density = (flow(torch.ones(1, 2)).log_prob(theta) + log_slope).exp()
    return float(density.sum()) * ((high - low) / points) ** flow.dimension


@pytest.mark.parametrize(("dimension", "points"), [(1, 20_000), (2, 250)])
def test_density_integrates_to_one(dimension, points):
    open_flow = unsettled(dimension, 2, settings=SMALL)
    boxed = unsettled(dimension, 2, [-1.0] * dimension, [3.0] * dimension, SMALL)
    assert grid_mass(open_flow, -14.0, 14.0, points) == pytest.approx(1, abs=2e-3)
    assert grid_mass(boxed, -8.0, 8.0, points) == pytest.approx(1, abs=2e-3)


def crescents(count, generator):
    """A context (count, 1) and one of two interleaved crescents (count, 2), shifted by it."""
    context = torch.rand(count, 1, generator=generator)
    angle = math.pi * torch.rand(count, generator=generator)
    upper = torch.rand(count, generator=generator) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    noise = 0.08 * torch.randn(count, 2, generator=generator)
    return context, torch.stack((x, y), -1) + 2 * context + noise


def train(flow, draw, steps, rate=4e-3, batch=256):
    generator = torch.Generator().manual_seed(11)
    optimiser = torch.optim.Adam(flow.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        context, theta = draw(batch, generator)
        loss = -flow(context).log_prob(theta).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        context, theta = draw(4000, generator)
        return float(-flow(context).log_prob(theta).mean())


def test_splines_learn_crescents_that_a_gaussian_cannot():
    """The gap is at least 0.5 nats: the crescents' own entropy is about 1 nat below a Gaussian's."""
    torch.manual_seed(2)
    settings = FlowSettings(layers=4, hidden=32, head_hidden=32, head_blocks=1)
    spline = build_flow(2, 1, settings=settings)
    gaussian = build_flow(2, 1, settings=settings.model_copy(update={"layers": 0}))
    assert train(spline, crescents, 200) < train(gaussian, crescents, 200) - 0.5


PRIOR_STD = torch.tensor([1.0, 0.5])
DESIGN = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, 0.7]])
NOISE = 0.3


def linear_problem(count, generator):
    """theta ~ N(0, diag), y = A theta + noise: the context y (count, 3) and theta (count, 2)."""
    theta = PRIOR_STD * torch.randn(count, 2, generator=generator)
    return theta @ DESIGN.T + NOISE * torch.randn(count, 3, generator=generator), theta


def test_conjugate_gaussian_posterior():
    """Means within 5 % of a posterior standard deviation (rms), standard deviations within 5 %."""
    torch.manual_seed(3)
    flow = build_flow(2, 3, settings=FlowSettings(layers=2, hidden=32, head_hidden=64, head_blocks=1))
    train(flow, linear_problem, 300, rate=8e-3)
    covariance = torch.linalg.inv(DESIGN.T @ DESIGN / NOISE**2 + torch.diag(PRIOR_STD**-2))
    y, _ = linear_problem(40, torch.Generator().manual_seed(1))
    draws = flow(y).sample((4000,), torch.Generator().manual_seed(0))
    std = covariance.diagonal().sqrt()
    error = (draws.mean(0) - y @ DESIGN @ covariance / NOISE**2) / std
    assert error.square().mean().sqrt() < 0.05
    assert (draws.std(0).mean(0) / std - 1).abs().max() < 0.05
    correlation = torch.stack([torch.corrcoef(draws[:, b].T)[0, 1] for b in range(40)]).mean()
    assert float(correlation) == pytest.approx(float(covariance[0, 1] / std.prod()), abs=0.05)


def test_mixture_holds_each_class_with_its_own_dimension():
    flows = {
        "sphere": build_flow(1, 4, settings=SMALL),
        "shell": build_flow(3, 4, [0.0] * 3, [1.0] * 3, SMALL),
    }
    mixture = MixtureOfFlows(flows, 4, hidden=16)
    torch.nn.init.normal_(mixture.head.last.weight)
    context = torch.randn(5, 4)
    distribution = mixture(context)
    assert mixture.classes == ("sphere", "shell")
    assert torch.allclose(distribution.class_log_probs.exp().sum(-1), torch.ones(5))
    theta = distribution.class_distribution(1).sample((6,))
    assert theta.shape == (6, 5, 3)
    joint = distribution.log_prob(1, theta)
    expected = distribution.class_log_probs[:, 1] + flows["shell"](context).log_prob(theta)
    assert torch.equal(joint, expected)
    classes = distribution.sample_classes(4000, torch.Generator().manual_seed(0))
    frequency = (classes == 1).double().mean(0)
    assert (frequency - distribution.class_log_probs[:, 1].exp()).abs().max() < 0.04


def test_mixture_learns_the_class_from_the_context():
    torch.manual_seed(0)
    flows = {name: build_flow(1, 1, settings=SMALL) for name in "ab"}
    mixture = MixtureOfFlows(flows, 1, hidden=16)
    optimiser = torch.optim.Adam(mixture.head.parameters(), lr=1e-2)
    context = torch.linspace(-2, 2, 256).unsqueeze(-1)
    truth = (context[:, 0] > 0.3).long()
    for _ in range(100):
        loss = torch.nn.functional.nll_loss(mixture(context).class_log_probs, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (mixture(context).class_log_probs.argmax(-1) == truth).float().mean() > 0.97
