"""zuko computes the same functions: values and log-determinants agree to 1e-5."""

import pytest
import torch

from nfphasing_bluesky.flows import AffineCoupling, LULinear
from nfphasing_bluesky.flows.spline import knots, spline_forward, spline_inverse

TOLERANCE = 1e-5


@pytest.fixture
def transforms(oracle):
    oracle("zuko")
    return oracle("zuko.transforms")


@pytest.mark.parametrize("bound", [1.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_splines(transforms, bound, dtype):
    bins = 8
    widths, heights = 2 * torch.randn(2, 400, 3, bins, dtype=dtype)
    slopes = torch.randn(400, 3, bins - 1, dtype=dtype)
    reference = transforms.MonotonicRQSTransform(widths, heights, slopes, bound=bound)
    table = torch.stack((reference.horizontal, reference.vertical, reference.derivatives), dim=-2)
    x = bound * torch.randn(400, 3, dtype=dtype)
    expected, expected_log_slope = reference.call_and_ladj(x)
    y, log_slope = spline_forward(x, table, bound)
    back, log_slope_back = spline_inverse(expected, table, bound)
    assert (x.abs() > bound).any() and (x.abs() < bound).any()
    assert (y - expected).abs().max() <= TOLERANCE
    assert (log_slope - expected_log_slope).abs().max() <= 10 * TOLERANCE if dtype is torch.float32 else 1e-9
    expected_back = reference.inv(expected)
    assert (back - expected_back).abs().max() <= (1e-3 if dtype is torch.float32 else 1e-9)
    assert torch.allclose(log_slope_back, -expected_log_slope, atol=2e-2 if dtype is torch.float32 else 1e-9)


def test_our_knots_in_their_spline(transforms):
    """From unconstrained values on; our inverse in float32 is as good as theirs in float64."""
    bins, bound = 8, 5.0
    table = knots(2 * torch.randn(500, 4, 3 * bins - 1), bins, bound)
    reference = transforms.MonotonicRQSTransform(torch.zeros(bins), torch.zeros(bins), torch.zeros(bins - 1))
    reference.horizontal, reference.vertical, reference.derivatives = table.unbind(-2)
    x = 3 * torch.randn(500, 4)
    y, log_slope = spline_forward(x, table, bound)
    expected, expected_log_slope = reference.call_and_ladj(x)
    assert (y - expected).abs().max() <= TOLERANCE
    assert (log_slope - expected_log_slope).abs().max() <= TOLERANCE
    back, _ = spline_inverse(y, table, bound)
    exact = reference_inverse(reference, y)
    assert (back - exact).abs().max() <= 20 * TOLERANCE
    assert (back - exact).abs().median() <= 1e-6


def reference_inverse(reference, y):
    """Their inverse, in float64."""
    for name in ("horizontal", "vertical", "derivatives"):
        setattr(reference, name, getattr(reference, name).double())
    return reference.inv(y.double())


def test_knots_are_ordered_end_at_the_bound_and_start_as_the_identity():
    table = knots(30 * torch.randn(1000, 23), 8, 5.0)
    steps = table[:, :2].diff(dim=-1)
    assert steps.min() >= 0.1 * 10 / 8 * 0.99
    assert torch.allclose(table[:, :2, [0, -1]], torch.tensor([-5.0, 5.0]).expand(1000, 2, 2))
    assert table[:, 2].min() >= 0.02 and (table[:, 2, [0, -1]] == 1).all()
    plain = knots(torch.zeros(23, dtype=torch.float64), 8, 5.0)
    assert torch.allclose(plain[0], plain[1]) and torch.allclose(plain[2], torch.ones(9).double())


def test_affine_coupling(transforms):
    mask = torch.tensor([True, False, True, False, False])
    ours = AffineCoupling(mask, 3, hidden=16).double()
    torch.nn.init.normal_(ours.conditioner.last.weight)
    context = torch.randn(7, 3).double()
    x = torch.randn(7, 5).double()

    def meta(fixed):
        shift, raw = ours.conditioner(fixed, context).unflatten(-1, (2, 2)).unbind(-1)
        log_scale = 3 * torch.tanh(raw / 3)
        # zuko squeezes its log-scale by 1 / (1 + |a| / c); undone here, so that only the map is compared.
        limit = -torch.log(torch.tensor(1e-12)).double()
        inner = log_scale / (1 - log_scale.abs() / limit)
        return torch.distributions.transforms.IndependentTransform(
            transforms.MonotonicAffineTransform(shift, inner, slope=1e-12), 1
        )

    reference = transforms.CouplingTransform(meta, ~mask)
    expected = reference(x)
    y, log_det = ours(x, context)
    assert (y - expected).abs().max() <= TOLERANCE
    assert (log_det - reference.log_abs_det_jacobian(x, expected)).abs().max() <= TOLERANCE
    assert (ours.inverse(expected, context)[0] - reference.inv(expected)).abs().max() <= TOLERANCE


def test_lu(transforms):
    ours = LULinear(6)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    scale = ours.log_diagonal.exp().detach()
    # (I + L) S (I + U): zuko keeps the diagonal in its lower factor.
    lower = (ours.lower.tril(-1) + torch.eye(6)) * scale
    reference = transforms.LULinearTransform((lower + ours.upper.triu(1)).detach())
    x = torch.randn(50, 1, 6)
    y, log_det = ours(x, torch.zeros(1, 1))
    expected = reference(x)
    assert (y - expected).abs().max() <= TOLERANCE
    assert (log_det - reference.log_abs_det_jacobian(x, expected)).abs().max() <= TOLERANCE
    assert (ours.inverse(y, torch.zeros(1, 1))[0] - reference.inv(y)).abs().max() <= 10 * TOLERANCE
