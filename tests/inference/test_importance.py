"""Importance weights and polish against distributions whose answer is known."""

import pytest
import torch

from nfphasing_bluesky.inference.importance import ess_fraction, resample, systematic_resample
from nfphasing_bluesky.inference.polish import polish
from nfphasing_bluesky.modalities import Draws
from nfphasing_bluesky.modalities.draws import Evaluated


def test_equal_weights_are_all_effective():
    assert float(ess_fraction(torch.zeros(1, 50, dtype=torch.float64))) == pytest.approx(1.0)


def test_one_heavy_weight_leaves_one_effective_draw():
    log_w = torch.full((1, 50), -1000.0, dtype=torch.float64)
    log_w[0, 3] = 0
    assert float(ess_fraction(log_w)) == pytest.approx(1 / 50)


def test_no_weight_at_all_is_zero_and_not_nan():
    assert float(ess_fraction(torch.full((1, 5), -torch.inf, dtype=torch.float64))) == 0.0


def test_gaussian_proposal_has_the_analytic_efficiency():
    # q = N(0, s^2), p = N(0, 1): ESS/S = sqrt(2 s^2 - 1) / s^2
    s = 1.5
    x = s * torch.randn(1, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_w = -0.5 * x**2 + 0.5 * (x / s) ** 2
    assert float(ess_fraction(log_w)) == pytest.approx((2 * s**2 - 1) ** 0.5 / s**2, rel=5e-3)


def test_resampling_follows_the_weights():
    log_w = torch.tensor([[0.0, 1.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64).log()
    index = systematic_resample(log_w, torch.tensor([0.4, 0.5]))
    assert torch.bincount(index[0], minlength=4).tolist() == [0, 1, 1, 2]
    assert index[1].tolist() == [0, 1, 2, 3]


def test_frames_with_good_weights_are_resampled_and_others_left_alone():
    # q = N(0, 1.2^2) and p = N(0, 1) in the first frame, q = N(0, 9^2) in the second
    n, s = 4000, torch.tensor([[1.2], [9.0]], dtype=torch.float64)
    x = s * torch.randn(2, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_w = -0.5 * x**2 + 0.5 * (x / s) ** 2
    theta = x.reshape(-1, 1)
    draws = Draws(torch.zeros(2 * n).long(), theta, torch.arange(2).repeat_interleave(n))
    evaluated = Evaluated(log_w.flatten(), {"scale": 10 * theta[:, 0]}, theta)
    kept, after = resample(draws, evaluated, log_w, 0.5, torch.tensor([0.3, 0.3]))
    assert float(kept.theta[:n].std()) == pytest.approx(1.0, abs=0.02)
    assert len(kept.theta[:n].unique()) > 0.6 * n
    torch.testing.assert_close(kept.theta[n:], theta[n:])
    assert kept.frame.tolist() == draws.frame.tolist()
    torch.testing.assert_close(after.nuisance["scale"], 10 * kept.theta[:, 0])
    torch.testing.assert_close(after.predicted, kept.theta)
    untouched, _ = resample(draws, evaluated, log_w, 1.0, torch.tensor([0.3, 0.3]))
    assert untouched is draws


def test_a_good_class_is_resampled_beside_a_poor_one_and_keeps_its_share():
    # p = N(0, 1) in both classes; q = N(0, 1.4^2) in the first, and far off and narrow in the second
    n, generator = 4000, torch.Generator().manual_seed(0)
    label = (torch.rand(n, generator=generator) < 0.5).long()
    mean, width = torch.tensor([0.0, 4.0]).double()[label], torch.tensor([1.4, 0.02]).double()[label]
    x = mean + width * torch.randn(n, generator=generator, dtype=torch.float64)
    log_w = (-0.5 * x**2 + 0.5 * ((x - mean) / width) ** 2 + width.log())[None]
    log_w[0, label == 1] += 20.0
    draws = Draws(label, x[:, None], torch.zeros(n).long())
    evaluated = Evaluated(log_w[0], {}, x[:, None])
    u = torch.tensor([0.3])
    as_before, _ = resample(draws, evaluated, log_w, 0.5, u)
    assert torch.equal(as_before.theta, draws.theta)
    kept, _ = resample(draws, evaluated, log_w, 0.5, u, by_class=True)
    first = kept.label == 0
    assert int(first.sum()) == pytest.approx(int((label == 0).sum()), abs=4)
    assert float(kept.theta[first].std()) == pytest.approx(1.0, abs=0.03)
    assert float(kept.theta[first].mean()) == pytest.approx(0.0, abs=0.05)
    few = draws.at(torch.arange(60))
    alone, _ = resample(few, evaluated.at(torch.arange(60)), log_w[:, :60], 0.5, u, by_class=True)
    assert torch.equal(alone.theta, few.theta)


def test_intervals_from_more_proposals_than_draws_are_less_narrow():
    # q = N(0, 0.8^2) and p = N(0, 1): the tails are of few draws with great weights. Of 39 draws of p and one
    # truth of p, the truth is smallest or largest in 2 of 40 cases
    frames, count, generator = 4000, 39, torch.Generator().manual_seed(0)
    truth, u = (f(frames, generator=generator, dtype=torch.float64) for f in (torch.randn, torch.rand))
    held = {}
    for n in (count, 8 * count):
        x = 0.8 * torch.randn(frames, n, generator=generator, dtype=torch.float64)
        log_w = -0.5 * x**2 + 0.5 * (x / 0.8) ** 2
        draws = Draws(
            torch.zeros(frames * n).long(), x.reshape(-1, 1), torch.arange(frames).repeat_interleave(n)
        )
        evaluated = Evaluated(log_w.flatten(), {"twice": 2 * draws.theta[:, 0]}, draws.theta)
        kept, after = resample(draws, evaluated, log_w, 0.1, u, count=count)
        assert kept.frame.tolist() == torch.arange(frames).repeat_interleave(count).tolist()
        assert torch.equal(after.nuisance["twice"], 2 * kept.theta[:, 0])
        shown = kept.theta.view(frames, count)
        held[n] = float(((shown.amin(1) < truth) & (truth < shown.amax(1))).double().mean())
    assert held[count] < 0.92 and held[8 * count] == pytest.approx(0.95, abs=0.012)


def test_fewer_draws_than_proposals_where_weights_say_nothing_are_of_the_proposals_alike():
    log_w = torch.full((1, 12), -torch.inf, dtype=torch.float64)
    theta = torch.arange(12.0)[:, None]
    draws = Draws(torch.zeros(12).long(), theta, torch.zeros(12).long())
    kept, _ = resample(draws, Evaluated(log_w[0], {}, theta), log_w, 0.5, torch.tensor([0.3]), count=4)
    assert kept.theta[:, 0].tolist() == [0.0, 3.0, 6.0, 9.0]


def test_a_frame_without_any_weight_keeps_its_draws():
    log_w = torch.zeros(2, 6, dtype=torch.float64)
    log_w[0] = -torch.inf
    theta = torch.arange(12.0)[:, None]
    draws = Draws(torch.zeros(12).long(), theta, torch.arange(2).repeat_interleave(6))
    u = torch.tensor([0.3, 0.3])
    kept, _ = resample(draws, Evaluated(log_w.flatten(), {}, theta), log_w, 0.1, u, by_class=True)
    assert torch.equal(kept.theta, theta)


def normal(mean, covariance):
    distribution = torch.distributions.MultivariateNormal(mean.double(), covariance.double())
    return lambda draws: distribution.log_prob(draws.theta.double())


def test_polish_turns_a_poor_proposal_into_a_correlated_target():
    generator = torch.Generator().manual_seed(1)
    covariance = torch.tensor([[1e-4, 0.9e-3], [0.9e-3, 1e-2]])
    mean = torch.tensor([0.4, -0.3])
    n = 2000
    start = Draws(
        torch.zeros(n, dtype=torch.long), torch.randn(n, 2, generator=generator), torch.zeros(n).long()
    )
    proposal = normal(torch.zeros(2), torch.eye(2))
    target = normal(mean, covariance)
    assert float(ess_fraction((target(start) - proposal(start))[None])) < 0.02
    done = polish(start, proposal, target, 30, generator)
    assert 0.1 < done.acceptance < 0.7
    assert torch.allclose(done.draws.theta.mean(0), mean, atol=0.006)
    assert torch.allclose(torch.cov(done.draws.theta.T), covariance, rtol=0.12, atol=3e-5)


def test_polish_keeps_the_weights_of_two_modes():
    generator = torch.Generator().manual_seed(2)
    n = 4000
    start = Draws(
        torch.zeros(n, dtype=torch.long), 4 * torch.randn(n, 1, generator=generator), torch.zeros(n).long()
    )
    proposal = normal(torch.zeros(1), 16 * torch.eye(1))

    def target(draws):
        x = draws.theta[:, 0].double()
        left = torch.log(torch.tensor(0.3)) - 0.5 * ((x + 3) / 0.2) ** 2
        right = torch.log(torch.tensor(0.7)) - 0.5 * ((x - 3) / 0.2) ** 2
        return torch.logaddexp(left, right)

    done = polish(start, proposal, target, 20, generator)
    share = float((done.draws.theta[:, 0] > 0).double().mean())
    assert share == pytest.approx(0.7, abs=0.04)
    assert float(done.draws.theta[done.draws.theta > 0].std()) == pytest.approx(0.2, rel=0.08)


def test_polish_within_a_box_reaches_its_walls():
    """Seven of nine coordinates say nothing: a draw that steps over a wall must not stay where it was."""
    generator = torch.Generator().manual_seed(3)
    n, width = 600, 9
    narrow = 0.25 + 0.05 * torch.randn(n, width, generator=generator)
    start = Draws(torch.zeros(n, dtype=torch.long), narrow, torch.zeros(n).long())
    proposal = normal(torch.full((width,), 0.25), 0.05**2 * torch.eye(width))
    known = normal(torch.full((2,), 0.5), 0.02**2 * torch.eye(2))

    def target(draws):
        inside = ((draws.theta >= 0) & (draws.theta <= 1)).all(1)
        own = Draws(draws.label, draws.theta[:, :2], draws.frame)
        return torch.where(inside, known(own).double(), -torch.inf)

    done = polish(start, proposal, target, 10, generator, unit_box=True)
    flat = done.draws.theta[:, 2:]
    assert float(flat.min()) >= 0 and float(flat.max()) <= 1
    assert torch.allclose(flat.mean(0), torch.full((width - 2,), 0.5), atol=0.08)
    assert torch.allclose(flat.std(0), torch.full((width - 2,), 12**-0.5), atol=0.04)
    assert torch.allclose(done.draws.theta[:, :2].std(0), torch.full((2,), 0.02), atol=0.004)
