"""Holograms and back-projections: closed forms, limits, gradients, noise, errors."""

import pytest
import torch

from nfphasing_bluesky.core import FrameError, GeometryError, SettingsError
from nfphasing_bluesky.physics import counting, holography
from nfphasing_bluesky.physics.propagate import fresnel_propagate


def disc(n: int, radius: float = 0.15, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """(1, n, n) a smooth disc of height 1."""
    x = torch.linspace(-0.5, 0.5, n, dtype=dtype)
    r = torch.hypot(x[:, None], x)
    return torch.special.expit((radius - r) * 80)[None]


def test_no_object_gives_one():
    wave = holography.exit_wave(torch.zeros(2, 20, 24))
    torch.testing.assert_close(holography.hologram(wave, 1e-3), torch.ones(2, 20, 24))


def test_matter_has_a_negative_phase_and_absorbs():
    density, wavelength = 1e4, 0.7  # 1 micrometre of 1 e/angstrom^3
    phase = holography.phase_shift(torch.full((1, 4, 4), density), wavelength)
    assert phase[0, 0, 0].item() == pytest.approx(-2.8179403e-5 * density * wavelength)
    torch.testing.assert_close(
        holography.projected_density(phase, wavelength), torch.full((1, 4, 4), density)
    )
    wave = holography.homogeneous_exit_wave(phase, torch.tensor([0.05]))
    torch.testing.assert_close(wave.abs(), torch.exp(0.05 * phase))
    torch.testing.assert_close(wave.angle(), phase)
    torch.testing.assert_close(wave, holography.exit_wave(phase, -0.05 * phase))


def test_a_slice_of_water_has_the_tabulated_delta():
    # delta of water at 10 keV is 2.305e-6 (CXRO); phi = -2 pi delta t / lambda
    wavelength = 12.398419843 / 10.0
    thickness = 1e5
    phase = holography.phase_shift(torch.full((1, 1, 1), 0.3340 * thickness, dtype=torch.float64), wavelength)
    assert float(phase) == pytest.approx(-2 * torch.pi * 2.305e-6 * thickness / wavelength, rel=2e-3)


@pytest.mark.parametrize("beta_over_delta", [0.0, 0.02, 1.0])
def test_weak_objects_follow_the_contrast_transfer_function(beta_over_delta):
    n, number = 64, torch.tensor([0.02], dtype=torch.float64)
    phase = -1e-5 * disc(n)
    wave = holography.homogeneous_exit_wave(phase, beta_over_delta)
    exact = holography.hologram(wave, number, boundary="periodic") - 1
    A = holography.contrast((n, n), number, torch.tensor(beta_over_delta, dtype=torch.float64))
    linear = torch.fft.irfft2(A * torch.fft.rfft2(phase), s=(n, n))
    assert (exact - linear).abs().max() < 1e-4 * linear.abs().max()


@pytest.mark.parametrize("beta_over_delta", [0.0, 0.02])
@pytest.mark.parametrize("boundary", ["constant", "periodic"])
def test_back_projection_returns_a_weak_phase(beta_over_delta, boundary):
    phase = -0.01 * disc(96)
    image = holography.hologram(
        holography.homogeneous_exit_wave(phase, beta_over_delta), 0.02, boundary=boundary
    )
    found = holography.ctf_phase(
        image, 0.02, [(1e-6, 1e-4), (1e-2, 1e-1)], beta_over_delta=beta_over_delta, boundary=boundary
    )
    assert found.shape == (1, 2, 96, 96)
    # a pure phase object says nothing of its mean
    off = found - phase[:, None]
    off = off - (0 if beta_over_delta else off.mean((-2, -1), keepdim=True))
    error = (off.square().mean((-2, -1)) / phase.square().mean()).sqrt()[0]
    assert error[0] < 0.06
    assert error[0] < error[1]


def test_low_frequencies_end_at_the_first_maximum():
    number = torch.tensor([0.01, 0.04], dtype=torch.float64)
    share = holography.low_frequencies((200, 200), number)
    assert share.shape == (2, 200, 101)
    assert (share[:, 0, 0] > 0.99).all() and (share[:, 0, 100] < 1e-6).all()
    # sin(pi f^2 / Fr) is 1 at f = sqrt(Fr / 2): 0.0707 and 0.1414 cycles per pixel
    assert share[0, 0, 14] == pytest.approx(0.5, abs=0.05)
    assert share[1, 28, 0] == pytest.approx(0.5, abs=0.05)


def test_a_batch_is_its_images():
    phase = -torch.cat([0.3 * disc(40), disc(40, 0.3), 0.5 * disc(40, 0.2)])
    numbers = torch.tensor([1e-3, 0.02, 0.3], dtype=torch.float64)
    ratios = torch.tensor([0.0, 0.01, 0.1], dtype=torch.float64)
    images = holography.hologram(holography.homogeneous_exit_wave(phase, ratios), numbers)
    found = holography.ctf_phase(images, numbers, [(1e-3, 0.1)], beta_over_delta=ratios)
    for i in range(3):
        wave = holography.homogeneous_exit_wave(phase[i : i + 1], float(ratios[i]))
        single = holography.hologram(wave, float(numbers[i]))
        torch.testing.assert_close(images[i : i + 1], single, rtol=1e-5, atol=1e-5)
        one = holography.ctf_phase(single, numbers[i], [(1e-3, 0.1)], beta_over_delta=ratios[i])
        torch.testing.assert_close(found[i : i + 1], one, rtol=1e-3, atol=1e-4)


def test_float32_agrees_with_float64():
    phase = -2 * disc(128)
    high = holography.hologram(holography.homogeneous_exit_wave(phase, 0.01), 1e-3)
    low = holography.hologram(holography.homogeneous_exit_wave(phase.float(), 0.01), 1e-3)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), high, rtol=0, atol=1e-5)
    regularisations = [(1e-3, 0.1)]
    found = holography.ctf_phase(low, 1e-3, regularisations)
    torch.testing.assert_close(
        found.double(), holography.ctf_phase(high, 1e-3, regularisations), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("boundary", ["constant", "replicate", "periodic"])
def test_gradients(boundary):
    phase = (-0.8 * disc(6, 0.3)).requires_grad_()
    absorption = (0.1 * disc(6, 0.2)).requires_grad_()
    number = torch.tensor([0.12], dtype=torch.float64, requires_grad=True)

    def image(phase, absorption, number):
        return holography.hologram(holography.exit_wave(phase, absorption), number, boundary=boundary)

    assert torch.autograd.gradcheck(image, (phase, absorption, number))
    ratio = torch.tensor([0.03], dtype=torch.float64, requires_grad=True)

    def back(images, ratio):
        return holography.ctf_phase(images, 0.12, [(0.01, 0.1)], beta_over_delta=ratio, boundary=boundary)

    assert torch.autograd.gradcheck(back, (1 + phase.detach().requires_grad_(), ratio))


def test_a_hologram_with_its_own_flat_is_an_ordinary_measurement():
    generator = torch.Generator().manual_seed(0)
    clean = holography.hologram(holography.exit_wave(-0.5 * disc(64).float()), 0.01).expand(40, -1, -1)
    flats = counting.random_flats(40, (64, 64), generator)
    photons, empties = torch.full((40,), 500.0), torch.full((40,), 8)
    measured, sigma = counting.flat_corrected(clean, flats, photons, empties, generator)
    pull = (measured - clean) / sigma
    # a sigma of the counts found pulls the mean by -1 / (2 sqrt(N)), N from 100 to 1000 over these flats
    assert -0.05 < float(pull.mean()) < 0.01
    assert float(pull.std()) == pytest.approx(1, abs=0.03)


def test_flats_have_structure_and_mean_one():
    flats = counting.random_flats(30, (50, 70), torch.Generator().manual_seed(1))
    torch.testing.assert_close(flats.mean((1, 2)), torch.ones(30))
    assert (flats > 0).all() and 0.05 < float(flats.std((1, 2)).median()) < 0.6
    again = counting.random_flats(30, (50, 70), torch.Generator().manual_seed(1))
    assert torch.equal(flats, again)


def test_errors_say_what_is_wrong():
    image = torch.ones(2, 8, 8)
    with pytest.raises(GeometryError, match="fresnel_number=0"):
        holography.ctf_phase(image, 0, [(0.1, 0.1)])
    with pytest.raises(SettingsError, match="expected pairs"):
        holography.ctf_phase(image, 0.1, [(-0.1, 0.1)])
    with pytest.raises(SettingsError, match="expected pairs"):
        holography.ctf_phase(image, 0.1, [])
    with pytest.raises(SettingsError, match="boundary 'zero' is unknown"):
        holography.ctf_phase(image, 0.1, [(0.1, 0.1)], boundary="zero")
    with pytest.raises(FrameError, match="expected real intensities"):
        holography.ctf_phase(image[:, None], 0.1, [(0.1, 0.1)])
    with pytest.raises(FrameError, match=r"shape \(3,\), expected a number or \(2,\)"):
        holography.homogeneous_exit_wave(image, torch.ones(3))


def test_back_propagation_of_the_true_wave_is_the_exit_wave():
    # with phase and amplitude known, the object plane comes back but for the light that left the frame
    wave = holography.exit_wave(-disc(64, 0.1))
    there = fresnel_propagate(wave, 0.2)
    back = fresnel_propagate(there.conj(), 0.2).conj()
    assert (back - wave).abs().max() < 5e-3


@pytest.mark.parametrize("beta_over_delta", [0.0, 0.05])
def test_iterations_find_phases_that_are_not_weak(beta_over_delta):
    truth = -1.5 * disc(96)
    image = holography.hologram(holography.homogeneous_exit_wave(truth, beta_over_delta), 0.02)
    found, left = holography.iterated_ctf(
        image, 0.02, (1e-4, 0.05), (0, 2, 30), beta_over_delta=beta_over_delta
    )
    error = (found - truth[:, None]).flatten(2).norm(dim=2)[0] / truth.norm()
    assert error[0] > error[1] > error[2]
    assert error[0] > 0.12
    assert error[2] < 0.05
    # what is left of the contrast
    assert float(left.norm()) < 0.1 * float((image - 1).norm())
    assert float(found.max()) <= 0.0


def test_no_iteration_is_the_ctf_phase_below_its_limit():
    truth = -0.3 * disc(64).expand(2, -1, -1)
    number = torch.tensor([0.01, 0.05])
    image = holography.hologram(holography.exit_wave(truth), number)
    found, left = holography.iterated_ctf(image, number, (1e-3, 0.1), (0,), largest=0.02)
    expected = holography.ctf_phase(image, number, [(1e-3, 0.1)]).clamp_max(0.02)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(left, image - holography.hologram(holography.exit_wave(found[:, 0]), number))
