"""Ptychographic scans from files: where things are looked for, and what is said when something is wrong."""

import logging

import h5py
import numpy as np
import pytest

from nfphasing_bluesky.core import FrameError, GeometryError, HologramGeometry, StorageError
from nfphasing_bluesky.storage.readers import read_frames

N, H, W = 6, 16, 16
RNG = np.random.default_rng(0)
PLACES = np.stack([np.repeat([0.0, 4.0], 3), np.tile([0.0, 3.5, 7.0], 2)], axis=1)
Y, X = np.mgrid[:H, :W] - 7.5
PROBE = (20 * np.exp(-(Y**2 + X**2) / 18) * np.exp(0.02j * Y**2)).astype(np.complex64)
EMPTY = np.fft.fftshift(np.abs(np.fft.fft2(PROBE, norm="ortho")) ** 2)
COUNTS = RNG.poisson(EMPTY, (N, H, W)).astype(np.int32)
FAR = {"wavelength_m": 1e-10, "distance_m": 2.0, "pixel_size_m": 75e-6}
PIXEL_M = 1e-10 * 2.0 / (H * 75e-6)


def write(path, arrays, **changes):
    arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                file[name] = value
    return path


SCAN = {"data": COUNTS, "positions_px": PLACES, "probe": PROBE}


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".cxi"])
def test_named_arrays_in_any_file(tmp_path, suffix):
    frames = read_frames(write(tmp_path / f"scan{suffix}", SCAN, **FAR))
    assert [frame.origin.seq_num for frame in frames] == [1, 2, 3, 4, 5, 6]
    assert frames[1].origin.label == f"scan{suffix} 2"
    assert [frame.place for frame in frames] == [tuple(p) for p in PLACES]
    geometry = frames[0].geometry
    assert geometry.centred and geometry.fresnel_number is None and geometry.wavelength_m == 1e-10
    assert geometry.pixel_size_m == pytest.approx(PIXEL_M)
    np.testing.assert_array_equal(geometry.probe, PROBE[None])
    np.testing.assert_array_equal(frames[2].intensity, COUNTS[2])


