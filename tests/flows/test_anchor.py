"""Anchors: a flow that does nothing is then the anchor's Gaussian, and densities still add up."""

import math

import pytest
import torch

from nfphasing_bluesky.flows import Anchor, FlowSettings, MixtureOfFlows, build_flow

B, D, E = 4, 3, 5


@pytest.fixture
def anchor() -> Anchor:
    generator = torch.Generator().manual_seed(2)
    factor = torch.tril(torch.randn(B, D, D, generator=generator), -1)
    factor = factor + torch.diag_embed(torch.rand(B, D, generator=generator) + 0.2)
    return Anchor(torch.randn(B, D, generator=generator), factor, torch.zeros(B, 2))


def test_standardise_and_restore_are_inverse(anchor):
    z = torch.randn(7, B, D, generator=torch.Generator().manual_seed(0))
    y, grown = anchor.restore(z)
    back, shrunk = anchor.standardise(y)
    assert torch.allclose(back, z, atol=1e-5)
    assert torch.allclose(grown + shrunk, torch.zeros(7, B), atol=1e-6)


def test_an_untrained_flow_on_an_anchor_is_its_gaussian(anchor):
    flow = build_flow(D, E, settings=FlowSettings(layers=2, hidden=8, head_hidden=8))
    y = torch.randn(6, B, D, generator=torch.Generator().manual_seed(1))
    normal = torch.distributions.MultivariateNormal(anchor.location, scale_tril=anchor.factor)
    with torch.no_grad():
        got = flow(torch.zeros(B, E), anchor).log_prob(y)
    # mixing layers start as rotations, which leave a standard normal as it is
    assert torch.allclose(got, normal.log_prob(y), atol=1e-3)


def test_one_pass_density_with_box_and_anchor(anchor):
    flow = build_flow(D, E, [-1.0] * D, [2.0] * D, FlowSettings(layers=2, hidden=8, head_hidden=8)).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(3))
    small = Anchor(0.3 * anchor.location, 0.3 * anchor.factor, anchor.features)
    distribution = flow(torch.ones(B, E), small)
    z = torch.randn(9, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    theta, log_prob = distribution.from_latent(z)
    assert torch.allclose(distribution.log_prob(theta), log_prob, atol=1e-8)


def test_picking_anchors_keeps_their_order(anchor):
    picked = anchor.at(torch.tensor([2, 0]))
    assert torch.equal(picked.location, anchor.location[[2, 0]])
    assert math.isclose(float(picked.log_volume()[1]), float(anchor.log_volume()[0]), rel_tol=1e-6)


def test_a_mixture_gives_a_flow_the_features_of_its_anchor(anchor):
    flow = build_flow(D, E + 2, settings=FlowSettings(layers=1, hidden=8, head_hidden=8))
    torch.nn.init.normal_(flow.transform.transforms[0].head.last.weight)
    mixture = MixtureOfFlows({"a": flow}, E)
    y, told = torch.zeros(B, D), Anchor(anchor.location, anchor.factor, torch.ones(B, 2))
    with torch.no_grad():
        distribution = mixture(torch.ones(B, E))
        first = distribution.class_distribution(0, torch.arange(B), anchor).log_prob(y)
        second = distribution.class_distribution(0, torch.arange(B), told).log_prob(y)
    assert (first - second).abs().min() > 1e-4
