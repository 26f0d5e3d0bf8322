"""2-D small-angle patterns on disk: what is said of their geometry, and what is missing."""

import h5py
import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Axis,
    DensityInfo,
    DetectorGeometry,
    Frame,
    FrameError,
    GeometryError,
    ModelInfo,
    Parameter,
    PlaneGeometry,
    Posterior,
    Prediction,
    ReconstructionSettings,
    Trust,
    Verdict,
    plane_of,
)
from nfphasing_bluesky.storage.nexus import write_posterior
from nfphasing_bluesky.storage.readers import read_frames

QX, QY = np.linspace(-0.1, 0.1, 12), np.linspace(-0.08, 0.08, 9)
COUNTS = np.arange(108, dtype=np.uint16).reshape(9, 12)
DETECTOR = {"wavelength_m": 1e-10, "distance_m": 2.0, "pixel_size_m": 2e-4, "beam_center_px": (4.0, 5.5)}


@pytest.fixture
def saved(tmp_path):
    def save(**arrays) -> str:
        path = tmp_path / "pattern.npz"
        np.savez(path, **arrays)
        return path

    return save


def test_counts_with_axes_of_q(saved):
    mask = np.zeros((9, 12), dtype=bool)
    mask[3] = True
    counts = COUNTS.copy()
    counts[0, 0] = 65535
    (frame,) = read_frames(saved(counts=counts, qx=QX, qy=QY, mask=mask), renamed={"counts": "data"})
    assert isinstance(frame.geometry, PlaneGeometry) and frame.sigma is None
    np.testing.assert_array_equal(frame.intensity, counts)
    qx, qy = frame.geometry.maps()
    np.testing.assert_array_equal(qx[2], QX)
    np.testing.assert_array_equal(qy[:, 5], QY)
    mask[0, 0] = True
    np.testing.assert_array_equal(frame.mask, mask)


def test_bad_pixels_are_said_or_show_themselves(saved, caplog):
    """`mask_good`, `saturation`, a plateau of the largest count, and gaps that are zero."""
    good = COUNTS % 5 > 0
    (frame,) = read_frames(saved(data=COUNTS, qx=QX, qy=QY, mask_good=good, saturation=100))
    np.testing.assert_array_equal(frame.usable, good & (COUNTS < 100))
    counts = np.minimum(5 * COUNTS, 490)
    counts[3:5] = 0
    (frame,) = read_frames(saved(data=counts, qx=QX, qy=QY))
    assert not frame.usable[3:5].any()
    np.testing.assert_array_equal(frame.usable[5:], counts[5:] < 490)
    assert "rows 3 to 4 never count" in caplog.text and "largest count, 490" in caplog.text
    # intensities are what somebody made of the counts
    (frame,) = read_frames(saved(data=counts, sigma=np.ones((9, 12)), qx=QX, qy=QY))
    assert frame.usable.all()


def test_a_stack_with_sigma_in_inverse_nanometres(saved):
    data = np.stack([COUNTS, COUNTS + 1]).astype(float)
    frames = read_frames(saved(data=data, sigma=data + 2, qx=10 * QX, qy=10 * QY), q_unit="1/nm")
    assert [f.origin.seq_num for f in frames] == [1, 2]
    np.testing.assert_array_equal(frames[1].sigma, COUNTS + 3)
    np.testing.assert_allclose(frames[1].geometry.qx_inv_angstrom, QX)


def test_counts_with_the_geometry_of_a_detector(saved, tmp_path):
    extra = tmp_path / "mask.npy"
    np.save(extra, COUNTS > 100)
    (frame,) = read_frames(saved(data=COUNTS, **DETECTOR), mask=extra)
    assert isinstance(frame.geometry, DetectorGeometry)
    assert frame.geometry.poni_m == pytest.approx((9e-4, 12e-4))
    np.testing.assert_array_equal(frame.mask, COUNTS > 100)


