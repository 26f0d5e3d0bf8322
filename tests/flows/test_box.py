"""No draw ever leaves the prior."""

import math

import pytest
import torch
from scipy import stats

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows import Box, FlowSettings, build_flow

BOUNDS = [(0.0, 1.0), (-5.0, -4.999), (10.0, 300.0), (1e-6, 2e-6), (-1e4, 1e4), (0.1, 0.7)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_latents_stay_strictly_inside_with_finite_density(dtype):
    lower, upper = (torch.tensor(v, dtype=torch.float64) for v in zip(*BOUNDS, strict=True))
    settings = FlowSettings(layers=2, hidden=8, head_hidden=8)
    flow = build_flow(len(BOUNDS), 2, lower, upper, settings).to(dtype)
    size = torch.tensor([0.0, 1.0, 8.0, 20.0, 50.0, 100.0, 1e3, 1e6, 1e10], dtype=dtype)
    z = torch.cat((size, -size))[:, None, None].expand(-1, 1, len(BOUNDS))
    distribution = flow(torch.zeros(1, 2))
    theta, log_prob = distribution.from_latent(z)
    if dtype == torch.float64:  # then the bounds themselves are those rounded to float32
        lower, upper = flow.box.lower, flow.box.upper
    # In float32, compared in float64 with the bounds as the caller wrote them.
    assert (theta.double() > lower).all() and (theta.double() < upper).all()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(distribution.log_prob(theta)).all()


def test_draws_of_a_prior_in_other_coordinates_never_count_as_outside():
    low, high = 3.3e-4, 71.7
    box = Box(torch.tensor([low]), torch.tensor([high]))
    edges = torch.exp(torch.log(torch.tensor([[low], [high]])))
    assert box.contains(torch.cat((edges, edges * (1 + 1e-7), edges * (1 - 1e-7)))).sum() >= 4
    assert not box.contains(torch.tensor([[high * 1.00001]]))


def test_density_is_zero_outside_and_finite_on_the_edge():
    flow = build_flow(2, 3, [0.0, 0.0], [1.0, 2.0], FlowSettings(layers=2, hidden=8))
    theta = torch.tensor([[0.5, 1.0], [0.0, 2.0], [1.1, 1.0], [0.5, -1e-3]])[:, None]
    log_prob = flow(torch.zeros(1, 3)).log_prob(theta)[:, 0]
    assert torch.isfinite(log_prob[:2]).all()
    assert (log_prob[2:] == -math.inf).all()


@pytest.mark.parametrize("near", [1e-6, 1e-12, 1e-18])
def test_quantile_is_exact_close_to_an_edge_at_zero(near):
    for lower, upper, x, sign in ((0.0, 3.0, near, 1), (-3.0, 0.0, -near, -1)):
        box = Box(torch.tensor([lower]), torch.tensor([upper]))
        y, log_det = box(torch.tensor([[x]]), torch.zeros(1, 1))
        quantile = stats.norm.ppf(near / 3)
        assert float(y) == pytest.approx(sign * quantile, rel=1e-6)
        assert float(log_det) == pytest.approx(-math.log(3) - stats.norm.logpdf(quantile), rel=1e-5)
        back, _ = box.inverse(y, torch.zeros(1, 1))
        assert float(back) == pytest.approx(x, rel=1e-5)


def test_uniform_points_become_standard_normal():
    box = Box(torch.tensor([-2.0, 5.0]), torch.tensor([3.0, 6.0]))
    u = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    y, _ = box(box.lower + u * (box.upper - box.lower), torch.zeros(1, 1))
    assert stats.kstest(y.flatten().numpy(), "norm").pvalue > 0.01


def test_a_point_outside_does_not_poison_the_gradient():
    flow = build_flow(1, 3, [0.0], [1.0], FlowSettings(layers=1, hidden=8, head_hidden=8))
    log_prob = flow(torch.zeros(2, 3)).log_prob(torch.tensor([[0.5], [7.0]]))
    log_prob[torch.isfinite(log_prob)].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in flow.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("lower", "upper"), [([0.0], [0.0]), ([1.0], [0.0]), ([0.0], [math.inf]), ([1e6], [1e6 + 1e-3])]
)
def test_boxes_without_an_inside_are_refused(lower, upper):
    with pytest.raises(SettingsError, match="expected finite bounds"):
        Box(torch.tensor(lower), torch.tensor(upper))


def test_boxes_of_the_wrong_size_are_refused():
    with pytest.raises(SettingsError, match="shapes"):
        Box(torch.zeros(2), torch.ones(3))
    with pytest.raises(SettingsError, match="expected D = 3"):
        build_flow(3, 2, [0.0] * 2, [1.0] * 2)
    with pytest.raises(SettingsError, match="both or neither"):
        build_flow(3, 2, [0.0] * 3)


def test_a_coordinate_without_bounds_is_left_as_it_is():
    box = Box(torch.tensor([0.0, -math.inf]), torch.tensor([2.0, math.inf]))
    x = torch.tensor([[0.5, -1234.5], [1.9, 3e8]])
    y, log_det = box(x, x)
    assert torch.equal(y[:, 1], x[:, 1])
    back, back_log_det = box.inverse(y, y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(log_det, -back_log_det)
    only, alone = Box(torch.tensor([0.0]), torch.tensor([2.0]))(x[:, :1], x)
    torch.testing.assert_close(only, y[:, :1])
    torch.testing.assert_close(alone, log_det)
    assert box.contains(x).all() and not box.contains(x + 2)[1]
