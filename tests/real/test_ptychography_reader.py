"""Three scans through the reader: positions and predicted frames as other codes have them."""

import logging

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics import counting, ptychography
from nfphasing_bluesky.physics.ptychography import FarField, NearField, expected_intensity
from nfphasing_bluesky.storage.readers import read_frames

SIEMENS, MOONFLOWER, P25 = (
    "ptychography/siemens_star_aps",
    "ptychography/sim_ptypy_moonflower/moonflower.npz",
    "holography/p25_nearfield_siemens",
)
P25_NAMES = {
    "fresnel_number_pixel": "fresnel_number",
    "detector_distance_m": "distance_m",
    "detector_pixel_m": "pixel_size_m",
}


def correlations(a, b):
    """Pearson correlation of pairs of images (B, N)."""
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def predicted(frames, image, offset, every=1):
    """(B, H, W) expected intensities of frames, the object's pixel [0, 0] lying at -offset; their counts."""
    frames = frames[::every]
    positions = torch.tensor([frame.place for frame in frames], dtype=torch.float64) + torch.tensor(offset)
    geometry = frames[0].geometry
    number = geometry.fresnel_number
    field = FarField(geometry.centred) if number is None else NearField(number)
    patches = ptychography.extract_patches(
        torch.from_numpy(image), positions, frames[0].intensity.shape, subpixel=number is not None
    )
    probe = torch.from_numpy(geometry.probe)
    if number is None:
        _, fraction = ptychography.split_positions(positions)
        probe = ptychography.fourier_shift(probe.expand(len(frames), -1, -1, -1), fraction)
    return expected_intensity(patches, probe, field), torch.from_numpy(
        np.stack([f.intensity for f in frames])
    )


def test_moonflower(shared_data):
    stored = np.load(shared_data / MOONFLOWER)
    frames = read_frames(
        shared_data / MOONFLOWER,
        renamed={"pixel_positions": "positions_px", "psize_m": "pixel_size_m"},
    )
    assert len(frames) == 116 and frames[0].geometry.centred
    np.testing.assert_array_equal([f.place for f in frames], stored["pixel_positions"])
    # no rescaling of a probe that is right, one array for all
    np.testing.assert_array_equal(frames[0].geometry.probe[0], stored["probe"])
    assert frames[7].geometry.probe is frames[0].geometry.probe
    found, counts = predicted(frames, stored["object"], (0.0, 0.0), every=8)
    chi2 = counting.pearson_chi2(counts, found, least=1)
    assert float(chi2.median()) == pytest.approx(1, abs=0.02)


def test_moonflower_in_metres(shared_data, tmp_path):
    stored = np.load(shared_data / MOONFLOWER)
    kept = {name: stored[name] for name in ("data", "probe", "positions_m", "distance_m")}
    wavelength_m = 12.398419843e-10 / float(stored["energy_keV"])
    np.savez(tmp_path / "m.npz", **kept, wavelength_m=wavelength_m, pixel_size_m=stored["psize_m"])
    frames = read_frames(tmp_path / "m.npz")
    assert frames[0].geometry.pixel_size_m == pytest.approx(stored["resolution_m"][0], rel=1e-5)
    offset = np.array([f.place for f in frames]) - stored["pixel_positions"]
    # theirs are rounded
    assert np.ptp(offset, axis=0).max() < 1


def test_siemens_star(shared_data, caplog):
    folder = shared_data / SIEMENS
    stored, reference = (
        np.load(folder / "siemens_star_small.npz"),
        np.load(folder / "reference_ptychi_lsqml.npz"),
    )
    with caplog.at_level(logging.WARNING):
        frames = read_frames(
            folder / "siemens_star_small.npz",
            renamed={"scan": "positions_px"},
            probe=folder / "reference_ptychi_lsqml.npz",
        )
    assert len(frames) == 516 and not frames[0].geometry.centred
    assert "corner" in caplog.text and "multiplied by 128" in caplog.text
    np.testing.assert_allclose([f.place for f in frames], stored["scan"])
    np.testing.assert_allclose(frames[0].geometry.probe, 128 * reference["probe"], rtol=1e-6)
    # theirs are the same positions about the middle of the scan
    offset = (reference["positions_px_centred"] - stored["scan"]).mean(0).astype(float)
    np.testing.assert_allclose(stored["scan"] + offset, reference["positions_px_centred"], atol=1e-3)
    offset += [n // 2 - 64 for n in reference["object"].shape]
    found, counts = predicted(frames, reference["object"], offset, every=12)
    amplitude = correlations(*(np.sqrt(x.double().flatten(1).numpy()) for x in (found, counts)))
    assert np.median(amplitude) > 0.993
    assert abs(float(counting.best_scale(counts, found).median()) - 1) < 0.1


def test_siemens_star_with_its_own_first_guess(shared_data):
    stored = np.load(shared_data / SIEMENS / "siemens_star_small.npz")
    (first, *_) = read_frames(
        shared_data / SIEMENS / "siemens_star_small.npz", renamed={"scan": "positions_px"}
    )
    assert first.geometry.probe.shape == (1, 128, 128)
    light = np.square(np.abs(first.geometry.probe)).sum()
    assert light == pytest.approx(np.median(stored["data"].sum((1, 2))), rel=0.5)


def test_p25(shared_data):
    folder = shared_data / P25
    stored, reference = np.load(folder / "p25_nearfield.npz"), np.load(folder / "reference_cdtools.npz")
    frames = read_frames(
        folder / "p25_nearfield.npz",
        renamed=P25_NAMES,
        probe=folder / "reference_cdtools.npz",
        positions_sign=(-1, -1),
    )
    geometry = frames[0].geometry
    assert geometry.fresnel_number == pytest.approx(0.0896, rel=1e-3)
    assert geometry.pixel_size_m == pytest.approx(float(stored["effective_pixel_m"]), rel=1e-6)
    places = np.array([f.place for f in frames])
    offset = (stored["reference_pixel_positions_yx"] - places).mean(0)
    np.testing.assert_allclose(places + offset, stored["reference_pixel_positions_yx"], atol=1e-3)
    good = stored["mask_good"] > 0
    np.testing.assert_array_equal(frames[3].usable, good)
    found, counts = predicted(frames, reference["object"], offset)
    images = correlations(found[:, good].double().numpy(), counts[:, good].numpy())
    assert np.median(images) > 0.98 and images.min() > 0.9
    # without a Fresnel number it follows from the cone beam
    names = {theirs: ours for theirs, ours in P25_NAMES.items() if ours != "fresnel_number"}
    (again, *_) = read_frames(
        folder / "p25_nearfield.npz", renamed=names, probe=folder / "reference_cdtools.npz"
    )
    assert again.geometry.fresnel_number == pytest.approx(geometry.fresnel_number, rel=1e-6)
    assert again.place == pytest.approx(tuple(-places[0]))