@pytest.mark.parametrize(
    ("arrays", "error", "said"),
    [
        ({"qx": QX, "qy": QY}, FrameError, "no 'data'.*--map theirs=data"),
        ({"data": COUNTS, "qx": QX}, GeometryError, "no qy"),
        ({"data": COUNTS, "qx": QX, "qy": QX}, FrameError, r"shape \(9, 12\), expected \(12, 12\)"),
        ({"data": COUNTS, "qx": 10 * QX, "qy": QY * 50}, GeometryError, "q reaches 4.*q_unit"),
        ({"data": COUNTS, "qx": QX * np.nan, "qy": QY}, GeometryError, "NaN"),
        ({"data": COUNTS, "qx": QX, "qy": QY, "mask": np.zeros((3, 3))}, FrameError, r"mask \(3, 3\)"),
        ({"data": COUNTS, "qx": QX, "qy": QY, "sigma": np.ones(4)}, FrameError, r"sigma \(4,\)"),
        ({"data": COUNTS[0], "qx": QX, "qy": QY}, FrameError, r"data has shape \(12,\)"),
        ({"data": COUNTS, "beam_center_px": (1, 2)}, GeometryError, "no wavelength_m, distance_m, pixel"),
        ({"data": COUNTS} | DETECTOR | {"beam_center_px": 3.0}, GeometryError, r"\[3.0\], expected 2"),
        ({"data": COUNTS} | DETECTOR | {"wavelength_m": -1.0}, GeometryError, "wavelength_m=-1.0"),
    ],
)
def test_what_is_missing_or_does_not_fit(saved, arrays, error, said):
    with pytest.raises(error, match=said):
        read_frames(saved(**arrays))


def test_nxcansas_patterns(examples):
    """As others wrote them: maps of q, errors, absolute units."""
    path = examples / "2d_data" / "33837rear_2D_1.75_16.5_NXcanSAS_v3.h5"
    (frame,) = read_frames(path)
    assert isinstance(frame.geometry, PlaneGeometry) and frame.geometry.absolute
    with h5py.File(path) as file:
        groups = []
        file.visititems(
            lambda _, item: groups.append(item) if "Qx" in getattr(item, "keys", list)() else None
        )
        np.testing.assert_array_equal(frame.intensity, groups[0]["I"][()])
        np.testing.assert_array_equal(frame.geometry.maps()[1], groups[0]["Qy"][()])
    assert frame.sigma is not None and np.median(frame.sigma[frame.sigma > 0]) > 0


@pytest.mark.parametrize(
    "known", [PlaneGeometry(QX, QY), DetectorGeometry(1e-10, 2.0, (2e-4, 2e-4), (9e-4, 0.0))]
)
def test_a_stored_reconstruction_gives_its_pattern_back(known, tmp_path):
    """As NXcanSAS, whichever geometry it came with; silx finds axes of q."""
    mask = COUNTS > 100
    frame = Frame(COUNTS, known, mask=mask)
    path = write_posterior(tmp_path / "made.h5", posterior(), frame, MODEL, ReconstructionSettings())
    (back,) = read_frames(path)
    plane = known if isinstance(known, PlaneGeometry) else plane_of(known, (9, 12))
    for ours, theirs in zip(back.geometry.maps(), plane.maps(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(back.intensity, COUNTS)
    np.testing.assert_array_equal(back.mask, mask)
    with h5py.File(path) as file:
        assert list(file["entry/data"].attrs["axes"]) == ["qy", "qx"]
        assert file["entry/prediction/qx"].shape == (12,)


def posterior() -> Posterior:
    axes = tuple(Axis(name, np.arange(4.0), "angstrom") for name in "yx")
    draws, shown = np.ones((3, 4, 4)), np.ones((9, 12))
    return Posterior(
        DensityInfo("projected density", "angstrom", axes),
        draws[0],
        draws[0],
        draws,
        {"phi_deg": np.arange(3.0)},
        {"phi_deg": "degree"},
        Prediction(shown, shown, shown),
        Trust(1.0, 0.5, 0.1, Verdict.VALID),
    )


MODEL = ModelInfo(
    "m", "saxs2d-oriented", "1", "0" * 64, posterior().density, (Parameter("phi_deg", "degree", "phi"),)
)
