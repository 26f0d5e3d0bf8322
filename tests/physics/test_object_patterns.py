"""Fields and written patterns: spectra, fractions, periods and spokes are those asked for."""

import math

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics.objects import blobs, fields, lithography, stars
from nfphasing_bluesky.physics.objects.draws import turned_grid
from nfphasing_bluesky.physics.objects.layers import _wires, draw_stacks, render_stacks
from nfphasing_bluesky.physics.objects.lithography import Grating
from nfphasing_bluesky.physics.objects.stamps import coverage


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def full(n: int, value: float) -> torch.Tensor:
    return torch.full((n,), float(value))


def windowed_power(maps: torch.Tensor) -> torch.Tensor:
    """Power (H, W // 2 + 1) under a Hann window, mean of the maps."""
    hann = torch.hann_window(maps.shape[-1], periodic=True, dtype=torch.float64)
    spectrum = torch.fft.rfft2(maps.double() * hann * hann[:, None])
    return spectrum.abs().square().mean(0)


def frequencies(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.fft.fftfreq(size).double()[:, None], torch.fft.rfftfreq(size).double()[None]


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 4.0])
def test_fields_have_the_power_law_asked_for(exponent):
    n, size = 64, 128
    spectrum = fields.Spectrum(full(n, exponent), full(n, 0), full(n, 1), full(n, 0))
    field = fields.gaussian_field(spectrum, (size, size), seeded())
    torch.testing.assert_close(field.mean((1, 2)), torch.zeros(n), atol=1e-4, rtol=0)
    torch.testing.assert_close(field.std((1, 2)), torch.ones(n))
    ky, kx = frequencies(size)
    k = (ky**2 + kx**2).sqrt()
    band = (k > 6 / size) & (k < 0.45)
    slope, _ = np.polyfit(k[band].log(), windowed_power(field)[band].log(), 1)
    assert slope == pytest.approx(-exponent, abs=0.12)


def test_stretched_fields_are_longer_along_their_angle():
    n, size = 64, 96
    spectrum = fields.Spectrum(full(n, 3), full(n, 0), full(n, 3), full(n, math.pi / 2))
    field = fields.gaussian_field(spectrum, (size, size), seeded())
    across, along = field.diff(dim=2).square().mean(), field.diff(dim=1).square().mean()
    # the angle turns from columns to rows: slow along rows
    assert float(across / along) > 3


def test_fields_are_not_periodic():
    field = fields.gaussian_field(fields.power_laws(200, seeded(), 3, 4), (64, 64), seeded(1))
    step = field.diff(dim=2).square().mean()
    wrap = (field[:, :, 0] - field[:, :, -1]).square().mean()
    assert float(wrap / step) > 10


def test_bands_peak_at_their_wavelength():
    size, wavelength = 128, 10.0
    n = 32
    spectrum = fields.Spectrum(full(n, 10), full(n, 1 / wavelength), full(n, 1), full(n, 0))
    power = windowed_power(fields.gaussian_field(spectrum, (size, size), seeded()))
    ky, kx = frequencies(size)
    ring = ((ky**2 + kx**2).sqrt() * size).round().long()
    total = torch.zeros(int(ring.max()) + 1).double().index_add_(0, ring.flatten(), power.flatten())
    mean = total / torch.bincount(ring.flatten())
    assert abs(int(mean.argmax()) - size / wavelength) <= 1.5


def test_a_cut_field_covers_the_share_asked_for():
    n = 200
    share = torch.linspace(0.1, 0.9, n)
    spectrum = fields.bands(n, seeded(), 6, 8)
    field = fields.gaussian_field(spectrum, (64, 64), seeded(1))
    cut = fields.above(field, fields.quantile(share), fields.slope(field))
    error = cut.mean((1, 2)) - share
    assert float(error.mean().abs()) < 0.01 and float(error.abs().max()) < 0.08


def test_cut_edges_are_a_pixel_wide_and_in_place():
    x = torch.arange(20.0).expand(1, 20, 20)
    cut = fields.above(0.3 * x, torch.tensor([0.3 * 9.75]), fields.slope(0.3 * x))
    torch.testing.assert_close(cut[0, 5, 8:12], torch.tensor([0.0, 0.0, 0.75, 1.0]), atol=1e-5, rtol=0)


