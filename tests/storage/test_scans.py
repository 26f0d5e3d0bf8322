"""Holograms from files: named arrays, renamed ones, and what is said when something lacks."""

import fabio.edfimage
import fabio.tifimage
import h5py
import numpy as np
import pytest

from nfphasing_bluesky.core import FrameError, GeometryError, HologramGeometry, StorageError
from nfphasing_bluesky.storage.readers import read_frames

COUNTS = np.random.default_rng(0).poisson(100.0, (2, 9, 11))
OPTICS = {"fresnel_number": 0.01, "beta_over_delta": 0.02, "photons": 100}


def write(path, **arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                file[name] = value
    return path


def test_a_stack_of_counts(tmp_path):
    frames = read_frames(write(tmp_path / "scan.npz", data=COUNTS, **OPTICS))
    assert [frame.origin.seq_num for frame in frames] == [1, 2]
    assert frames[1].origin.label == "scan.npz 2"
    np.testing.assert_allclose(frames[1].intensity, COUNTS[1] / 100)
    np.testing.assert_allclose(frames[0].sigma, np.sqrt(COUNTS[0] + 1.0) / 100)
    assert frames[0].geometry.fresnel_number == 0.01 and frames[0].geometry.beta_over_delta == 0.02


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_other_names_are_mapped(tmp_path, suffix):
    path = write(tmp_path / f"scan{suffix}", counts=COUNTS[0], fr=0.03, photons=50)
    (frame,) = read_frames(path, renamed={"counts": "data", "fr": "fresnel_number"})
    assert frame.geometry.fresnel_number == 0.03
    np.testing.assert_allclose(frame.intensity, COUNTS[0] / 50)


def test_flat_and_mask(tmp_path):
    flat = np.full((9, 11), 200.0)
    flat[0, 0] = 0.0
    mask = np.zeros((9, 11), np.uint8)
    mask[4] = 1
    (frame,) = read_frames(
        write(tmp_path / "s.npz", data=COUNTS[0], flat=flat, mask=mask, fresnel_number=0.01)
    )
    assert not frame.usable[0, 0] and not frame.usable[4].any() and frame.usable.sum() == 99 - 12
    np.testing.assert_allclose(frame.intensity[1], COUNTS[0, 1] / 200)


FLATS, DARK = np.stack([np.full((9, 11), level) for level in (200.0, 200.0, 230.0)]), np.full((9, 11), 10.0)


def test_an_hdf5_file_needs_no_map(tmp_path):
    (frame,) = read_frames(write(tmp_path / "scan.h5", data=COUNTS[0], **OPTICS))
    np.testing.assert_allclose(frame.intensity, COUNTS[0] / 100)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".tif", ".edf"])
def test_flats_are_averaged_and_the_dark_image_is_subtracted(tmp_path, suffix):
    """Arrays of one file, or images of their own with the geometry beside them."""
    if suffix in (".npz", ".h5"):
        path = write(tmp_path / f"s{suffix}", data=COUNTS[1], flat=FLATS, dark=DARK, fresnel_number=0.01)
        (frame,) = read_frames(path)
    else:
        kind = {".tif": fabio.tifimage.TifImage, ".edf": fabio.edfimage.EdfImage}[suffix]
        path = tmp_path / f"image{suffix}"
        kind(COUNTS[1].astype(np.uint16)).write(str(path))
        np.save(tmp_path / "flats.npy", FLATS)
        kind(DARK.astype(np.float32)).write(str(tmp_path / f"dark{suffix}"))
        (frame,) = read_frames(
            path,
            geometry=HologramGeometry(0.01),
            flat=tmp_path / "flats.npy",
            dark=tmp_path / f"dark{suffix}",
        )
    assert frame.geometry == HologramGeometry(0.01)
    np.testing.assert_allclose(frame.intensity, (COUNTS[1] - 10) / 200)
    np.testing.assert_allclose(frame.sigma, np.sqrt(COUNTS[1] + 1) / 200, rtol=1e-6)


def test_a_sigma_of_the_file_is_that_of_its_data(tmp_path):
    sigma = np.full((9, 11), 0.02)
    sigma[2, 3] = np.nan
    normalised = write(tmp_path / "one.npz", data=COUNTS / 100, sigma=sigma, fresnel_number=0.01)
    counted = write(tmp_path / "two.npz", data=COUNTS, sigma=np.stack([100 * sigma] * 2), **OPTICS)
    for path in (normalised, counted):
        for frame, counts in zip(read_frames(path), COUNTS, strict=True):
            np.testing.assert_allclose(frame.intensity, counts / 100)
            np.testing.assert_allclose(frame.sigma, sigma)
            assert not frame.usable[2, 3]


