"""Counting on 2-D detectors: likelihoods against scipy, masks, scales."""

import pytest
import torch
from scipy.stats import poisson

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.physics import counting


def frames(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    expected = 5 * torch.rand(n, 20, 30, generator=generator, dtype=torch.float64)
    return torch.poisson(expected, generator=generator), expected


def test_log_likelihood_is_scipys():
    counts, expected = frames()
    found = counting.poisson_log_likelihood(counts, expected)
    theirs = poisson.logpmf(counts.numpy(), expected.numpy()).sum((1, 2))
    torch.testing.assert_close(found, torch.from_numpy(theirs))


def test_masked_pixels_do_not_count_whatever_they_hold():
    counts, expected = frames()
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[3:7] = True
    spoilt = counts.clone()
    spoilt[:, 3:7] = torch.nan
    mean = expected.clone().requires_grad_()
    found = counting.poisson_log_likelihood(spoilt, mean, mask)
    theirs = poisson.logpmf(counts.numpy(), expected.numpy())[:, ~mask.numpy()].sum(1)
    torch.testing.assert_close(found, torch.from_numpy(theirs))
    found.sum().backward()
    assert mean.grad is not None and torch.isfinite(mean.grad).all() and (mean.grad[:, 3:7] == 0).all()
    torch.testing.assert_close(
        counting.best_scale(spoilt, expected, mask), counting.best_scale(counts, expected, mask)
    )
    assert torch.isfinite(counting.pearson_chi2(spoilt, expected, mask)).all()


def test_best_scale_has_the_largest_likelihood():
    counts, expected = frames()
    scale = counting.best_scale(counts, 3 * expected)
    at = [counting.poisson_log_likelihood(counts, 3 * expected, None, scale * f) for f in (0.99, 1.0, 1.01)]
    assert (at[1] > at[0]).all() and (at[1] > at[2]).all()
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / 3), rtol=0.05, atol=0)


def test_photons_where_none_are_expected_are_finite_and_bad():
    counts, expected = frames(1)
    dark = torch.where(counts > 3, 0.0, expected).requires_grad_()
    found = counting.poisson_log_likelihood(counts, dark)
    found.sum().backward()
    assert torch.isfinite(found).all() and dark.grad is not None and torch.isfinite(dark.grad).all()
    assert (found < counting.poisson_log_likelihood(counts, expected)).all()


def test_chi2_is_one_on_average():
    counts, expected = frames(400)
    chi2 = counting.pearson_chi2(counts, expected, least=0.5)
    assert float(chi2.mean()) == pytest.approx(1, abs=0.01)
    assert (counting.pearson_chi2(counts, 1.5 * expected, least=0.5).mean() - 1).abs() > 0.1


def test_gaps_stops_and_dead_pixels():
    rows, columns = torch.tensor([[2], [99]]), torch.tensor([[5], [99]])
    gaps = counting.module_gaps((8, 10), rows, columns, 2)
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[2:4] = True
    expected[:, 5:7] = True
    assert torch.equal(gaps[0], expected) and not gaps[1].any()
    stop = counting.beam_stop_disc((9, 9), torch.tensor([[4.0, 3.0]]), torch.tensor([1.5]))
    assert stop[0].nonzero().tolist() == [[y, x] for y in (3, 4, 5) for x in (2, 3, 4)]
    dead = counting.dead_pixels(2, (100, 100), torch.tensor([0.0, 0.1]), torch.Generator().manual_seed(0))
    assert not dead[0].any() and dead[1].float().mean() == pytest.approx(0.1, abs=0.02)


def test_errors_say_what_is_wrong():
    counts, expected = frames()
    with pytest.raises(FrameError, match="differ"):
        counting.poisson_log_likelihood(counts[:, 1:], expected)
    with pytest.raises(FrameError, match=r"mask is torch.bool \(19, 30\)"):
        counting.pearson_chi2(counts, expected, torch.zeros(19, 30, dtype=torch.bool))
    with pytest.raises(FrameError, match="True where a pixel must not be used"):
        counting.best_scale(counts, expected, torch.zeros(20, 30))
