"""One contract over every transform."""

import copy

import pytest
import torch
from torch.func import jacrev, vmap

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows import AffineCoupling, Box, ConditionalGaussian, Permutation, build_flow
from nfphasing_bluesky.flows.transforms import soft_clamp

CONTEXT = 6
S, B = 4, 3


def data_for(transform, dimension, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 2.5 * torch.randn(S, B, dimension, generator=generator, dtype=dtype)
    if isinstance(transform, Box):
        x = transform.lower + (transform.upper - transform.lower) * torch.sigmoid(x)
    return x, torch.randn(B, CONTEXT, generator=generator, dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_inverse_undoes_forward_and_their_determinants_cancel(transform, dimension, dtype, tolerance):
    transform = transform.to(dtype)
    x, context = data_for(transform, dimension, dtype)
    y, log_det = transform(x, context)
    back, log_det_back = transform.inverse(y, context)
    scale = 1 + x.abs().max()
    assert y.shape == x.shape
    assert log_det.shape == log_det_back.shape == (S, B)
    assert (back - x).abs().max() <= tolerance * scale
    assert (log_det + log_det_back).abs().max() <= 10 * tolerance


def test_log_determinant_is_that_of_autograd(transform, dimension):
    transform = transform.double()
    x, context = data_for(transform, dimension, torch.float64)
    y, _ = transform(x, context)

    for direction, start in ((transform.forward, x), (transform.inverse, y.detach())):

        def alone(row, given, direction=direction):
            return direction(row[None], given[None])[0][0]

        jacobian = vmap(vmap(jacrev(alone)), in_dims=(0, None))(start, context)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        assert (direction(start, context)[1] - expected).abs().max() <= 1e-8


def test_draws_with_one_context_do_not_mix(transform, dimension):
    """Row (s, b) depends on x[s, b] and context[b] only."""
    x, context = data_for(transform, dimension, torch.float32)
    y, log_det = transform(x, context)
    for b in range(B):
        alone, log_det_alone = transform(x[2, b][None], context[b][None])
        assert torch.allclose(alone[0], y[2, b], atol=1e-5)
        assert torch.allclose(log_det_alone[0], log_det[2, b], atol=1e-5)


def test_gradients_reach_every_weight_and_stay_finite(transform, dimension):
    x, context = data_for(transform, dimension, torch.float32)
    x = x.requires_grad_()
    y, log_det = transform(x, context)
    (y.square().sum() + log_det.sum()).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    for name, parameter in transform.named_parameters():
        if dimension == 1 and name in ("lower", "upper"):
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_weights_survive_a_round_trip_through_a_state_dict(transform, dimension):
    x, context = data_for(transform, dimension, torch.float32)
    other = copy.deepcopy(transform)
    with torch.no_grad():
        for value in other.state_dict().values():
            if value.is_floating_point():
                value.zero_()
    other.load_state_dict(transform.state_dict())
    assert torch.equal(other(x, context)[0], transform(x, context)[0])


def test_autocast_leaves_log_determinants_in_float32(transform, dimension):
    x, context = data_for(transform, dimension, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = transform(x, context)
        back, _ = transform.inverse(y, context)
    assert y.dtype == log_det.dtype == torch.float32
    assert (back - x).abs().max() <= 1e-4 * (1 + x.abs().max())


@pytest.mark.parametrize("dimension", [2, 5], indirect=True)
def test_a_new_flow_is_its_box_and_permutations(dimension):
    x = torch.randn(S, B, dimension)
    z, log_det = build_flow(dimension, CONTEXT)(torch.randn(B, CONTEXT)).to_latent(x)
    assert torch.allclose(z, x, atol=1e-5)
    assert log_det.abs().max() <= 1e-5


def test_random_permutation_moves_something():
    order = Permutation(8, torch.Generator().manual_seed(1)).order
    assert sorted(order.tolist()) == list(range(8)) != order.tolist()


def test_soft_clamp_has_slope_one_at_zero_and_reaches_its_limits():
    x = torch.tensor([-1e3, 0.0, 1e3], dtype=torch.float64, requires_grad=True)
    y = soft_clamp(x, -12.0, 3.0)
    y.sum().backward()
    assert torch.allclose(y, torch.tensor([-12.0, 0.0, 3.0], dtype=torch.float64))
    assert x.grad[1] == 1.0


def test_gaussian_reaches_posteriors_a_thousand_times_narrower_than_the_prior():
    """Strong correlation and e^-7 width, in float32, still invert to a small part of the width."""
    transform = ConditionalGaussian(3, CONTEXT, hidden=8)
    with torch.no_grad():
        transform.head.last.bias.copy_(torch.tensor([0.5, -1.0, 2.0, -8.0, -8.0, -8.0, -7.0, 0.5, 0.5]))
    z = torch.randn(200, 1, 3)
    context = torch.zeros(1, CONTEXT)
    x, _ = transform.inverse(z, context)
    correlation = torch.corrcoef((x - x.mean(0)).squeeze(1).T)[0, 1]
    assert x.std(0).max() < 0.01
    assert correlation.abs() > 0.98
    again, _ = transform(x, context)
    assert (again - z).abs().max() < 0.02


def test_a_mask_that_moves_nothing_is_refused():
    with pytest.raises(SettingsError, match="transforms nothing"):
        AffineCoupling(torch.zeros(3, dtype=torch.bool), CONTEXT)
