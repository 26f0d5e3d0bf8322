"""The scale of intensities and the contrast: from the file where it says them, else from the caller."""

import h5py
import numpy as np
import pytest

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.documents.units import per_cm
from nfphasing_bluesky.storage.readers import read_frames
from nfphasing_bluesky.storage.units import contrast_inv_cm2

Q = np.linspace(0.01, 0.3, 20)
CONTRAST = 9.4e10


@pytest.fixture
def text(tmp_path):
    """`text(header)`: a curve of three columns below a header."""

    def write(header=""):
        path = tmp_path / "curve.dat"
        np.savetxt(path, np.stack([Q, 5 * Q, Q], axis=1), header=header)
        return path

    return write


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("1/cm", 1),
        ("cm^-1", 1),
        ("cm-1", 1),
        ("1/(cm sr)", 1),
        ("cm^-1 sr^-1", 1),
        ("cm⁻¹", 1),
        ("1/cm/sr", 1),
    ]
    + [("1/m", 0.01), ("m^-1", 0.01), ("1/mm", 10), ("Counts", None), ("1/nm", None), ("", None)],
)
def test_spellings_of_units_of_intensity(unit, factor):
    assert per_cm(unit) == (None if factor is None else pytest.approx(factor))


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        ("q (1/A), I (1/cm), sigma", 1),
        ("Q [nm^-1]   I(Q) [cm^-1]   dI", 1),
        ("q (1/A) Intensity (1/m) error", 0.01),
        ("q I sigma\n1/A 1/cm 1/cm", 1),
        ("q,I,dI\nA^-1,cm^-1,cm^-1", 1),
        ("q (1/A), I, sigma", None),
        ("q (1/cm), I (a.u.), sigma", None),
        ("path length 1/cm", None),
    ],
)
def test_a_header_says_the_scale(text, header, factor):
    (frame,) = read_frames(text(header), q_unit="1/angstrom")
    assert frame.geometry.absolute == (factor is not None)
    np.testing.assert_allclose(frame.intensity, 5 * Q * (factor or 1))
    np.testing.assert_allclose(frame.sigma, Q * (factor or 1))


def test_the_caller_says_the_scale_and_the_contrast(text):
    (frame,) = read_frames(text(), intensity_unit="1/m", contrast_inv_cm2=CONTRAST)
    assert frame.geometry.absolute and frame.geometry.contrast_inv_cm2 == CONTRAST
    np.testing.assert_allclose(frame.intensity, 0.05 * Q)
    (frame,) = read_frames(text("q (1/A), I (1/cm), sigma"), intensity_unit="arbitrary")
    assert not frame.geometry.absolute
    (frame,) = read_frames(text("q (1/A), I (1/cm), sigma"), contrast_inv_cm2=CONTRAST)
    assert frame.geometry.absolute and frame.geometry.contrast_inv_cm2 == CONTRAST


def test_a_contrast_without_the_scale_is_refused(text, tmp_path):
    with pytest.raises(GeometryError, match=r"curve.dat: .*contrast.*9.4e\+10.*intensity_unit='1/cm'"):
        read_frames(text(), contrast_inv_cm2=CONTRAST)
    with pytest.raises(
        GeometryError, match="intensity_unit='furlong'.*expected 1/cm, 1/m, 1/mm or arbitrary"
    ):
        read_frames(text(), intensity_unit="furlong")
    for wrong in (0.0, np.nan, np.inf):
        with pytest.raises(GeometryError, match="contrast"):
            read_frames(text(), intensity_unit="1/cm", contrast_inv_cm2=wrong)
    axes = np.linspace(-0.1, 0.1, 16)
    scan = {"data": np.full((16, 16), 9), "qx_inv_angstrom": axes, "qy_inv_angstrom": axes}
    np.savez(tmp_path / "pattern.npz", **scan, contrast_inv_cm2=CONTRAST)
    with pytest.raises(GeometryError, match="pattern.npz: .*contrast"):
        read_frames(tmp_path / "pattern.npz")


def test_patterns_have_a_scale_and_a_contrast_too(tmp_path):
    axes = np.linspace(-0.1, 0.1, 16)
    scan = {"data": np.full((16, 16), 9), "qx_inv_angstrom": axes, "qy_inv_angstrom": axes}
    np.savez(tmp_path / "pattern.npz", **scan)
    with h5py.File(tmp_path / "pattern.h5", "w") as file:
        group = file.create_group("entry/data")
        group.attrs.update(canSAS_class="SASdata", signal="I")
        group["I"], group["Qx"], group["Qy"] = np.ones((16, 16)), *np.meshgrid(axes, axes)
        group["I"].attrs["units"], group["Qx"].attrs["units"] = "1/cm", "1/angstrom"
    (one,) = read_frames(tmp_path / "pattern.npz", intensity_unit="1/cm", contrast_inv_cm2=CONTRAST)
    (other,) = read_frames(tmp_path / "pattern.h5", contrast_inv_cm2=CONTRAST)
    for frame in (one, other):
        assert frame.geometry.absolute and frame.geometry.contrast_inv_cm2 == CONTRAST


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9.4e10 1/cm^2", 9.4e10),
        ("9.4e10/cm^2", 9.4e10),
        ("-9.4e10 cm^-2", -9.4e10),
        ("9.4e-6 1/angstrom^2", 9.4e10),
        ("9.4e-6 A^-2", 9.4e10),
        ("9.4e-4/nm^2", 9.4e10),
        ("0.1 e/angstrom^3", 2.8179403e10),
        ("0.1e/A^3", 2.8179403e10),
        ("100 e/nm^3", 2.8179403e10),
        ("100 e nm^-3", 2.8179403e10),
    ],
)
def test_a_contrast_has_its_unit(text, value):
    assert contrast_inv_cm2(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["9.4e10", "0.1 e/A^2", "9 1/cm^3", "much/cm^2", "", "0.1 1/A", "nan/cm^2"])
def test_what_is_no_contrast_is_refused(text):
    with pytest.raises(GeometryError, match="1/cm\\^2.*e/angstrom\\^3"):
        contrast_inv_cm2(text)
