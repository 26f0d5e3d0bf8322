"""Anchors: a flow that does nothing is then the anchor's Gaussian, and densities still add up."""

import math

import pytest
import torch

from nfphasing_bluesky.flows import Anchor, BoundedAnchor, FlowSettings, MixtureOfFlows, build_flow

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


def bounded(anchor: Anchor, width: float = 1.0) -> BoundedAnchor:
    return BoundedAnchor(anchor.location.double(), width * anchor.factor.double(), anchor.features)


@pytest.mark.parametrize("width", [1e-4, 0.1, 1.0])
def test_bounded_coordinates_and_back(anchor, width):
    subject = bounded(anchor, width)
    y = torch.randn(7, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w, shrunk = subject.standardise(y)
    back, grown = subject.restore(w)
    assert torch.allclose(back, y, atol=1e-9)
    assert torch.allclose(grown + shrunk, torch.zeros_like(grown), atol=1e-8)


def test_the_determinant_of_bounded_coordinates_is_that_of_autograd(anchor):
    subject = bounded(anchor, 0.1)
    y = torch.randn(B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    _, log_det = subject.standardise(y)
    whole = torch.autograd.functional.jacobian(lambda v: subject.standardise(v)[0].sum(0), y)
    for b in range(B):
        assert float(torch.linalg.slogdet(whole[:, b]).logabsdet) == pytest.approx(
            float(log_det[b]), abs=1e-8
        )


def test_bounded_coordinates_are_the_gaussians_near_the_anchor(anchor):
    subject = bounded(anchor, 0.01)
    z = 0.02 * torch.randn(5, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    w, _ = subject.standardise(Anchor(subject.location, subject.factor, subject.features).restore(z)[0])
    scale = (w * z).sum(0) / (z * z).sum(0)
    assert torch.allclose(w, scale * z, atol=1e-4)
    assert ((scale > 0.5) & (scale < 2.0)).all()


@pytest.mark.parametrize("width", [1e-3, 0.3])
def test_noise_in_bounded_coordinates_stays_near_the_prior(anchor, width):
    """A tilted, narrow anchor in straight coordinates throws the same noise hundreds of prior widths away."""
    z = 2.5 * torch.randn(500, B, D, generator=torch.Generator().manual_seed(7)).double()
    subject = bounded(anchor, width)
    y, _ = subject.restore(z.clamp(-5, 5))
    assert float(y.abs().max()) < 20
    assert float((y.abs() < 5.5).double().mean()) > 0.95


def test_a_flow_uses_the_coordinates_that_its_settings_name(anchor):
    settings = FlowSettings(layers=2, hidden=8, head_hidden=8, anchor="bounded")
    flow = build_flow(D, E, [-1.0] * D, [2.0] * D, settings).double()
    distribution = flow(torch.zeros(B, E), anchor)
    assert isinstance(distribution.anchor, BoundedAnchor)
    z = torch.randn(9, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    theta, log_prob = distribution.from_latent(z)
    kept = distribution.flow.box(theta, distribution.context)[0].abs().amax(-1) < 5
    assert kept.double().mean() > 0.8
    assert torch.allclose(distribution.log_prob(theta)[kept], log_prob[kept], atol=1e-6)