BAD = np.zeros((9, 11), bool)
BAD[4, 2:] = True


@pytest.mark.parametrize(
    ("arrays", "option"),
    [
        ({"mask": BAD}, None),
        ({"mask": np.stack([BAD & (np.arange(11) < 6), BAD & (np.arange(11) > 4)]).astype(np.uint8)}, None),
        ({"mask_good": ~BAD}, None),
        ({}, BAD),
        ({"mask": BAD & (np.arange(11) < 6)}, BAD & (np.arange(11) > 4)),
    ],
)
def test_masks_of_every_kind_count(tmp_path, arrays, option):
    path = write(tmp_path / "scan.npz", data=COUNTS, **OPTICS, **arrays)
    for frame in read_frames(path, mask=option):
        np.testing.assert_array_equal(frame.usable, ~BAD)


def test_saturated_pixels_are_left_out(tmp_path, caplog):
    """Said, or seen by the counts that many pixels share and none exceeds."""
    top = float(np.sort(COUNTS[0], axis=None)[-12])
    clipped = np.minimum(COUNTS[0], top)
    said = write(tmp_path / "said.npz", data=COUNTS[0], saturation=top, **OPTICS)
    seen = write(tmp_path / "seen.npz", data=clipped, **OPTICS)
    for path in (said, seen):
        (frame,) = read_frames(path)
        np.testing.assert_array_equal(frame.usable, COUNTS[0] < top)
    assert f"have the largest count, {top:g}" in caplog.text and "seen.npz" in caplog.text


def test_lines_of_zeros_are_a_gap(tmp_path, caplog):
    counts = COUNTS.copy()
    counts[:, :, 7] = 0
    frames = read_frames(write(tmp_path / "scan.npz", data=counts, **OPTICS))
    for frame in frames:
        assert not frame.usable[:, 7].any() and frame.usable.sum() == 90
    assert caplog.text.count("column 7 never count") == 1


def test_a_cone_beam_in_metres(tmp_path):
    lengths = {"wavelength_m": 9.794912e-11, "distance_m": 1.12, "pixel_size_m": 55e-6}
    path = write(tmp_path / "s.npz", data=COUNTS[0], focus_to_sample_m=3.65e-3, **lengths)
    (frame,) = read_frames(path)
    assert frame.geometry.fresnel_number == pytest.approx(0.0896, rel=1e-3)
    assert frame.geometry.wavelength_m == lengths["wavelength_m"]


@pytest.mark.parametrize(
    ("arrays", "renamed", "error", "words"),
    [
        ({"counts": COUNTS[0], **OPTICS}, None, FrameError, "--map theirs=data"),
        ({"data": COUNTS[0], "wavelength_m": 1e-10}, None, GeometryError, "pixel_size_m"),
        ({"data": COUNTS[0], **OPTICS}, {"nothing": "mask"}, StorageError, "no 'nothing'"),
        ({"data": COUNTS[0], **OPTICS, "extra": 1}, {"extra": "telepathy"}, StorageError, "telepathy"),
        ({"data": COUNTS[0], **OPTICS, "mask": np.ones((3, 3))}, None, FrameError, "mask (3, 3)"),
        ({"data": COUNTS, **OPTICS, "sigma": np.ones(4)}, None, FrameError, "sigma (4,)"),
        ({"data": COUNTS, **OPTICS, "flat": np.ones((2, 3, 3))}, None, FrameError, "flat (2, 3, 3)"),
        ({"data": COUNTS, **OPTICS, "flat": FLATS, "dark": DARK + 1e3}, None, FrameError, "dark"),
        ({"data": np.ones(5), **OPTICS}, None, FrameError, "(5,)"),
        ({"data": COUNTS[0], "fresnel_number": np.ones(3)}, None, StorageError, "one number"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, arrays, renamed, error, words):
    path = write(tmp_path / "scan.npz", **arrays)
    with pytest.raises(error) as raised:
        read_frames(path, renamed=renamed)
    assert words in str(raised.value)


def test_a_file_cut_short(tmp_path):
    path = write(tmp_path / "scan.npz", data=COUNTS, **OPTICS)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StorageError, match="cut short"):
        read_frames(path)
