"""Propagation against closed forms (beam, grating, impulse response) and a direct high-resolution sum."""

import math

import numpy as np
import pytest
import torch
from scipy.special import fresnel

from nfphasing_bluesky.core import FrameError, GeometryError, SettingsError
from nfphasing_bluesky.physics import propagate
from nfphasing_bluesky.physics.propagate import fresnel_propagate

NUMBERS = (1e-3, 4.1e-3, 0.03, 0.3, 3.0)


def smooth_field(n: int, batch: int = 2, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    """Random exit waves around 1 that end within the frame."""
    generator = torch.Generator().manual_seed(n)
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    window = torch.exp(-8 * x.square())
    noise = torch.randn(batch, n, n, generator=generator, dtype=torch.float64)
    blurred = torch.fft.ifft2(torch.fft.fft2(noise) * _gauss(n)[:, None] * _gauss(n)).real
    return torch.exp(3j * blurred * window[:, None] * window).to(dtype)


def _gauss(n: int) -> torch.Tensor:
    return torch.exp(-((torch.fft.fftfreq(n, dtype=torch.float64) * 8) ** 2))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("n", [64, 257])
def test_impulse_response_is_the_fresnel_integral(number, n):
    place = np.arange(n)
    scale = math.sqrt(2 / number)
    s, c = fresnel(scale * (np.array([[-0.5], [0.5]]) - place * number))
    expected = np.exp(1j * np.pi * number * place**2) * ((c[1] - c[0]) - 1j * (s[1] - s[0])) / scale
    matrix = propagate.fresnel_matrix(n, torch.tensor([number], dtype=torch.float64))[0]
    for column in (0, n - 1):
        found = matrix[:, column].flip(0) if column else matrix[:, column]
        assert np.abs(found.numpy() - expected).max() < 2e-5 * math.sqrt(number)


@pytest.mark.parametrize("number", NUMBERS)
def test_constant_boundary_is_the_padded_high_resolution_result(number):
    n, wide = 48, 2048
    field = smooth_field(n, 1)
    big = torch.ones(1, wide, wide, dtype=torch.complex128)
    big[:, :n, :n] = field
    f = torch.fft.fftfreq(wide, dtype=torch.float64)
    spectrum = torch.fft.fft2(big) * torch.exp(-1j * torch.pi * (f[:, None] ** 2 + f**2) / number)
    expected = torch.fft.ifft2(spectrum)[:, :n, :n]
    assert relative(fresnel_propagate(field, number), expected) < 3e-5


@pytest.mark.parametrize("number", [4e-3, 0.03])
def test_replicate_boundary_is_the_padded_high_resolution_result(number):
    n, pad = 48, 1000
    field = smooth_field(n, 1).roll(17, -1) * torch.linspace(0.8, 1.1, n, dtype=torch.float64)
    parts = [
        torch.nn.functional.pad(part[None], (pad,) * 4, mode="replicate")[0]
        for part in (field.real, field.imag)
    ]
    # the far edges of the padding send waves of their own: a window makes them fade
    x = (torch.arange(n + 2 * pad, dtype=torch.float64) - pad - n / 2).abs() / (pad + n / 2)
    window = 0.5 * torch.erfc((x - 0.6) * 8)
    wide = torch.complex(*parts) * window[:, None] * window
    expected = fresnel_propagate(wide, number, boundary="periodic")[:, pad:-pad, pad:-pad]
    assert relative(fresnel_propagate(field, number, boundary="replicate"), expected) < 1e-3


@pytest.mark.parametrize("boundary", ["constant", "replicate", "periodic"])
def test_a_plane_wave_stays_one(boundary):
    wave = torch.full((1, 30, 41), 0.6 + 0.8j, dtype=torch.complex128)
    there = fresnel_propagate(wave, 2e-3, boundary=boundary, outside=0.6 + 0.8j)
    torch.testing.assert_close(there, wave)


@pytest.mark.parametrize("boundary", ["constant", "periodic"])
@pytest.mark.parametrize("number", [5e-3, 0.02, 1.0])
def test_gaussian_beam(boundary, number):
    # exp(-pi x^2 / w^2) has the spectrum w exp(-pi w^2 f^2): propagation adds i / Fr to w^2
    n, w = 256, 9.0
    x = torch.arange(n, dtype=torch.float64) - n // 2
    r2 = (x[:, None] ** 2 + x**2)[None]
    there = fresnel_propagate(torch.exp(-torch.pi * r2 / w**2) + 0j, number, boundary=boundary, outside=0.0)
    wide = w**2 + 1j / number
    expected = w**2 / wide * torch.exp(-torch.pi * r2 / wide)
    # the beam's own foot at the edge, at the longest distance
    assert relative(there, expected) < 3e-4


def test_talbot_self_imaging():
    period, n = 16, 128
    grating = torch.exp(1.3j * (torch.arange(n) % period < 5)).to(torch.complex128).expand(1, n, n)
    talbot = 1 / (2 * period**2)
    whole = fresnel_propagate(grating, talbot, boundary="periodic")
    torch.testing.assert_close(whole, grating)
    half = fresnel_propagate(grating, 2 * talbot, boundary="periodic")
    torch.testing.assert_close(half, grating.roll(period // 2, -1))


def test_energy_semigroup_and_inverse():
    field = smooth_field(64)
    there = fresnel_propagate(field, 0.01, boundary="periodic")
    energy = there.abs().square().sum((1, 2)) / field.abs().square().sum((1, 2))
    torch.testing.assert_close(energy, torch.ones_like(energy))
    twice = fresnel_propagate(there, 0.03, boundary="periodic")
    once = fresnel_propagate(field, 1 / (1 / 0.01 + 1 / 0.03), boundary="periodic")
    torch.testing.assert_close(twice, once)
    back = fresnel_propagate(there.conj(), 0.01, boundary="periodic").conj()
    torch.testing.assert_close(back, field)


def test_semigroup_in_the_infinite_plane():
    # light that has left the frame does not come back, so the object is small and the distances short
    field = smooth_field(128)
    twice = fresnel_propagate(fresnel_propagate(field, 0.2), 0.3)
    assert relative(twice, fresnel_propagate(field, 0.12)) < 2e-3


def test_batches_modes_and_float32():
    field = smooth_field(64, 6)
    numbers = torch.tensor([1e-3, 0.01, 0.1], dtype=torch.float64)
    for boundary in ("constant", "replicate", "periodic"):
        modes = fresnel_propagate(field.reshape(3, 2, 64, 64), numbers, boundary=boundary)
        for i, number in enumerate(numbers.tolist()):
            single = fresnel_propagate(field[2 * i : 2 * i + 2], number, boundary=boundary)
            torch.testing.assert_close(modes[i], single, rtol=1e-5, atol=1e-6)
        low = fresnel_propagate(field[::2].to(torch.complex64), numbers.float(), boundary=boundary)
        assert low.dtype == torch.complex64
        torch.testing.assert_close(low.to(torch.complex128), modes[:, 0], rtol=0, atol=3e-6)


@pytest.mark.parametrize("boundary", ["constant", "replicate", "periodic"])
def test_gradients(boundary):
    field = smooth_field(6, 1).requires_grad_()
    number = torch.tensor([0.21], dtype=torch.float64, requires_grad=True)
    propagated = lambda wave, fr: fresnel_propagate(wave, fr, boundary=boundary).abs().square()  # noqa: E731
    assert torch.autograd.gradcheck(propagated, (field, number))


@pytest.mark.parametrize("shape", [(130, 201), (40, 257)])
@pytest.mark.parametrize("number", [1e-3, 0.03])
def test_long_axes_get_the_sums_of_the_matrix(shape, number):
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(2, 3, *shape, dtype=torch.complex128, generator=generator)
    numbers = torch.tensor([number, 2 * number], dtype=torch.float64)
    rows, columns = (propagate.fresnel_matrix(n, numbers)[:, None] for n in shape)
    free_space = propagate.FreeSpace(shape, numbers, field)
    torch.testing.assert_close(free_space(field), rows @ field @ columns.mT)
    torch.testing.assert_close(free_space.adjoint(field), rows.mH @ field @ columns.conj())
    single = propagate.FreeSpace(shape, numbers, field.to(torch.complex64))(field.to(torch.complex64))
    torch.testing.assert_close(single, free_space(field).to(torch.complex64), rtol=0, atol=1e-5)


def test_gradients_of_long_axes(monkeypatch):
    monkeypatch.setattr(propagate, "_LONG", 4)
    test_gradients("constant")


def test_far_field_convention_and_parseval():
    field = smooth_field(32)[:, :, :30]
    there = propagate.far_field(field)
    torch.testing.assert_close(there.abs().square().sum(), field.abs().square().sum())
    torch.testing.assert_close(propagate.far_field_inverse(there), field)
    flat = propagate.far_field(torch.ones(1, 8, 9, dtype=torch.complex128))
    assert int(flat.abs().argmax()) == 4 * 9 + 4
    # a phase ramp of k turns over the frame moves the direct beam by k pixels
    ramp = torch.exp(2j * torch.pi * 3 * torch.arange(30, dtype=torch.float64) / 30)
    torch.testing.assert_close(propagate.far_field(field * ramp), there.roll(3, -1))


def test_geometry():
    # nanofocus holography at P25: the numbers published with the data
    beam = propagate.cone_beam(3.65e-3, 1.12, 55e-6)
    assert beam.magnification == pytest.approx(307.85, rel=1e-4)
    assert beam.pixel_m == pytest.approx(178.66e-9, rel=1e-4)
    assert beam.distance_m == pytest.approx(3.638e-3, rel=1e-4)
    number = propagate.pixel_fresnel_number(beam.pixel_m, 0.9794912e-10, beam.distance_m)
    assert number == pytest.approx(0.089571, rel=1e-4)
    wavelength_m = 12.398419843e-10 / 7.2
    assert propagate.far_field_pixel_m(wavelength_m, 7.19, 128, 172e-6) == pytest.approx(56.237e-9, rel=1e-4)
    many = propagate.pixel_fresnel_number(torch.tensor([1e-7, 2e-7]), 1e-10, 1e-3)
    torch.testing.assert_close(many, torch.tensor([0.1, 0.4]))


def test_errors_say_what_is_wrong():
    wave = torch.ones(2, 8, 8, dtype=torch.complex64)
    for bad in (0.0, -1e-3, float("nan"), torch.tensor([1e-3, -1e-3])):
        with pytest.raises(GeometryError, match="fresnel_number=.*expected finite and positive"):
            fresnel_propagate(wave, bad)
    with pytest.raises(GeometryError, match="use far_field"):
        fresnel_propagate(wave, 1e-7)
    with pytest.raises(GeometryError, match=r"shape \(3,\), expected a number or \(2,\)"):
        fresnel_propagate(wave, torch.full((3,), 0.1))
    with pytest.raises(FrameError, match=r"expected \(B, H, W\)"):
        fresnel_propagate(wave[0], 0.1)
    with pytest.raises(FrameError, match="expected a complex"):
        fresnel_propagate(wave.real, 0.1)
    with pytest.raises(SettingsError, match="'reflect' is unknown"):
        fresnel_propagate(wave, 0.1, boundary="reflect")
    with pytest.raises(GeometryError, match="distance_m=-1"):
        propagate.pixel_fresnel_number(1e-7, 1e-10, -1.0)
