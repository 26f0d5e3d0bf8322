"""Tempering: draws follow their weights as far as these carry, and the flow stays where nothing explains."""

import pytest
import torch

from nfphasing_bluesky.inference.importance import ess_fraction
from nfphasing_bluesky.inference.tempered import NOT_EXPLAINED, OF_THE_FLOW, power_of, temper
from nfphasing_bluesky.modalities import Draws
from nfphasing_bluesky.modalities.draws import Evaluated

S, ERROR = 2000, 0.5


class Line:
    """One number theta, prior standard normal, measured with an error: the posterior is known."""

    def evaluate(self, draws, batch, noise):
        measured = batch[draws.frame]
        pull = (measured - draws.theta[:, 0]) / ERROR
        nuisance = {"frame": draws.frame.float()}
        return Evaluated(-0.5 * pull.square(), nuisance, draws.theta[:, :1])

    def reduced_chi2(self, batch, predicted):
        return ((batch - predicted[:, 0]) / ERROR).square()


class Normal:
    """What the flow draws: mean and width."""

    def __init__(self, mean, width):
        self.mean, self.width = mean, width

    def without_fits(self):
        return self

    def draw(self, latent):
        b, s = latent.shape[:2]
        theta = self.mean + self.width * latent[..., :1].reshape(-1, 1)
        log_q = -0.5 * latent[..., 0].square() - torch.tensor(self.width).log()
        label = torch.zeros(b * s, dtype=torch.long)
        return Draws(label, theta, torch.arange(b).repeat_interleave(s)), log_q.flatten()


def tempered(measured, mean, width, least=0.5, chi2_explains=1.5):
    batch, subject, flow = torch.tensor(measured), Line(), Normal(mean, width)
    b = len(batch)
    generator = torch.Generator().manual_seed(0)
    latent, own = torch.randn(2, b, S, 1, generator=generator)
    draws, log_q = flow.draw(latent)
    evaluated = subject.evaluate(draws, batch, None)
    log_w = (evaluated.log_likelihood - 0.5 * draws.theta[:, 0].square() - log_q).double().view(b, S)
    noise = own, torch.zeros(b * S, 0), torch.full((b,), 0.3)
    made = temper(subject, flow, batch, (draws, evaluated, log_w), noise, least, chi2_explains)
    return made, flow.draw(own)[0].theta.view(b, S), log_w


def test_good_weights_give_the_posterior():
    made, _, _ = tempered([1.0, -0.4], 0.0, 1.0, least=0.3)
    theta = made.draws.theta.view(2, S)
    precision = 1 + ERROR**-2
    expected = torch.tensor([1.0, -0.4]) * ERROR**-2 / precision
    torch.testing.assert_close(theta.mean(1), expected, atol=0.03, rtol=0)
    torch.testing.assert_close(theta.std(1), torch.full((2,), precision**-0.5), atol=0.03, rtol=0)
    assert made.doubts == ["", ""]
    assert torch.equal(made.predicted, made.draws.theta)
    assert made.evaluated.nuisance["frame"].view(2, S)[1].eq(1).all()


def test_poor_weights_leave_a_part_of_the_flow():
    made, own, log_w = tempered([1.0], 0.0, 20.0)
    assert float(ess_fraction(log_w)) < 0.1
    theta = made.draws.theta.view(1, S)
    stayed = (theta == own).double().mean()
    assert float(stayed) == pytest.approx(OF_THE_FLOW, abs=0.01)
    # what is looked at is the fit, without those
    assert float(made.predicted.std()) < 0.8 * float(theta.std())
    assert made.doubts == [""]


def test_the_fit_that_is_looked_at_is_not_that_of_the_worst_draws():
    made, _, log_w = tempered([1.0], 0.0, 20.0, least=0.9)
    away = (made.predicted.view(S) - 1.0).abs()
    kept = ((made.draws.theta.view(S) - 1.0).abs() <= away.max()).double().mean()
    assert float(away.max()) < 0.8 * float((made.draws.theta - 1.0).abs().max())
    assert 0.5 < float(kept) < 0.9


def test_where_no_draw_explains_the_flow_stays():
    made, own, _ = tempered([1.0, 900.0], 0.0, 1.0, least=0.3)
    assert made.doubts == ["", NOT_EXPLAINED]
    theta = made.draws.theta.view(2, S)
    assert torch.equal(theta[1], own[1])
    assert not torch.equal(theta[0], own[0])
    assert made.draws.frame.view(2, S)[1].eq(1).all()


def test_the_power_is_the_largest_that_keeps_the_sample_size():
    even, one, none = torch.zeros(100), torch.full((100,), -1e3), torch.full((100,), -torch.inf)
    one[0] = 0.0
    none[:60] = -5.0 * torch.arange(60)
    log_w = torch.stack([even, one, none]).double()
    power = power_of(log_w, 0.5)
    assert float(power[0]) == 1.0
    # with v = exp(-1000 b): (1 + 99 v)^2 = 50 (1 + 99 v^2)
    v = torch.exp(-1e3 * power[1])
    assert float((1 + 99 * v) ** 2 / (1 + 99 * v**2)) == pytest.approx(50, rel=1e-3)
    kept = torch.where(torch.isneginf(log_w[2]), log_w[2], power[2] * log_w[2])
    assert float(ess_fraction(kept[None])) == pytest.approx(0.5, rel=1e-3)
