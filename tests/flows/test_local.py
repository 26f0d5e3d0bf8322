"""A flow and fits beside it: one density, whoever a draw is of."""

import math

import pytest
import torch

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows import Box, FlowAndFits, FlowSettings, LocalFits, build_flow
from nfphasing_bluesky.flows.local import OF_THE_FLOW, WIDER

B, D, E, S = 3, 2, 4, 4000
SETTINGS = FlowSettings(layers=2, hidden=8, head_hidden=8)


@pytest.fixture
def fits() -> LocalFits:
    """Two of the first context, one of the second, none of the third."""
    location = torch.tensor([[[-1.0, 0.5], [1.0, 0.0]], [[0.3, 0.3], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    factor = torch.tensor([[0.2, 0.0], [0.1, 0.3]]).expand(B, 2, D, D)
    share = torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.0, 0.0]])
    return LocalFits(location, factor, share.log())


@pytest.fixture
def flow():
    torch.manual_seed(0)
    made = build_flow(D, E, [-1.0] * D, [2.0] * D, SETTINGS)
    return made(torch.randn(B, E))


@torch.no_grad()
def drawn(mixture):
    z = torch.randn(S, B, D, generator=torch.Generator().manual_seed(1))
    return mixture.from_latent(z)


def test_draws_come_with_the_density_of_the_mixture(flow, fits):
    mixture = FlowAndFits(flow, fits)
    theta, log_q = drawn(mixture)
    with torch.no_grad():
        again = mixture.log_prob(theta)
    # rounding at the edges of the box aside
    inside = ((theta > -0.99) & (theta < 1.99)).all(-1)
    torch.testing.assert_close(log_q[inside], again[inside], atol=2e-3, rtol=1e-3)


def test_parts_are_normalised_under_draws_of_the_whole(flow, fits):
    theta, log_q = drawn(FlowAndFits(flow, fits))
    with torch.no_grad():
        of_flow = (flow.log_prob(theta) - log_q).exp().mean(0)
        y, log_det = flow.flow.box(theta, theta)
        of_fits = (fits.log_prob(y) + log_det - log_q).exp().mean(0)
    torch.testing.assert_close(of_flow, torch.ones(B), atol=0.05, rtol=0)
    torch.testing.assert_close(of_fits, torch.tensor([1.0, 1.0, 0.0]), atol=0.05, rtol=0)


def test_weights_are_at_most_twice_those_of_the_flow(flow, fits):
    theta, log_q = drawn(FlowAndFits(flow, fits))
    with torch.no_grad():
        assert float((flow.log_prob(theta) - log_q).max()) <= -math.log(OF_THE_FLOW) + 1e-3


def test_any_first_few_draws_are_shared_out(flow, fits):
    theta, _ = drawn(FlowAndFits(flow, fits))
    first = theta[:40, 1]
    box = Box(torch.full((D,), -1.0), torch.full((D,), 2.0))
    pulls = (box(first, first)[0] - fits.location[1, 0]) @ torch.linalg.inv(WIDER * fits.factor[1, 0]).T
    assert 0.4 < float((pulls.norm(dim=1) < 4).double().mean()) < 0.75


def test_without_fits_it_is_the_flow(flow, fits):
    theta, log_q = drawn(FlowAndFits(flow, fits))
    z = torch.randn(S, B, D, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone, of_flow = flow.from_latent(z)
    torch.testing.assert_close(theta[:, 2], alone[:, 2])
    torch.testing.assert_close(log_q[:, 2], of_flow[:, 2])


def test_nothing_lies_outside_of_the_box(flow, fits):
    outside = torch.tensor([[[2.5, 0.0]]]).expand(1, B, D)
    with torch.no_grad():
        assert torch.isneginf(FlowAndFits(flow, fits).log_prob(outside)).all()


def test_fits_need_a_box(fits):
    flow = build_flow(D, E, settings=SETTINGS)
    with pytest.raises(SettingsError, match="box"):
        FlowAndFits(flow(torch.zeros(B, E)), fits)
