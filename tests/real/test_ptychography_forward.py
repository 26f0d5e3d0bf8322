"""Ptychography frames, measured and simulated, against objects and probes that other codes found."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics import counting, propagate, ptychography
from nfphasing_bluesky.physics.ptychography import FarField, NearField, expected_intensity


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(B,) Pearson correlation of images (B, ...)."""
    a, b = (x.double().flatten(1) for x in (a, b))
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def lit_phase_correlation(found: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> list[float]:
    """Correlation of the phases of each pair of patches where they are lit."""
    result = []
    for a, b, lit in zip(found, truth, weight > 0.15, strict=True):
        phases = [(x[lit] * x[lit].sum().conj()).angle() for x in (a, b)]
        result.append(float(torch.corrcoef(torch.stack(phases))[0, 1]))
    return result


@pytest.fixture(scope="module")
def moonflower(shared_data):
    return np.load(shared_data / "ptychography/sim_ptypy_moonflower/moonflower.npz")


def test_moonflower_geometry(moonflower):
    wavelength_m = 12.398419843e-10 / float(moonflower["energy_keV"])
    pixel_m = propagate.far_field_pixel_m(
        wavelength_m, float(moonflower["distance_m"]), 128, float(moonflower["psize_m"][0])
    )
    np.testing.assert_allclose(pixel_m, moonflower["resolution_m"], rtol=1e-5)
    metres = torch.from_numpy(moonflower["positions_m"])
    zero = ptychography.positions_px(metres, (pixel_m, pixel_m), origin_px=(0.0, 0.0))
    offset = torch.from_numpy(moonflower["pixel_positions"]) - zero
    # theirs are rounded
    assert (offset.amax(0) - offset.amin(0)).max() < 1


def test_moonflower_frames(moonflower):
    image, probe = (torch.from_numpy(moonflower[name]) for name in ("object", "probe"))
    counts = torch.from_numpy(moonflower["data"])
    positions = torch.from_numpy(moonflower["pixel_positions"])
    patches = ptychography.extract_patches(image, positions.double(), (128, 128))
    found = expected_intensity(patches, probe[None], FarField())
    y, x = moonflower["pixel_positions"][5]
    exit_wave = moonflower["probe"].astype(complex) * moonflower["object"][y : y + 128, x : x + 128]
    stored = np.abs(np.fft.fftshift(np.fft.fft2(exit_wave, norm="ortho"))) ** 2
    assert np.abs(found[5].numpy() - stored).max() < 1e-5 * stored.max()
    assert (counting.best_scale(counts, found) - 1).abs().max() < 1e-3
    chi2 = counting.pearson_chi2(counts, found, least=1)
    assert float(chi2.median()) == pytest.approx(1, abs=0.01)
    assert 0.95 < float(chi2.min()) and float(chi2.max()) < 1.06


@pytest.fixture(scope="module")
def siemens(shared_data):
    """(counts, patches, probe (B, P, H, W) with the fractions of the positions) of the whole scan."""
    folder = shared_data / "ptychography/siemens_star_aps"
    data, reference = (
        np.load(folder / name) for name in ("siemens_star_small.npz", "reference_ptychi_lsqml.npz")
    )
    image = torch.from_numpy(reference["object"])
    positions = torch.from_numpy(reference["positions_px_centred"]).double()
    positions += torch.tensor([n // 2 - 64 for n in image.shape])
    _, fraction = ptychography.split_positions(positions)
    patches = ptychography.extract_patches(image, positions, (128, 128))
    # their Fourier transform is not normalised
    modes = 128 * torch.from_numpy(reference["probe"])
    probe = ptychography.fourier_shift(modes.expand(len(fraction), -1, -1, -1), fraction)
    return torch.from_numpy(data["data"]), patches, probe


def test_siemens_star_frames(siemens):
    counts, patches, probe = siemens
    found = expected_intensity(patches, probe, FarField(centred=False))
    amplitude = correlation(found.sqrt(), counts.sqrt())
    assert float(amplitude.median()) > 0.993
    assert (amplitude > 0.99).float().mean() > 0.99
    assert (counting.best_scale(counts, found) - 1).abs().max() < 0.1


def test_what_one_siemens_star_frame_says(siemens):
    counts, patches, probe = (part[:520:13] for part in siemens)
    far_field = FarField(centred=False)
    found = {}
    for updates in (1, 5, 20):
        estimate = ptychography.projection_updates(counts, probe, far_field, updates=updates)
        found[updates] = np.median(lit_phase_correlation(estimate.patch, patches, estimate.weight))
    for updates, least in ((1, 0.74), (5, 0.77), (20, 0.78)):
        assert found[updates] > least, found


@pytest.fixture(scope="module")
def p25(shared_data):
    folder = shared_data / "holography/p25_nearfield_siemens"
    return np.load(folder / "p25_nearfield.npz"), np.load(folder / "reference_cdtools.npz")


def test_p25_geometry(p25):
    data, _ = p25
    beam = propagate.cone_beam(
        float(data["focus_to_sample_m"]), float(data["detector_distance_m"]), float(data["detector_pixel_m"])
    )
    assert beam.pixel_m == pytest.approx(float(data["effective_pixel_m"]), rel=1e-6)
    number = propagate.pixel_fresnel_number(beam.pixel_m, float(data["wavelength_m"]), beam.distance_m)
    assert number == pytest.approx(float(data["fresnel_number_pixel"]), rel=1e-6)
    # translations (x, y, z) are the object's: positions run against them
    metres = torch.from_numpy(data["translation_m"][:, [1, 0]]).double()
    zero = ptychography.positions_px(metres, (beam.pixel_m, beam.pixel_m), sign=-1, origin_px=(0.0, 0.0))
    offset = torch.from_numpy(data["reference_pixel_positions_yx"]) - zero
    assert (offset - offset.mean(0)).abs().max() < 1e-3


def test_p25_holograms(p25):
    data, reference = p25
    image, probe = (torch.from_numpy(reference[name]) for name in ("object", "probe"))
    positions = torch.from_numpy(data["reference_pixel_positions_yx"])
    patches = ptychography.extract_patches(image, positions, (100, 100), subpixel=True)
    near_field = NearField(float(data["fresnel_number_pixel"]))
    found = expected_intensity(patches, probe[None], near_field)
    good = torch.from_numpy(data["mask_good"]).bool()
    counts = torch.from_numpy(data["data"])
    images = correlation(found[:, good], counts[:, good])
    assert float(images.median()) > 0.98
    assert float(images.min()) > 0.9
    # one factor for all frames is the detector's: their fit has a weight of each frame
    scale = counting.best_scale(counts, found, ~good)
    assert float(scale.std() / scale.mean()) < 0.1
    assert float(scale.mean()) == pytest.approx(1.5, abs=0.1)