def test_membranes_are_narrower_than_what_they_enclose():
    maps = blobs.membranes(100, (64, 64), seeded())
    wall = (maps > 0.8).float().mean((1, 2))
    assert 0.05 < float(wall.median()) < 0.5


def peak_frequency(maps: torch.Tensor) -> torch.Tensor:
    """(n, 2) frequency of the strongest Fourier component but the mean, padded fourfold; cycles/px."""
    size = maps.shape[-1]
    hann = torch.hann_window(size, periodic=True)
    flat = (maps - maps.mean((1, 2), keepdim=True)) * hann * hann[:, None]
    power = torch.fft.fft2(flat, s=(4 * size, 4 * size)).abs().flatten(1)
    at = power.argmax(1)
    axis = torch.fft.fftfreq(4 * size)
    return torch.stack([axis[at // (4 * size)], axis[at % (4 * size)]], 1)


def test_gratings_have_their_period_direction_and_duty():
    n, size = 60, 128
    grating = lithography.draw_gratings(n, (size, size), seeded(1))
    period = grating.period.clamp(max=size / 5)
    grating = grating._replace(chirp=full(n, 0), pattern=full(n, 0), period=period, duty=grating.duty)
    maps = coverage(lithography.grating_distance(grating, (size, size)))
    peak = peak_frequency(maps)
    expected = torch.stack([grating.angle.sin(), grating.angle.cos()], 1) / period[:, None]
    # up to sign; within half a channel of the frame
    off = torch.minimum((peak - expected).norm(dim=1), (peak + expected).norm(dim=1))
    assert float(off.max()) < 0.5 / size
    long = period < size / 8
    torch.testing.assert_close(maps.mean((1, 2))[long], grating.duty[long], atol=0.04, rtol=0)


def test_a_chirped_grating_has_the_local_period_it_should():
    size = 128
    grating = Grating(
        full(1, 0), full(1, 12), full(1, 0.5), full(1, 0), full(1, 0.6), full(1, 12), full(1, 0)
    )
    line = coverage(lithography.grating_distance(grating, (size, size)))[0, 0].numpy()
    up = np.nonzero((line[:-1] < 0.5) & (line[1:] >= 0.5))[0]
    edge = up + (0.5 - line[up]) / (line[up + 1] - line[up])
    middle, found = (edge[1:] + edge[:-1]) / 2 - (size - 1) / 2, np.diff(edge)
    np.testing.assert_allclose(found, 12 / (1 + 0.6 * middle / size), atol=0.35)
    assert found.max() / found.min() > 1.4


@pytest.mark.parametrize(("pattern", "share"), [(0, 0.4), (1, 0.16), (2, 0.64), (3, 0.48)])
def test_crossed_gratings_cover_what_their_duty_implies(pattern, share):
    grating = Grating(*(full(8, v) for v in (0.3, 10, 0.4, 0, 0, 9, pattern)))
    maps = coverage(lithography.grating_distance(grating, (128, 128)))
    # a chequerboard is one or the other set of lines, not both
    assert float(maps.mean()) == pytest.approx(share, abs=0.03)


def test_lines_and_spaces_stay_resolvable():
    grating = lithography.draw_gratings(500, (64, 64), seeded())
    finest = grating.period / (1 + 0.7072 * grating.chirp.abs())
    line, space = finest * grating.duty, finest * (1 - grating.duty)
    assert float(finest.min()) > 3.9
    assert float(torch.minimum(line, space).min()) > 1.45


def ring_of(image: torch.Tensor, centre: tuple[float, float], radius: float, points: int) -> np.ndarray:
    """Values on a circle by bilinear interpolation."""
    angle = np.arange(points) * 2 * np.pi / points
    y, x = centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    v, u = y - i, x - j
    a = image.numpy()
    return (a[i, j] * (1 - u) + a[i, j + 1] * u) * (1 - v) + (a[i + 1, j] * (1 - u) + a[i + 1, j + 1] * u) * v


@pytest.mark.parametrize("spokes", [10, 24, 36])
def test_siemens_stars_have_their_spokes(spokes):
    size = 160
    star = stars.draw_stars(1, (size, size), seeded())._replace(
        centre=torch.tensor([[3.3, -4.2]]),
        spokes=full(1, spokes),
        duty=full(1, 0.5),
        inner=full(1, 25),
        outer=full(1, 70),
        ring_width=torch.tensor([[4.0, 0.0, 4.0]]),
        ring=torch.tensor([[35.0, 50.0, 60.0]]),
        solid=torch.tensor([[True, True, False]]),
        hub=full(1, 10),
        missing=full(1, 0),
    )
    image = coverage(stars.star_distance(star, (size, size)))[0]
    middle = ((size - 1) / 2 + 3.3, (size - 1) / 2 - 4.2)
    for radius in (30, 45, 50, 67):
        line = ring_of(image, middle, radius, 720)
        power = np.abs(np.fft.rfft(line - line.mean()))
        assert power.argmax() == spokes
        assert line.mean() == pytest.approx(0.5, abs=0.03)
    assert ring_of(image, middle, 35, 720).min() > 0.9
    assert ring_of(image, middle, 60, 720).max() < 0.1
    assert ring_of(image, middle, 5, 720).min() > 0.9
    assert ring_of(image, middle, 20, 720).max() < 0.1
    assert ring_of(image, middle, 74, 720).max() < 0.1


def test_a_label_interrupts_its_spokes():
    star = stars.draw_stars(1, (160, 160), seeded())._replace(
        centre=torch.zeros(1, 2),
        spokes=full(1, 20),
        inner=full(1, 15),
        outer=full(1, 75),
        ring_width=torch.zeros(1, 3),
        missing=full(1, 3),
        cut=torch.tensor([[40.0, 60.0]]),
    )
    image = coverage(stars.star_distance(star, (160, 160)))[0]
    share = [ring_of(image, (79.5, 79.5), r, 720).mean() for r in (30, 50, 70)]
    assert share[1] / share[0] == pytest.approx(17 / 20, abs=0.03)
    assert share[2] / share[0] == pytest.approx(1, abs=0.03)


def test_zones_of_a_zone_plate_have_equal_areas(monkeypatch):
    rings = lithography.Rings(torch.zeros(1, 2), full(1, 60), full(1, 6), full(1, 2), full(1, 0))
    monkeypatch.setattr(lithography, "draw_rings", lambda *_: rings)
    image = lithography.zone_plates(1, (129, 129), seeded())[0]
    line = image[64, 64:].numpy()
    cross = np.nonzero((line[:-1] >= 0.5) != (line[1:] >= 0.5))[0]
    edge = cross + (0.5 - line[cross]) / (line[cross + 1] - line[cross])
    # 60 / (2 * 6) = 5 zone pairs: the squares of their radii are evenly spaced, and the last one ends at 60
    assert edge[-1] == pytest.approx(60, abs=0.1)
    np.testing.assert_allclose(np.diff(edge**2), 60**2 / 10, rtol=0.06)
    assert edge[-1] - edge[-3] == pytest.approx(6, abs=0.4)


def test_wires_lie_on_their_lattice():
    M, size, pitch = 30, 128, 16.0
    maps = _wires(full(M, 0), full(M, pitch), (size, size), seeded())
    assert maps.min() >= 0 and maps.max() <= 1
    # tracks repeat down the rows: the spectrum of the row profile has its line at the pitch
    profile = maps.mean(2) - maps.mean((1, 2))[:, None]
    power = torch.fft.rfft(profile).abs().square().mean(0)
    assert int(power.argmax()) == size / pitch
    assert 0.1 < float(maps.mean()) < 0.6


def test_flat_layers_have_their_places_and_levels():
    n, shape = 40, (48, 64)
    stack = draw_stacks(n, shape, seeded())._replace(height=full(n, 0))
    maps = render_stacks(stack, shape, seeded())
    u, _ = turned_grid(shape, stack.angle)
    where = torch.searchsorted(stack.edge, u.flatten(1)).view(u.shape)
    expected = stack.level.gather(1, where.flatten(1)).view(u.shape)
    distance = (u[..., None] - stack.edge[:, None, None]).abs().amin(-1)
    clear = distance > 1.0
    assert clear.float().mean() > 0.3
    torch.testing.assert_close(maps[clear], expected[clear], atol=1e-5, rtol=0)
    assert (stack.edge.diff(dim=1) >= 0).all()
    assert (stack.level[:, 0] == 0).all() and (stack.level[:, -1] == 0).all()