def cxi(path, *, energy=True):
    """A file as NXcxi_ptycho says."""
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 150
        entry = file.create_group("entry_1")
        detector = entry.create_group("instrument_1/detector_1")
        detector["data"] = COUNTS
        detector["distance"], detector["x_pixel_size"], detector["y_pixel_size"] = 2.0, 75e-6, 75e-6
        mask = np.zeros((H, W), np.uint32)
        mask[3, 5] = 0x100
        detector["mask"] = mask
        entry["data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
        # x, y, z
        metres = np.concatenate([PIXEL_M * PLACES[:, ::-1], np.zeros((N, 1))], axis=1)
        entry["sample_1/geometry_1/translation"] = metres
        source = entry.create_group("instrument_1/source_1")
        if energy:
            source["energy"] = 1.98644586e-25 / 1e-10
        source["illumination"] = PROBE[None, None]
    return path


def test_a_cxi_file(tmp_path):
    frames = read_frames(cxi(tmp_path / "scan.cxi"))
    np.testing.assert_allclose([frame.place for frame in frames], PLACES, atol=1e-9)
    assert frames[0].geometry.wavelength_m == pytest.approx(1e-10)
    assert frames[0].geometry.pixel_size_m == pytest.approx(PIXEL_M)
    assert not frames[4].usable[3, 5] and frames[4].usable.sum() == H * W - 1
    np.testing.assert_array_equal(frames[0].geometry.probe, PROBE[None])


def test_a_cxi_file_under_another_suffix_and_its_paths_renamed(tmp_path):
    path = cxi(tmp_path / "scan.h5", energy=False)
    with h5py.File(path, "a") as file:
        file["elsewhere/positions"] = PLACES
        file["elsewhere/lambda"] = 1e-10
    renamed = {"elsewhere/positions": "positions_px", "elsewhere/lambda": "wavelength_m"}
    frames = read_frames(path, renamed=renamed)
    assert [frame.place for frame in frames] == [tuple(p) for p in PLACES]
    with pytest.raises(GeometryError, match="object's pixel is not known"):
        read_frames(path)


def test_signs_and_lengths_of_positions(tmp_path):
    metres = PLACES * PIXEL_M
    path = write(tmp_path / "s.npz", SCAN, positions_px=None, positions_m=metres, positions_sign=-1, **FAR)
    np.testing.assert_allclose([f.place for f in read_frames(path)], -PLACES, atol=1e-9)
    found = [f.place for f in read_frames(path, positions_sign=(1, -1))]
    np.testing.assert_allclose(found, PLACES * [1, -1], atol=1e-9)
    known = write(tmp_path / "o.npz", SCAN, positions_px=None, positions_m=metres, object_pixel_m=PIXEL_M)
    np.testing.assert_allclose([f.place for f in read_frames(known)], PLACES, atol=1e-9)


def test_a_probe_of_its_own_file_and_of_another_scale(tmp_path, caplog):
    path = write(tmp_path / "scan.npz", SCAN, probe=None)
    other = write(tmp_path / "probe.npz", {"modes": np.stack([PROBE, 0.1 * PROBE])[None] / 16})
    with caplog.at_level(logging.WARNING):
        frames = read_frames(path, probe=other, renamed={"modes": "probe"})
    np.testing.assert_allclose(frames[0].geometry.probe, np.stack([PROBE, 0.1 * PROBE]), rtol=1e-6)
    assert "multiplied by 16" in caplog.text and "without norm" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        frames = read_frames(write(tmp_path / "dim.npz", SCAN, probe=0.5 * PROBE))
    light = np.square(np.abs(frames[0].geometry.probe)).sum()
    assert light == pytest.approx(np.median(COUNTS.sum((1, 2))), rel=1e-3)
    assert "is now 1 on average" in caplog.text


def test_a_beam_stop_leaves_the_probe_as_it_is(tmp_path):
    mask = EMPTY > 0.01 * EMPTY.max()
    frames = read_frames(write(tmp_path / "s.npz", SCAN, probe=0.1 * PROBE, mask=mask))
    np.testing.assert_array_equal(frames[0].geometry.probe[0], (0.1 * PROBE).astype(np.complex64))


def test_the_direct_beam_in_the_corner_is_seen(tmp_path, caplog):
    corner = np.fft.ifftshift(COUNTS, axes=(1, 2))
    with caplog.at_level(logging.WARNING):
        frames = read_frames(write(tmp_path / "s.npz", SCAN, data=corner))
    assert not frames[0].geometry.centred and "corner" in caplog.text
    np.testing.assert_array_equal(frames[0].intensity, corner[0])
    (told, *_) = read_frames(write(tmp_path / "t.npz", SCAN, data=corner, centred=1))
    assert told.geometry.centred


def test_masks_and_saturated_pixels(tmp_path):
    counts = COUNTS.astype(np.uint16)
    counts[2, 4, 4] = np.iinfo(np.uint16).max
    counts[3, 5, 5] = 60000
    good = np.ones((H, W), np.uint8)
    good[:, 0] = 0
    path = write(tmp_path / "s.npz", SCAN, data=counts, mask_good=good, saturation=50000)
    frames = read_frames(path)
    assert not frames[0].usable[:, 0].any() and frames[0].usable.sum() == H * (W - 1)
    assert not frames[2].usable[4, 4] and not frames[3].usable[5, 5] and frames[3].usable[4, 4]
    np.testing.assert_array_equal(frames[0].geometry.probe[0], PROBE)
    np.save(tmp_path / "mask.npy", np.eye(H))
    frames = read_frames(path, mask=tmp_path / "mask.npy")
    assert not frames[0].usable[7, 7]


def test_a_near_field_of_a_cone_beam(tmp_path):
    cone = {
        "wavelength_m": 9.794912e-11,
        "distance_m": 1.12,
        "pixel_size_m": 55e-6,
        "focus_to_sample_m": 3.65e-3,
    }
    frames = read_frames(write(tmp_path / "s.npz", SCAN, **cone))
    assert frames[0].geometry.fresnel_number == pytest.approx(0.0896, rel=1e-3)
    assert frames[0].geometry.pixel_size_m == pytest.approx(178.66e-9, rel=1e-4)


def test_a_hologram_stays_a_hologram(tmp_path):
    (frame,) = read_frames(write(tmp_path / "s.npz", {"data": COUNTS[0], "fresnel_number": 0.01}))
    assert isinstance(frame.geometry, HologramGeometry)


def test_a_bad_frame_fails_alone(tmp_path):
    counts, places = COUNTS.copy(), PLACES.copy()
    counts[1] = 0
    places[4, 0] = np.nan
    path = write(tmp_path / "s.npz", SCAN, data=counts, positions_px=places)
    failures = []
    frames = read_frames(path, on_failure=failures.append)
    assert [f.origin.seq_num for f in frames] == [1, 3, 4, 6]
    assert [f.origin.seq_num for f in failures] == [2, 5]
    assert "no photons" in failures[0].reason and "s.npz 2" in failures[0].reason
    assert "position_px" in failures[1].reason
    with pytest.raises(FrameError, match="no photons"):
        read_frames(path)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"positions_px": None}, GeometryError, "no positions, expected positions_px"),
        ({"positions_px": PLACES[:4]}, GeometryError, "4 positions in positions_px for 6 frames"),
        ({"positions_px": PLACES * 1e-9}, GeometryError, "check the unit"),
        ({"positions_px": PLACES * 1e3}, GeometryError, "pixels away"),
        ({"positions_px": np.ones((6, 3))}, GeometryError, "(N, 2)"),
        ({"positions_px": None, "translation_m": PLACES}, GeometryError, "object's pixel is not known"),
        ({"positions_sign": 2}, GeometryError, "+1 or -1"),
        ({"probe": None}, FrameError, "--probe FILE"),
        ({"probe": PROBE[:8]}, GeometryError, "does not match the frames (16, 16)"),
        ({"probe": np.abs(PROBE)}, GeometryError, "expected complex"),
        ({"probe": np.stack([PROBE, PROBE])[:, None]}, GeometryError, "one set of modes"),
        ({"mask": np.ones((3, 3))}, FrameError, "mask (3, 3)"),
        ({"mask": np.ones((H, W))}, FrameError, "every pixel is masked"),
        ({"background": np.ones((3, 3))}, FrameError, "background (3, 3)"),
        ({"background": np.full((H, W), -1.0)}, FrameError, "not negative"),
        ({"data": None}, FrameError, "no 'data'"),
        ({"wavelength_m": -1e-10}, GeometryError, "expected positive"),
        ({"focus_to_sample_m": 1e-3}, GeometryError, "near field with neither"),
        ({**FAR, "pixel_size_m": np.array([75e-6, 55e-6])}, GeometryError, "square pixels"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, error, words):
    path = write(tmp_path / "scan.npz", SCAN, **changes)
    with pytest.raises(error) as raised:
        read_frames(path)
    assert words in str(raised.value) and "scan.npz" in str(raised.value)


def test_a_probe_file_without_a_probe(tmp_path):
    path = write(tmp_path / "scan.npz", SCAN)
    with pytest.raises(StorageError, match="no such file of a probe"):
        read_frames(path, probe=tmp_path / "nothing.npz")
    with pytest.raises(StorageError, match="no 'probe'"):
        read_frames(path, probe=write(tmp_path / "p.npz", {"other": PROBE}))
