"""Curves on any q grid: what is kept, what is invariant, what is refused."""

import math

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import GeometryError, SettingsError
from nfphasing_bluesky.flows import (
    CHANNELS,
    CurveEncoder,
    CurveNetwork,
    EncoderSettings,
    LogGrid,
    bin_centres,
    resample_curve,
)

GRID = LogGrid()
LOG, RATIO, NOISE, COVERAGE, OFFSET = range(len(CHANNELS))


def guinier(q, radius=30.0):
    return torch.exp(-(q**2) * radius**2 / 3) + 1e-3


def curve(points=474, low=0.01, high=0.5, relative=0.01, dtype=torch.float32):
    q = torch.linspace(low, high, points, dtype=dtype)
    intensity = guinier(q)
    return q, intensity[None], (relative * intensity + 1e-4)[None], torch.zeros(1, points, dtype=torch.bool)


def test_channels_against_a_plain_loop():
    q, intensity, sigma, mask = curve(dtype=torch.float64)
    noise = torch.randn(intensity.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    intensity = intensity + sigma * noise
    mask[0, 100:120] = True
    got = resample_curve(q, intensity, sigma, mask, GRID)
    c = float(got.normalisation[0])
    centres = bin_centres(GRID).numpy()
    width = math.log(centres[1] / centres[0])
    nearest = np.round((np.log(q.numpy()) - math.log(centres[0])) / width).astype(int)
    usable = ~mask[0].numpy()
    for k in range(GRID.points):
        inside = usable & (nearest == k)
        assert got.channels[0, COVERAGE, k] == float(inside.any())
        if not inside.any():
            continue
        i, s = intensity[0].numpy()[inside], sigma[0].numpy()[inside]
        mean, error = np.average(i, weights=s**-2) / c, (s**-2).sum() ** -0.5 / c
        offset = np.average(np.log(q.numpy()[inside] / centres[k]), weights=s**-2) / width
        values = got.channels[0, :, k].numpy()
        assert values[NOISE] == pytest.approx(math.log(error) / 4, rel=1e-9)
        assert values[RATIO] == pytest.approx(math.asinh(mean / error) / 4, rel=1e-9)
        assert values[LOG] == pytest.approx((math.log(error) + math.asinh(mean / error / 2)) / 4, rel=1e-9)
        assert values[OFFSET] == pytest.approx(offset, abs=1e-9)


def test_interpolated_bins_follow_the_curve_and_admit_their_noise():
    """Sparse points: bins between them hold the curve within their stated error, coverage 0."""
    q, intensity, sigma, mask = curve(points=40, low=0.005, high=0.3, dtype=torch.float64)
    got = resample_curve(q, intensity, sigma, mask, GRID)
    centres = bin_centres(GRID)
    between = (got.channels[0, COVERAGE] == 0) & (got.channels[0, RATIO] != 0)
    assert between.sum() > 20
    value = 4 * got.channels[0, LOG, between]
    truth = (guinier(centres[between]) / got.normalisation[0]).log()
    relative = (4 * (got.channels[0, NOISE, between] - got.channels[0, LOG, between])).exp()
    assert ((value - truth).abs() < 3 * relative.clamp_min(0.01)).all()
    beyond = (centres < 0.0045) | (centres > 0.32)
    assert (got.channels[0, :, beyond] == 0).all()


def test_a_gap_is_no_data_and_its_noise_says_so():
    q, intensity, sigma, mask = curve(dtype=torch.float64)
    gap = (q > 0.03) & (q < 0.08)
    whole = resample_curve(q, intensity, sigma, mask, GRID).channels
    masked = resample_curve(q, intensity, sigma, mask | gap, GRID).channels
    inside = (bin_centres(GRID) > 0.034) & (bin_centres(GRID) < 0.07)
    assert (masked[0, COVERAGE, inside] == 0).all() and (whole[0, COVERAGE, inside] == 1).all()
    assert (masked[0, NOISE, inside] > whole[0, NOISE, inside] + 0.25).all()


@pytest.mark.parametrize("factor", [1e-9, 3.7e-3, 41.0, 1e9])
def test_scale_changes_the_normalisation_only(factor):
    torch.manual_seed(0)
    encoder = CurveEncoder(EncoderSettings(width=64, blocks=2, stem_channels=4)).eval()
    q, intensity, sigma, mask = curve()
    one, other = encoder(q, intensity, sigma, mask), encoder(q, factor * intensity, factor * sigma, mask)
    assert (one.context - other.context).abs().max() <= 1e-5
    assert float(other.normalisation / one.normalisation) == pytest.approx(factor, rel=1e-5)


def test_normalisation_is_the_low_q_intensity_whatever_the_grid():
    for points in (30, 200, 5000):
        q, intensity, sigma, mask = curve(points=points, low=0.003, high=0.4)
        c = float(resample_curve(q, intensity, sigma, mask, GRID).normalisation)
        assert c == pytest.approx(1.0, abs=0.05)


def test_padding_masked_and_broken_points_change_nothing():
    q, intensity, sigma, mask = curve()
    one = resample_curve(q, intensity, sigma, mask, GRID)
    pad = 60
    junk = torch.full((1, pad), math.nan)
    longer = torch.cat((q[None], torch.full((1, pad), 0.2)), 1), torch.cat((intensity, junk), 1)
    masked = torch.cat((mask, torch.ones(1, pad, dtype=torch.bool)), 1)
    padded = resample_curve(*longer, torch.cat((sigma, junk), 1), masked, GRID)
    torch.testing.assert_close(padded.channels, one.channels)
    torch.testing.assert_close(padded.normalisation, one.normalisation)
    broken = torch.cat((mask, torch.zeros(1, pad, dtype=torch.bool)), 1)
    sevens = torch.cat((intensity, torch.full((1, pad), 7.0)), 1)
    zeros = torch.cat((sigma, torch.zeros(1, pad)), 1)
    zero_sigma = resample_curve(longer[0], sevens, zeros, broken, GRID)
    torch.testing.assert_close(zero_sigma.channels, one.channels)


def test_a_batch_is_its_curves_one_by_one():
    q, intensity, sigma, mask = curve()
    batch = torch.cat((intensity, 5 * intensity.square(), intensity.sqrt()))
    masks = torch.stack((mask[0], q < 0.05, q > 0.2))
    sigmas = sigma.expand(3, -1)
    together = resample_curve(q, batch, sigmas, masks, GRID)
    for b in range(3):
        alone = resample_curve(q[None], batch[b : b + 1], sigmas[b : b + 1], masks[b : b + 1], GRID)
        torch.testing.assert_close(alone.channels[0], together.channels[b])


def test_hopeless_curves_stay_finite():
    q, intensity, sigma, mask = curve()
    for i, m in ((intensity, ~mask), (0 * intensity, mask), (-intensity, mask), (intensity, q[None] < 0.49)):
        got = resample_curve(q, i, sigma, m, GRID)
        assert torch.isfinite(got.channels).all() and (got.normalisation > 0).all()
    nothing = resample_curve(q, intensity, sigma, ~mask, GRID)
    assert (nothing.channels == 0).all() and nothing.normalisation == 1


def test_q_of_zero_and_beyond_the_grid_are_left_out():
    q = torch.tensor([0.0, 1e-4, 0.01, 0.02, 5.0])
    i = torch.tensor([[9e9, 9e9, 1.0, 0.9, 9e9]])
    got = resample_curve(q, i, torch.full((1, 5), 0.01), torch.zeros(1, 5, dtype=torch.bool), GRID)
    assert got.channels[0, COVERAGE].sum() == 2
    assert float(got.normalisation) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("stem", [0, 8])
def test_network_exports_with_any_batch(stem):
    network = CurveNetwork(EncoderSettings(width=64, blocks=2, stem_channels=stem, extras=3)).eval()
    batch = torch.export.Dim("B", min=2, max=4096)
    inputs = (torch.randn(4, 5, 128), torch.randn(4, 3))
    program = torch.export.export(network, inputs, dynamic_shapes=({0: batch}, {0: batch}))
    channels, extras = torch.randn(9, 5, 128), torch.randn(9, 3)
    assert torch.allclose(program.module()(channels, extras), network(channels, extras), atol=1e-6)


def test_autocast_still_sees_a_part_in_a_thousand():
    torch.manual_seed(0)
    network = CurveNetwork(EncoderSettings(width=64, blocks=0, context=32))
    channels = 2.0 + torch.zeros(1, 5, 128)
    nudged = channels.clone()
    nudged[0, LOG, 40:80] += 1e-3
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        handle = network.first.register_forward_hook(lambda *args: seen.append(args[2]))
        network(channels), network(nudged)
    handle.remove()
    assert seen[0].dtype == torch.float32
    assert (seen[1] - seen[0]).abs().max() > 1e-5


def test_gradients_reach_every_weight():
    encoder = CurveEncoder(EncoderSettings(width=32, blocks=2, stem_channels=4))
    encoder(*curve()).context.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_wrong_shapes_say_what_was_expected():
    q, intensity, sigma, mask = curve()
    with pytest.raises(GeometryError, match=r"expected \(B, Q\)"):
        resample_curve(q, intensity, sigma[0], mask, GRID)
    with pytest.raises(SettingsError, match="got 0 extra scalars per curve, expected 2"):
        CurveNetwork(EncoderSettings(width=32, extras=2))(torch.zeros(1, 5, 128))
    with pytest.raises(ValueError, match="is not below"):
        LogGrid(q_min_inv_angstrom=1.0, q_max_inv_angstrom=0.5)
