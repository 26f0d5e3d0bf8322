"""Noise: declared variances are those of the draws; masks and q errors do what they say."""

import pytest
import torch

from nfphasing_bluesky.physics import noise


def curve(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    q = torch.linspace(0.02, 0.4, 30, dtype=torch.float64).expand(n, -1)
    return q, torch.exp(-((q * 20) ** 2) / 3) + 0.01


def test_poisson_and_buffer_variance_is_the_declared_one():
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    q, intensity = curve(n)
    counts, buffer = torch.full((n,), 200.0).double(), torch.full((n,), 0.05).double()
    zero = torch.zeros(n, dtype=torch.float64)
    sigma = noise.reduced_curve_sigma(q, intensity, counts=counts, floor=zero, buffer=buffer)
    found, declared = noise.subtracted_curve(q, intensity, counts=counts, buffer=buffer, generator=generator)
    residual = (found - intensity) / sigma
    # standard errors: 1 / sqrt(n) of a mean, sqrt(2 / n) of a variance; five of each over 30 points
    assert residual.mean(0).abs().max() < 5 * n**-0.5
    assert (residual.var(0) - 1).abs().max() < 5 * (2.5 / n) ** 0.5
    ratio = declared.square().mean(0) / sigma.square().mean(0)
    assert (ratio - 1).abs().max() < 0.05


def test_counts_grow_with_the_pixels_of_a_ring():
    q = torch.tensor([[0.1, 0.101, 0.102], [0.2, 0.201, 0.202]], dtype=torch.float64)
    counts = torch.tensor([7.0, 7.0], dtype=torch.float64)
    found = noise.exposure(q, counts)
    torch.testing.assert_close(found[:, 0], torch.tensor([7.0, 14.0], dtype=torch.float64))


def test_floor_adds_in_quadrature():
    q, intensity = curve(1)
    many = torch.tensor([1e12], dtype=torch.float64)
    floor, zero = torch.tensor([0.03], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    sigma = noise.reduced_curve_sigma(q, intensity, counts=many, floor=floor, buffer=zero)
    torch.testing.assert_close(sigma, 0.03 * intensity, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        noise.add_floor(sigma, intensity, 4 / 3 * floor), 0.05 * intensity, rtol=1e-4, atol=0
    )


def test_missing_ranges_are_varied_and_leave_half():
    q, _ = curve(2000)
    mask = noise.random_missing_ranges(q, torch.Generator().manual_seed(2))
    assert mask.dtype == torch.bool and mask.shape == q.shape
    assert (mask.sum(1) <= 15).all()
    assert mask[:, 0].any() and mask[:, -1].any() and mask[:, 15].any()
    assert (~mask.any(1)).any()


def test_beam_stop_and_gaps():
    q = torch.linspace(0, 1, 11, dtype=torch.float64)[None]
    stop = noise.beam_stop(q, torch.tensor([0.15], dtype=torch.float64))
    gap = noise.gaps(
        q, torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([[0.3]], dtype=torch.float64)
    )
    assert stop[0].nonzero().flatten().tolist() == [0, 1]
    assert gap[0].nonzero().flatten().tolist() == [4, 5, 6]


def test_a_longer_wavelength_or_distance_means_a_smaller_q():
    q, _ = curve(2)
    errors = torch.tensor([0.01, 0.0], dtype=torch.float64), torch.tensor([0.0, -0.02], dtype=torch.float64)
    ratio = (noise.scaled_q(q, *errors) / q)[:, 0]
    torch.testing.assert_close(ratio, torch.tensor([1 / 1.01, 1 / 0.98], dtype=torch.float64))


def test_stated_sigmas_do_not_give_the_curve_away():
    n = 400
    q, intensity = curve(n)
    sigma = noise.uneven_sigma(0.03 * intensity, torch.Generator().manual_seed(0))
    off = (sigma / (0.03 * intensity)).log()
    assert 0.15 < float(off.std()) < 0.4
    # a smooth part, so that averaging over neighbours does not help, and an independent one
    neighbours = (off[:, 1:] - off[:, :-1]).std() / off.std()
    assert 0.2 < float(neighbours) < 1.0
    again = noise.uneven_sigma(0.03 * intensity, torch.Generator().manual_seed(0))
    assert torch.equal(sigma, again)


@pytest.mark.parametrize("level", [0.3, 3.0, 30.0, 1e4])
def test_weights_that_follow_counts_do_not_pull_a_scale(level):
    generator = torch.Generator().manual_seed(4)
    radius, azimuth = torch.linspace(0, 1, 48).double()[:, None], torch.arange(48) * (2 * torch.pi / 48)
    pixels = (1 + 20 * radius).round().expand(200, 48, 48)
    shape = (-5 * radius).exp() * (1 + 0.6 * azimuth.cos()) + 0.01
    shape = shape / (shape * pixels[0]).mean()
    counts = noise.poisson_counts(level * shape * pixels, generator)
    found = noise.local_counts(counts, pixels, circular=True)
    weight = pixels / found.level
    kept = (
        weight
        * shape
        * torch.stack(
            [counts / pixels, noise.made_up_for(counts / pixels, found.level / pixels, found.own / pixels)]
        )
    )
    precision = (weight * shape.square()).sum((1, 2))
    as_counted, made_up = ((kept.sum((2, 3)) / precision - level) * precision.sqrt()).mean(1)
    assert abs(float(made_up)) < 0.25, "of a standard deviation; chance alone: 0.07"
    assert level < 1 or float(as_counted) < -0.4
