"""One contract over every flow."""

import copy
import math

import pytest
import torch

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows import FlowSettings, LatentSampler, build_flow

CONTEXT = 6
LOWER, UPPER = -2.0, 10.0
S, B = 5, 3


@pytest.fixture
def context():
    return torch.randn(B, CONTEXT, generator=torch.Generator().manual_seed(3))


def draws(flow, context, seed=0):
    return flow(context).sample((S,), generator=torch.Generator().manual_seed(seed))


def test_shapes_and_support(flow, dimension, context):
    theta = draws(flow, context)
    assert theta.shape == (S, B, dimension) and not theta.requires_grad
    assert flow(context).log_prob(theta).shape == (S, B)
    assert flow(context).log_prob(theta[0]).shape == (B,)
    assert flow(context).sample((2, 4)).shape == (2, 4, B, dimension)
    if flow.box is not None:
        assert ((theta > LOWER) & (theta < UPPER)).all()


def test_one_pass_density_is_that_of_log_prob(flow, context):
    flow = flow.double()
    theta, log_prob = flow(context).rsample_and_log_prob((S,), torch.Generator().manual_seed(1))
    assert (flow(context).log_prob(theta) - log_prob).abs().max() <= 1e-8


def test_from_latent_is_the_inverse_of_to_latent(flow, dimension, context):
    flow = flow.double()
    z = torch.randn(S, B, dimension, dtype=torch.float64)
    theta, log_prob = flow(context).from_latent(z)
    back, log_det = flow(context).to_latent(theta)
    normal = -0.5 * (z.square().sum(-1) + dimension * math.log(2 * math.pi))
    assert (back - z).abs().max() <= 1e-8
    assert (normal + log_det - log_prob).abs().max() <= 1e-8


def test_a_generator_repeats_draws_and_a_second_seed_changes_them(flow, context):
    assert torch.equal(draws(flow, context), draws(flow, context))
    assert not torch.equal(draws(flow, context), draws(flow, context, seed=1))


def test_given_noise_makes_draws_independent_of_the_batch(flow, dimension, context):
    z = torch.randn(S, B, dimension)
    together, log_prob = flow(context).from_latent(z)
    for b in range(B):
        alone, log_prob_alone = flow(context[b : b + 1]).from_latent(z[:, b : b + 1])
        assert torch.allclose(alone[:, 0], together[:, b], rtol=1e-5, atol=1e-5)
        assert torch.allclose(log_prob_alone[:, 0], log_prob[:, b], rtol=1e-4, atol=1e-4)


def test_density_moves_with_the_context(flow, context):
    theta = draws(flow, context)
    assert (flow(context).log_prob(theta) - flow(context + 1).log_prob(theta)).abs().max() > 1e-3


def test_gradients_reach_every_weight_through_density_and_draws(flow, dimension, context):
    for loss in (
        lambda: flow(context).log_prob(draws(flow, context)).mean(),
        lambda: flow(context).rsample((S,)).square().mean(),
    ):
        flow.zero_grad()
        loss().backward()
        for name, parameter in flow.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_a_state_dict_carries_everything(flow, context):
    other = copy.deepcopy(flow)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(flow.state_dict())
    assert torch.equal(draws(other, context), draws(flow, context))


def test_autocast_keeps_densities_in_float32(flow, context):
    theta = draws(flow, context)
    with torch.autocast("cpu", torch.bfloat16):
        log_prob = flow(context.bfloat16()).log_prob(theta)
    assert log_prob.dtype == torch.float32
    assert torch.isfinite(log_prob).all()


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_sampling_exports_with_any_batch(kind, context):
    flow = build_flow(3, CONTEXT, [0.0] * 3, [1.0] * 3, FlowSettings(kind=kind, layers=2, hidden=8))
    torch.nn.init.normal_(flow.transform.transforms[1].conditioner.last.weight)
    draws_dim, batch_dim = torch.export.Dim("S", min=2, max=4096), torch.export.Dim("B", min=2, max=512)
    program = torch.export.export(
        LatentSampler(flow).eval(),
        (context, torch.randn(S, B, 3)),
        dynamic_shapes=({0: batch_dim}, {0: draws_dim, 1: batch_dim}),
    )
    context, z = torch.randn(7, CONTEXT), torch.randn(9, 7, 3)
    for got, expected in zip(program.module()(context, z), flow(context).from_latent(z), strict=True):
        assert torch.allclose(got, expected, atol=1e-6)


def test_the_same_seed_gives_the_same_architecture():
    settings = FlowSettings(mixing="permutation", split="random_halves", layers=4, hidden=8)
    one, two = (build_flow(6, 2, settings=settings).state_dict() for _ in range(2))
    other = build_flow(6, 2, settings=settings.model_copy(update={"seed": 1})).state_dict()
    integers = [name for name, value in one.items() if not value.is_floating_point()]
    assert integers and all(torch.equal(one[name], two[name]) for name in integers)
    assert any(not torch.equal(one[name], other[name]) for name in integers)


def test_wrong_shapes_say_what_was_expected(context):
    flow = build_flow(3, CONTEXT, settings=FlowSettings(layers=1, hidden=8))
    with pytest.raises(SettingsError, match="E = 6"):
        flow(torch.zeros(2, 5))
    with pytest.raises(SettingsError, match=r"B = 3 contexts and D = 3"):
        flow(context).log_prob(torch.zeros(4, 2, 3))
    with pytest.raises(SettingsError, match="no weights"):
        build_flow(3, CONTEXT, settings=FlowSettings(layers=0, standardiser="none"))
